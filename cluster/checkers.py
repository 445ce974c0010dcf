"""Holds what the nodes stored against what the clients saw. Pure functions over collected data; each can be given a planted fault.

| check | what it finds |
| --- | --- |
| :func:`find_lost` | an acknowledged transaction that is in no block of some node |
| :func:`find_duplicated` | a transaction that is in the chain of a node more than once |
| :func:`find_foreign` | a transaction in a chain that nobody has sent |
| :func:`find_forks` | two different blocks at one height, or a broken hash link |
| :func:`find_wrong_balances` | an account whose balance is not the effect of the executed transfers: one counted twice, or not at all |
| :func:`heads_agree` | whether all nodes have the same height, head hash and state root |
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from cluster.history import Payment

OK = "OK"


class StoredBlock(NamedTuple):
    """One block as a node shows it.

    Attributes:
        height: its place.
        hash, previous_hash: of its header and its predecessor's, hex.
        state_root: state after it, hex.
        transactions: ids in order.
        codes: results in the same order; empty if they were not asked for.
        readings: meter and sequence number of the readings that it accepted; empty if results were not asked for.
        by_validators: transactions that nodes sent in their own name (a seat renewed, double signing reported), as far as results were
            asked for.
    """

    height: int
    hash: str
    previous_hash: str
    state_root: str
    transactions: tuple[bytes, ...]
    codes: tuple[str, ...] = ()
    readings: tuple[tuple[str, int], ...] = ()
    by_validators: frozenset[bytes] = frozenset()


class StoredChain(NamedTuple):
    """All blocks of one node from the first that it keeps on, and balances of the accounts under test (micro, free plus locked)."""

    node: str
    blocks: tuple[StoredBlock, ...]
    balances: Mapping[str, int]


class Fork(NamedTuple):
    """Different hashes at one height, by node."""

    height: int
    hashes: Mapping[str, str]


class WrongBalance(NamedTuple):
    """A balance that differs from the effect of what the chain executed."""

    node: str
    account: str
    expected_micro: int
    found_micro: int


class Findings(NamedTuple):
    """Everything that the checks found."""

    lost: frozenset[bytes]
    duplicated: frozenset[bytes]
    foreign: frozenset[bytes]
    forks: tuple[Fork, ...]
    wrong_balances: tuple[WrongBalance, ...]
    agree: bool

    @property
    def duplicated_count(self) -> int:
        """Transactions in a chain twice, and balances that a double or missing execution would explain."""
        return len(self.duplicated) + len(self.wrong_balances)

    @property
    def good(self) -> bool:
        """Whether nothing was found."""
        return self.agree and not (self.lost or self.duplicated or self.foreign or self.forks or self.wrong_balances)


def check_chains(
    chains: Sequence[StoredChain],
    *,
    acknowledged: Collection[bytes],
    sent: Collection[bytes],
    payments: Mapping[bytes, Payment],
    opening_balances: Mapping[str, int],
) -> Findings:
    """Run all checks.

    Args:
        chains: what every node stores.
        acknowledged: ids that some node answered OK for.
        sent: ids that clients sent at all.
        payments: what each sent transfer moves.
        opening_balances: balances at genesis of the accounts under test, micro.
    """
    return Findings(
        find_lost(chains, acknowledged),
        find_duplicated(chains),
        find_foreign(chains, sent),
        find_forks(chains),
        find_wrong_balances(chains, payments, opening_balances),
        heads_agree(chains),
    )


def with_codes(chains: Sequence[StoredChain]) -> list[StoredChain]:
    """Return the chains with the results that the first one shows: blocks with equal hashes have equal results."""
    known = {block.hash: block.codes for block in chains[0].blocks} if chains else {}
    return [
        chain._replace(blocks=tuple(block._replace(codes=block.codes or known.get(block.hash, ())) for block in chain.blocks))
        for chain in chains
    ]


def find_lost(chains: Sequence[StoredChain], acknowledged: Collection[bytes]) -> frozenset[bytes]:
    """Return acknowledged ids that at least one node has in no block."""
    lost: set[bytes] = set()
    for chain in chains:
        present = {transaction for block in chain.blocks for transaction in block.transactions}
        lost.update(transaction for transaction in acknowledged if transaction not in present)
    return frozenset(lost)


def find_duplicated(chains: Sequence[StoredChain]) -> frozenset[bytes]:
    """Return ids that stand in one node's chain more than once."""
    twice: set[bytes] = set()
    for chain in chains:
        counts = Counter(transaction for block in chain.blocks for transaction in block.transactions)
        twice.update(transaction for transaction, count in counts.items() if count > 1)
    return frozenset(twice)


def find_foreign(chains: Sequence[StoredChain], sent: Collection[bytes]) -> frozenset[bytes]:
    """Return ids in a chain that nobody has sent; what nodes sent in their own name is not foreign."""
    known, found = frozenset(sent), frozenset[bytes]()
    for chain in chains:
        for block in chain.blocks:
            found |= frozenset(block.transactions) - known - block.by_validators
    return found


def find_forks(chains: Sequence[StoredChain]) -> tuple[Fork, ...]:
    """Return heights at which nodes hold different blocks, or at which one node's block does not follow its own predecessor."""
    by_height: dict[int, dict[str, str]] = {}
    forks: dict[int, Fork] = {}
    for chain in chains:
        for before, block in zip((None, *chain.blocks), chain.blocks, strict=False):
            by_height.setdefault(block.height, {})[chain.node] = block.hash
            follows = before is None or (block.previous_hash == before.hash and block.height == before.height + 1)
            if not follows:
                forks[block.height] = Fork(block.height, {chain.node: block.hash})
    for height, hashes in by_height.items():
        if len(set(hashes.values())) > 1:
            forks[height] = Fork(height, hashes)
    return tuple(forks[height] for height in sorted(forks))


def find_wrong_balances(
    chains: Sequence[StoredChain], payments: Mapping[bytes, Payment], opening_balances: Mapping[str, int]
) -> tuple[WrongBalance, ...]:
    """Return accounts whose balance is not the opening one plus the effect of each executed transfer, counted once.

    A chain whose results were not asked for is held against all transfers that it contains.
    """
    wrong: list[WrongBalance] = []
    for chain in chains:
        expected = dict(opening_balances)
        for transaction in _executed(chain):
            payment = payments.get(transaction)
            if payment is None:
                continue
            if payment.payer in expected:
                expected[payment.payer] -= payment.amount_micro
            if payment.payee in expected:
                expected[payment.payee] += payment.amount_micro
        wrong.extend(
            WrongBalance(chain.node, account, amount, chain.balances.get(account, 0))
            for account, amount in expected.items()
            if chain.balances.get(account, 0) != amount
        )
    return tuple(wrong)


def _executed(chain: StoredChain) -> dict[bytes, None]:
    """Return the ids that executed with code OK, each once, in order."""
    executed: dict[bytes, None] = {}
    for block in chain.blocks:
        codes = block.codes or (OK,) * len(block.transactions)
        executed.update((transaction, None) for transaction, code in zip(block.transactions, codes, strict=False) if code == OK)
    return executed


def heads_agree(chains: Sequence[StoredChain]) -> bool:
    """Tell whether all nodes have the same height, head hash and state root."""
    heads = {
        (chain.blocks[-1].height, chain.blocks[-1].hash, chain.blocks[-1].state_root) if chain.blocks else (0, "", "") for chain in chains
    }
    return len(heads) == 1


def percentile(rising: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` (0 to 1) of the values do not exceed; 0 of nothing."""
    if not rising:
        return 0.0
    rank = -(-share * len(rising) // 1)
    return rising[min(len(rising), max(1, int(rank))) - 1]
