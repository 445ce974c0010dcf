"""What the committed ledger answers about validators: sets, members, open votes, offences. Every answer is bounded."""

from __future__ import annotations

from itertools import islice

from contracts.events import Member
from contracts.evidence import kind_name
from contracts.governance import approvals_needed
from contracts.ledger import Ledger
from contracts.records import MARKET_KEY, Epoch, epoch_key, name_key, offence_key, offence_position, offence_prefix
from contracts.views import ChangeView, EpochView, OffenceView, ValidatorView
from contracts.window import is_spent

MAX_LIST = 1_000


class ValidatorsView:
    """Questions to the committed state of one channel, about its validators.

    Args:
        ledger: over the committed state.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def epoch(self, number: int | None = None) -> EpochView | None:
        """Return one validator set.

        Args:
            number: of the epoch; None: the present one.
        """
        if self._is_empty:
            return None
        present = self._ledger.epoch_at(self._ledger.next_height)
        found = (self._shown(present, present),) if number is None else self.epochs(number, 1)
        return found[0] if found and number in (None, found[0].number) else None

    def epochs(self, first: int = 0, limit: int | None = 100) -> tuple[EpochView, ...]:
        """Return validator sets by rising number, from ``first`` on; the last ones may be announced only.

        Args:
            limit: how many at most; None: all.
        """
        if self._is_empty:
            return ()
        present, latest = self._ledger.epoch_at(self._ledger.next_height), self._ledger.latest_committed_epoch
        start, stop = max(0, first), latest.number + 1
        numbers = range(start, stop if limit is None else min(start + _bound(limit), stop))
        found = (self._ledger.state.epochs.committed(epoch_key(number)) for number in numbers)
        return tuple(self._shown(epoch, present) for epoch in found if epoch is not None)

    def validator(self, name: str) -> ValidatorView | None:
        """Return one validator, also one that was removed."""
        record = self._ledger.state.validators.committed(name_key(name))
        if record is None or self._is_empty:
            return None
        voting = _find(self._ledger.epoch_at(self._ledger.next_height), name)
        latest = _find(self._ledger.latest_committed_epoch, name)
        shown = voting or latest or Member(name, "", "")
        return ValidatorView(
            validator=name,
            is_voting=voting is not None,
            is_member=latest is not None,
            public_key=shown.public_key,
            account=shown.account,
            host=shown.host,
            port=shown.port,
            log=shown.log,
            next_nonce=record.nonces.highest + 1,
            open_votes=record.open_votes,
            offences=record.offences,
        )

    def all(self, after: str = "", limit: int = 100) -> tuple[ValidatorView, ...]:
        """Return validators of all sets whose name comes after ``after``, by name."""
        names = (key.decode() for key, _ in self._ledger.state.validators.scan_committed())
        found = islice((name for name in names if name > after), _bound(limit))
        return tuple(view for view in map(self.validator, found) if view is not None)

    def open_changes(self, after: str = "", limit: int = 100) -> tuple[ChangeView, ...]:
        """Return changes that are not decided and whose digest comes after ``after``, by digest."""
        if self._is_empty:
            return ()
        needed = approvals_needed(self._ledger.genesis, len(self._ledger.latest_committed_epoch.members))
        changes = ((key.hex(), change) for key, change in self._ledger.state.changes.scan_committed())
        return tuple(
            ChangeView(digest, change.epoch, change.action, change.member, change.approvals, needed)
            for digest, change in islice((one for one in changes if one[0] > after), _bound(limit))
        )

    def offences(self, validator: str, offset: int = 0, limit: int = 100) -> tuple[OffenceView, ...]:
        """Return a validator's proven double signings by place, from the ``offset``-th on."""
        first = max(0, offset)
        found = []
        for key, offence in islice(self._ledger.state.offences.scan_committed(offence_prefix(validator)), first, first + _bound(limit)):
            epoch, kind, view, sequence = offence_position(key)
            found.append(OffenceView(validator, epoch, kind_name(kind), view, sequence, offence.report.hex(), offence.reporter))
        return tuple(found)

    def has_offence(self, validator: str, epoch: int, kind: int, view: int, sequence: int) -> bool:
        """Tell whether this double signing is recorded."""
        return self._ledger.state.offences.committed(offence_key(validator, epoch, kind, view, sequence)) is not None

    def is_spent(self, validator: str, nonce: int) -> bool:
        """Tell whether a validator can use this number no more."""
        record = self._ledger.state.validators.committed(name_key(validator))
        return record is not None and is_spent(record.nonces, nonce)

    @property
    def _is_empty(self) -> bool:
        """Whether genesis is not committed yet."""
        return self._ledger.state.market.committed(MARKET_KEY) is None

    def _shown(self, epoch: Epoch, present: Epoch) -> EpochView:
        state = "present" if epoch.number == present.number else "past" if epoch.number < present.number else "announced"
        needed = approvals_needed(self._ledger.genesis, len(epoch.members))
        return EpochView(epoch.number, epoch.first_height, state, needed, epoch.members)


def _find(epoch: Epoch, name: str) -> Member | None:
    return next((member for member in epoch.members if member.name == name), None)


def _bound(limit: int) -> int:
    return max(1, min(limit, MAX_LIST))
