"""What nodes send beside consensus messages: transactions, as frames of a real link carry them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Share:
    """Here are transactions (raw)."""

    raws: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Please send these transactions (ids)."""

    ids: tuple[bytes, ...]
