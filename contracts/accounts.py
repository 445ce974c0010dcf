"""Double-entry accounts: whatever one account gives, another gets, the same integer.

Law.

1. Money is made at genesis and never after: the sum over all accounts, free and locked, does not change.
2. A member's free balance never falls below zero by a call. At settlement it may: then the account is in debt until money comes in.
   Only the grid company's account may be negative at any time.
3. Locked money is still the account's own; deposits move between its two pockets.

Nonces. Each sender numbers its transactions from 1; a number counts once, in any order, if it is less than 1024 behind or at most 1024
ahead of the highest one spent (:mod:`contracts.window`). A transaction with a spent or too distant nonce has no effect at all.
"""

from __future__ import annotations

from consensus.application import Verdict
from contracts.calls import Transfer
from contracts.events import Transferred
from contracts.ledger import Ledger, Outcome, present
from contracts.records import Account
from contracts.registry import Sender


def balance_of(ledger: Ledger, account: Sender) -> Account:
    """Return the account's record as this block sees it."""
    return present(ledger.state.accounts.get(account.key), f"account {account.name}")


def post(ledger: Ledger, payer: Sender, payee: Sender, amount_micro: int) -> None:
    """Move free money; the caller has checked what must be checked (settlement may drive the payer into debt)."""
    if payer is payee:
        return
    table = ledger.state.accounts
    giver, taker = balance_of(ledger, payer), balance_of(ledger, payee)
    table.put(payer.key, Account(giver.balance_micro - amount_micro, giver.locked_micro, giver.nonces))
    table.put(payee.key, Account(taker.balance_micro + amount_micro, taker.locked_micro, taker.nonces))


def lock(ledger: Ledger, account: Sender, amount_micro: int) -> None:
    """Hold back free money (negative: set it free again); the caller has checked that it is there."""
    record = balance_of(ledger, account)
    ledger.state.accounts.put(account.key, Account(record.balance_micro - amount_micro, record.locked_micro + amount_micro, record.nonces))


def check_transfer(ledger: Ledger, payer: Sender, call: Transfer, balance_micro: int) -> Verdict:
    """Tell whether a transfer may be made with ``balance_micro`` free."""
    if ledger.registry.account(call.to) is None:
        return Verdict("NO_SUCH_ACCOUNT", f"to: there is no account {call.to}")
    if call.to == payer.name:
        return Verdict("SAME_ACCOUNT", "to: a transfer goes to another account")
    if balance_micro < call.amount_micro:
        return Verdict("INSUFFICIENT_FUNDS", f"amount_micro: {call.amount_micro} asked, {balance_micro} free")
    return Verdict()


def transfer(ledger: Ledger, payer: Sender, call: Transfer) -> Outcome:
    """Move money on a member's order."""
    verdict = check_transfer(ledger, payer, call, balance_of(ledger, payer).balance_micro)
    if not verdict.ok:
        return verdict
    post(ledger, payer, ledger.registry.senders[call.to], call.amount_micro)
    return (Transferred(payer.name, call.to, call.amount_micro),)
