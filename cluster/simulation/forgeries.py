"""Forged values: what a Byzantine node can make up, given what it has seen."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cluster.simulation.dice import Dice
from cluster.simulation.world import GENESIS_MS
from consensus.block import NULL_BATCH, Batch, Block, Certificate, CertificateVote, CertifiedBlock, Header, make_header
from consensus.codec import encode
from consensus.messages import PreparedProof, ViewChangeBody, Vote
from consensus.snapshot import Chunk, SnapshotManifest, make_snapshot
from contracts.records import Account

SNAPSHOT_DEPTH = 1


def flipped(data: bytes, chance: Dice) -> bytes:
    """Return ``data`` with one byte changed."""
    if not data:
        return b"\x00"
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ chance.randrange(1, 256)]) + data[place + 1 :]


def bad_batches(good: Batch, old: Sequence[bytes]) -> list[Batch]:
    """Return batches that no honest replica may prepare: wrong times, too many, twice, executed before, unknown, in another's name.

    Args:
        old: ids of executed transactions.
    """
    ids = good.transaction_ids
    return [
        Batch(good.view, good.proposer, good.time_ms + 3_600_000, ids),
        Batch(good.view, good.proposer, GENESIS_MS - 1_000, ids),
        Batch(good.view, good.proposer, good.time_ms, ids * 2),
        Batch(good.view, good.proposer, good.time_ms, ids * 30),
        Batch(good.view + 1, good.proposer, good.time_ms, ids),
        Batch(good.view, good.proposer + 1, good.time_ms, ids),
        Batch(good.view, good.proposer, good.time_ms, (*ids, *old)),
        Batch(good.view, good.proposer, good.time_ms, (*ids, bytes(32))),
    ]


def staler_view_change(body: ViewChangeBody, proofs: Sequence[PreparedProof], past: ViewChangeBody, chance: Dice) -> ViewChangeBody:
    """Return a body that is true but tells less: fewer prepared certificates, older ones, an older stable checkpoint.

    Args:
        proofs: all prepared certificates that the traitor ever had.
        past: an earlier body of its own.
    """
    oldest: dict[int, PreparedProof] = {}
    for proof in proofs:
        sequence = proof.pre_prepare.sequence
        if sequence not in oldest or proof.pre_prepare.view < oldest[sequence].pre_prepare.view:
            oldest[sequence] = proof
    choice = chance.randrange(4)
    if choice == 0:
        return ViewChangeBody(body.new_view, body.stable, ())
    if choice == 1:
        return ViewChangeBody(body.new_view, body.stable, body.prepared[:-1])
    if choice == 2:
        low = body.stable.height if body.stable is not None else 0
        older = tuple(proof for sequence, proof in sorted(oldest.items()) if sequence > low)
        return ViewChangeBody(body.new_view, body.stable, older)
    return ViewChangeBody(body.new_view, past.stable, past.prepared)


def forged_view_change(body: ViewChangeBody, chance: Dice) -> ViewChangeBody:
    """Return a body that claims what it cannot prove, or asks for a view far away."""
    choice = chance.randrange(3)
    if choice == 0:
        return ViewChangeBody(body.new_view + chance.choice((1, 2, 1_000, 2**50)), body.stable, body.prepared)
    if choice == 1 and body.prepared:
        first = body.prepared[0]
        thin = PreparedProof(first.pre_prepare, first.prepares[:1] * len(first.prepares))
        return ViewChangeBody(body.new_view, body.stable, (thin, *body.prepared[1:]))
    if body.stable is not None:
        high = msgspec.structs.replace(body.stable, height=body.stable.height + 50, header_hash=bytes(32))
        return ViewChangeBody(body.new_view, high, ())
    return ViewChangeBody(body.new_view + 1, body.stable, body.prepared)


def weak_certificate(epoch: int, header: Header, own: Vote, seats: int, chance: Dice) -> Certificate:
    """Return a certificate that holds one good signature: the same one many times, or others with rubbish.

    Args:
        own: a checkpoint vote of the traitor for the header.
        seats: how many validators there are.
    """
    if chance.random() < 0.5:
        votes = tuple(CertificateVote(own.sender, own.signature) for _ in range(seats))
    else:
        votes = tuple(CertificateVote(seat, own.signature if seat == own.sender else bytes(64)) for seat in range(seats))
    return Certificate(epoch, header.height, header.hash, votes)


def forged_header(previous: Header) -> Header:
    """Return a header after ``previous`` that follows from an empty batch, as nobody decided it."""
    return make_header(previous, NULL_BATCH, (), (), previous.state_root, previous.epoch, previous.next_validators)


def forged_block(header: Header, certificate: Certificate) -> CertifiedBlock:
    """Return the empty block with this header."""
    return CertifiedBlock(encode(Block(header, NULL_BATCH, (), ())), certificate)


def forged_state(entries: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a state in which the first account is rich."""
    rich = encode(Account(10**15))
    accounts = [key for key, _ in entries if key.startswith(b"account/")]
    return [(key, rich if key == accounts[0] else value) for key, value in entries]


def cut(
    header: Header, certificate: Certificate, entries: Sequence[tuple[bytes, bytes]], proofs: tuple[bytes, ...]
) -> tuple[SnapshotManifest, tuple[Chunk, ...]]:
    """Return the snapshot of a forged state (the proofs of the epochs are good)."""
    return make_snapshot(header, certificate, entries, proofs, SNAPSHOT_DEPTH)
