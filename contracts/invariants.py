"""What must hold after every block, checked in the size of the block's changes; and in full, for totals and audits."""

from __future__ import annotations

from collections.abc import Sequence

from consensus.errors import InvariantViolation
from consensus.quorum import MIN_REPLICAS
from contracts.events import AnyEvent, DebtRecorded
from contracts.genesis import GRID, MAX_VALIDATORS
from contracts.ledger import Ledger, present
from contracts.records import Account, Epoch, epoch_key, name_key


def check_block(ledger: Ledger, events: Sequence[AnyEvent]) -> None:
    """Check this block's changes: money conserved, deposits covered, nobody in debt but by a settlement, validator sets sound.

    Raises:
        InvariantViolation: names the rule that is broken.
    """
    indebted = {name_key(event.account) for event in events if isinstance(event, DebtRecorded)}
    money = locked = 0
    for key, old, new in ledger.state.accounts.changed():
        before, after = present(old, "account before the block"), present(new, "account after the block")
        money += _worth(after) - _worth(before)
        locked += after.locked_micro - before.locked_micro
        if after.locked_micro < 0:
            raise InvariantViolation(f"account {key.decode()} has {after.locked_micro} micro locked")
        if after.balance_micro < min(0, before.balance_micro) and key != name_key(GRID) and key not in indebted:
            raise InvariantViolation(f"account {key.decode()} has {after.balance_micro} micro free without a settlement")
    if money:
        raise InvariantViolation(f"the block changes the sum of money by {money} micro")
    for _, old_position, new_position in ledger.state.positions.changed():
        locked -= (new_position.locked_micro if new_position else 0) - (old_position.locked_micro if old_position else 0)
    if locked:
        raise InvariantViolation(f"deposits and orders differ by {locked} micro")
    for key, old_epoch, epoch in ledger.state.epochs.changed():
        if old_epoch is not None or epoch is None:
            raise InvariantViolation(f"epoch {int.from_bytes(key, 'big')} is known and does not change")
        _check_epoch(ledger, epoch)


def _check_epoch(ledger: Ledger, epoch: Epoch) -> None:
    """Check a validator set that this block announces: numbered on, later than the one before and than a window from now, members sound."""
    before = present(ledger.state.epochs.get(epoch_key(epoch.number - 1)), f"epoch {epoch.number - 1}") if epoch.number else None
    if before is None or epoch.number >= ledger.progress.epochs:
        raise InvariantViolation(f"epoch {epoch.number} is announced, {ledger.progress.epochs} are counted")
    if epoch.decided not in (before.decided, epoch.number):
        raise InvariantViolation(f"epoch {epoch.number} has the members of epoch {epoch.decided}, that before it of {before.decided}")
    if epoch.first_height <= max(before.first_height, ledger.next_height + ledger.genesis.consensus.window):
        raise InvariantViolation(f"epoch {epoch.number} begins at {epoch.first_height}, announced in block {ledger.next_height}")
    names = dict.fromkeys(member.name for member in epoch.members)
    keys = dict.fromkeys(member.public_key for member in epoch.members)
    if not len(names) == len(keys) == len(epoch.members) or not MIN_REPLICAS <= len(names) <= MAX_VALIDATORS:
        raise InvariantViolation(f"epoch {epoch.number} has {len(epoch.members)} members, {len(names)} names, {len(keys)} keys")
    for member in epoch.members:
        if member.name in ledger.registry.senders or ledger.registry.account(member.account) is None:
            raise InvariantViolation(f"epoch {epoch.number}: {member.name} cannot be a validator for account {member.account}")


def money_micro(ledger: Ledger) -> int:
    """Return the sum over all accounts, free and locked."""
    return sum(_worth(account) for _, account in ledger.state.accounts.scan())


def energy_is_balanced(ledger: Ledger) -> bool:
    """Tell whether all energy that left the registers was billed, as performed trades or with the grid."""
    progress = ledger.progress
    imported = exported = 0
    for _, meter in ledger.state.meters.scan():
        imported += meter.settled_import_wh - meter.base_import_wh
        exported += meter.settled_export_wh - meter.base_export_wh
    return (
        (imported, exported)
        == (progress.import_wh, progress.export_wh)
        == (
            progress.traded_wh + progress.grid_bought_wh,
            progress.traded_wh + progress.grid_sold_wh,
        )
    )


def _worth(account: Account) -> int:
    return account.balance_micro + account.locked_micro
