"""Validators over HTTP: the proofs of their epochs, who they are, what they vote on, what they did wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from consensus.validators import decode_epoch_change
from contracts.validator_queries import MAX_LIST
from contracts.views import OffenceView
from node.http.call import Call
from node.http.errors import not_found
from node.http.views import EpochsView, ValidatorDetailView, ValidatorSetsView, next_name, proven_epoch_view


async def get_epochs(call: Call) -> object:
    """Return the proofs of validator sets by rising epoch; each is checked with the set before it, the first with that of genesis."""
    after, limit = call.query("after", 0), call.page(call.api.limits.max_page)
    return await asyncio.to_thread(_epochs, call.channel.epoch_changes, after, limit)


def _epochs(changes: Callable[[], tuple[bytes, ...]], after: int, limit: int) -> EpochsView:
    """Read and show one page; there may be many, so call it in a thread."""
    stored = changes()
    page = tuple(proven_epoch_view(decode_epoch_change(raw), raw) for raw in stored[after : after + limit])
    return EpochsView(page, after + len(page) if after + len(page) < len(stored) else 0)


async def get_validators(call: Call) -> object:
    """Return the present and all announced validator sets, open votes on changes, and validators of all sets by name."""
    view, limit = call.channel.application.view.validators, call.page(call.api.limits.max_page)
    present = view.epoch()
    if present is None:
        raise not_found("validator set")
    validators = view.all(call.optional_name("after"), limit)
    offences: list[OffenceView] = []
    for validator in validators:
        if validator.offences and len(offences) < limit:
            offences += view.offences(validator.validator, 0, limit - len(offences))
    return ValidatorSetsView(
        present=present,
        announced=view.epochs(present.number + 1, None),
        changes=view.open_changes("", MAX_LIST),
        validators=validators,
        offences=tuple(offences),
        next_after=next_name([validator.validator for validator in validators], limit),
    )


async def get_validator(call: Call) -> object:
    """Return one validator, also a former one, with its proven double signings."""
    name, view = call.name("validator"), call.channel.application.view.validators
    limit, offset = call.page(call.api.limits.max_page), call.query("offset", 0)
    validator = view.validator(name)
    if validator is None:
        raise not_found(f"validator {name}")
    return ValidatorDetailView(**msgspec.structs.asdict(validator), proven=view.offences(name, offset, limit))


async def get_evidence(call: Call) -> object:
    """Return double signing that this node saw, newest last, and whether it is on the ledger."""
    limit, offset = call.page(call.api.limits.max_page), call.query("offset", 0)
    entries = call.channel.evidence()[offset : offset + limit]
    places = _recorded(call, sorted({str(entry["validator"]) for entry in entries}))
    return {"evidence": [{**entry, "on_ledger": _place(entry) in places} for entry in entries]}


def _recorded(call: Call, names: Sequence[str]) -> set[tuple[object, ...]]:
    """Return the places at which these validators double signed, as the ledger has them."""
    view = call.channel.application.view.validators
    found = (offence for name in names for offence in view.offences(name, 0, MAX_LIST))
    return {(offence.validator, offence.epoch, offence.kind, offence.view, offence.sequence) for offence in found}


def _place(entry: dict[str, object]) -> tuple[object, ...]:
    return tuple(entry[part] for part in ("validator", "epoch", "kind", "view", "sequence"))
