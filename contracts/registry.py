"""Who may send transactions: accounts and meters with their keys and roles, as genesis names them.

Validators send transactions, too, but who they are changes: see :mod:`contracts.epochs`.
"""

from __future__ import annotations

from dataclasses import dataclass

from contracts.genesis import Genesis, Role
from contracts.records import name_key


@dataclass(frozen=True, slots=True)
class Sender:
    """One holder of a key.

    Attributes:
        name: account, meter or validator id.
        key: of its record within its table.
        public_key: Ed25519 key that its envelopes must carry.
        is_meter: whether it is a meter.
        account: the account itself, or the one that the meter counts or the validator works for.
        role: of that account.
        fuse_w: rating of the meter's fuse; 0 for others.
        is_validator: whether it is a validator (neither: an account).
    """

    name: str
    key: bytes
    public_key: bytes
    is_meter: bool
    account: str
    role: Role
    fuse_w: int = 0
    is_validator: bool = False


class Registry:
    """Senders by name. All lists are sorted by name, so that everybody walks them alike."""

    def __init__(self, genesis: Genesis) -> None:
        roles = {participant.account: participant.role for participant in genesis.participants}
        senders = [
            Sender(part.account, name_key(part.account), bytes.fromhex(part.public_key), False, part.account, part.role)
            for part in genesis.participants
        ]
        meters = [
            Sender(part.meter, name_key(part.meter), bytes.fromhex(part.public_key), True, part.account, roles[part.account], part.fuse_w)
            for part in genesis.meters
        ]
        self.accounts: tuple[Sender, ...] = tuple(sorted(senders, key=_name_of))
        self.meters: tuple[Sender, ...] = tuple(sorted(meters, key=_name_of))
        self.senders: dict[str, Sender] = {sender.name: sender for sender in (*self.accounts, *self.meters)}
        self.account_numbers: dict[str, int] = {sender.name: number for number, sender in enumerate(self.accounts)}

    def account(self, name: str) -> Sender | None:
        """Return the account of that name."""
        sender = self.senders.get(name)
        return sender if sender is not None and not sender.is_meter else None

    def meter(self, name: str) -> Sender | None:
        """Return the meter of that name."""
        sender = self.senders.get(name)
        return sender if sender is not None and sender.is_meter else None


def _name_of(sender: Sender) -> str:
    return sender.name
