"""What is said in one epoch counts for nothing in another, whoever says it and however well it is signed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from consensus.block import CertifiedBlock, batch_digest
from consensus.codec import encode
from consensus.errors import Suspicion
from consensus.messages import (
    BlocksMessage,
    Kind,
    Message,
    NewViewBody,
    NewViewMessage,
    PreparedProof,
    PrePrepareMessage,
    StatusMessage,
    ValidatorSet,
    ViewChangeBody,
    ViewChangeMessage,
    Vote,
    VoteMessage,
    body_digest,
)
from tests.consensus.plain_ledger import WINDOW, Seat, name, set_batch, signer
from tests.consensus.scenes import Chain, Lone

END = WINDOW + 1
"""Block 1 announces epoch 1, so this is the last one of epoch 0."""
ANNOUNCEMENT = set_batch(Seat(name(4), signer(4).public_key))
BATCH = b"batch"
DIGEST = batch_digest(BATCH)


def chain_to(height: int) -> Chain:
    chain = Chain()
    chain.extend(ANNOUNCEMENT)
    chain.extend_to(height)
    return chain


def view_change(chain: Chain, sender: int, view: int, body: ViewChangeBody, validators: ValidatorSet) -> ViewChangeMessage:
    encoded = encode(body)
    return ViewChangeMessage(chain.vote(Kind.VIEW_CHANGE, view, 0, body_digest(encoded), sender, validators), encoded)


def relabelled(vote: Vote, epoch: int) -> Vote:
    return Vote(vote.kind, epoch, vote.view, vote.sequence, vote.digest, vote.sender, vote.signature)


def everything(chain: Chain, sequence: int, validators: ValidatorSet) -> list[Message]:
    """All that a quorum of a set can say about one place: enough to order, decide and certify it, and to change the view."""
    header_hash, senders = bytes(32), range(validators.quorums.quorum)
    said: list[Message] = [PrePrepareMessage(chain.vote(Kind.PRE_PREPARE, 0, sequence, DIGEST, 0, validators), BATCH)]
    said += [VoteMessage(chain.vote(Kind.PREPARE, 0, sequence, DIGEST, sender, validators)) for sender in senders if sender]
    said += [VoteMessage(chain.vote(Kind.COMMIT, 0, sequence, DIGEST, sender, validators)) for sender in senders]
    said += [VoteMessage(chain.vote(Kind.CHECKPOINT, 0, sequence, header_hash, sender, validators)) for sender in senders]
    changes = [view_change(chain, sender, 1, ViewChangeBody(1, None, ()), validators) for sender in senders]
    new_view = encode(NewViewBody(tuple(changes), ()))
    said += changes
    said.append(NewViewMessage(chain.vote(Kind.NEW_VIEW, 1, 0, body_digest(new_view), 1, validators), new_view))
    return said


def at(height: int) -> tuple[Lone, Chain]:
    """A replica with a seat in both epochs that stands at this height."""
    lone, chain = Lone(index=3), chain_to(height)
    lone.take(chain)
    lone.said.clear()
    return lone, chain


def stands(lone: Lone) -> tuple[object, ...]:
    status = lone.status
    return status.epoch, status.view, status.changing, status.executed, status.certified, status.in_flight


@pytest.mark.parametrize("sequence", [END, END + 1, END + 2])
def test_votes_of_the_old_epoch_count_for_nothing_in_the_new_one(sequence: int) -> None:
    lone, chain = at(END)
    before = stands(lone)
    assert before[0] == 1
    lone.hear(0, *everything(chain, sequence, chain.epochs[0]))
    assert stands(lone) == before
    assert not lone.faults
    assert not lone.votes()


@pytest.mark.parametrize("sequence", [END - 1, END, END + 1])
def test_votes_of_the_new_epoch_count_for_nothing_in_the_old_one(sequence: int) -> None:
    lone, chain = at(END - 2)
    before = stands(lone)
    assert before[0] == 0
    lone.hear(0, *everything(chain, sequence, chain.epochs[1]))
    assert stands(lone) == before
    assert not lone.faults
    assert not lone.votes()


@pytest.mark.parametrize("kind", [Kind.PRE_PREPARE, Kind.PREPARE, Kind.COMMIT, Kind.CHECKPOINT])
def test_the_epoch_of_a_vote_is_signed(kind: Kind) -> None:
    """Else whoever has a seat in both could be made to say twice what it said once."""
    lone, chain = at(END)
    before = stands(lone)
    sender = 0 if kind is Kind.PRE_PREPARE else 1
    vote = relabelled(chain.vote(kind, 0, END + 1, DIGEST, sender, chain.epochs[0]), 1)
    lone.hear(sender, PrePrepareMessage(vote, BATCH) if kind is Kind.PRE_PREPARE else VoteMessage(vote))
    assert lone.faults == [(name(sender), Suspicion.BAD_SIGNATURE)]
    assert stands(lone)[:5] == before[:5]
    assert not lone.votes()


def lone_in_epoch_1_takes(block: Callable[[Chain], CertifiedBlock]) -> Lone:
    lone, _ = at(END)
    longer = chain_to(END + 1)
    lone.answer = lambda to, message: [BlocksMessage((block(longer),))] if hasattr(message, "first") else []
    lone.hear(0, longer.status(0))
    lone.wait(1_000)
    return lone


def test_a_block_above_the_end_needs_a_certificate_of_the_new_epoch() -> None:
    def by(epoch: int) -> Callable[[Chain], CertifiedBlock]:
        def block(chain: Chain) -> CertifiedBlock:
            made = chain.blocks(END + 1, END + 1)[0]
            return CertifiedBlock(made.block, chain.certificate(END + 1, made.certificate.header_hash, chain.epochs[epoch]))

        return block

    refused = lone_in_epoch_1_takes(by(0))
    assert {code for _, code in refused.faults} == {Suspicion.BAD_CERTIFICATE}
    assert refused.status.executed == END
    assert lone_in_epoch_1_takes(by(1)).status.certified == END + 1


def test_a_block_of_the_old_epoch_needs_a_certificate_of_the_old_epoch() -> None:
    lone, chain = at(END - 2)
    longer = chain_to(END)
    made = longer.blocks(END - 1, END - 1)[0]
    forged = CertifiedBlock(made.block, longer.certificate(END - 1, made.certificate.header_hash, longer.epochs[1]))
    lone.answer = lambda to, message: [BlocksMessage((forged,))] if hasattr(message, "first") else []
    lone.hear(0, chain.status(0, certified=END))
    lone.wait(1_000)
    assert {code for _, code in lone.faults} == {Suspicion.BAD_CERTIFICATE}
    assert lone.status.executed == END - 2


@pytest.mark.parametrize(
    ("stable", "code"),
    [(None, Suspicion.BAD_VIEW_CHANGE), (END - 1, Suspicion.BAD_VIEW_CHANGE), (END, None), ("forged", Suspicion.BAD_CERTIFICATE)],
)
def test_a_view_change_must_start_from_the_end_of_the_epoch_before(stable: int | str | None, code: Suspicion | None) -> None:
    lone, chain = at(END)
    certificate = chain.certificate(END, bytes(32), chain.epochs[1]) if stable == "forged" else chain.disk.certificates.get(stable or 0)
    lone.hear(1, view_change(chain, 1, 3, ViewChangeBody(3, certificate, ()), chain.epochs[1]))
    assert lone.faults == ([] if code is None else [(name(1), code)])
    lone.hear(2, view_change(chain, 2, 3, ViewChangeBody(3, chain.disk.certificates[END], ()), chain.epochs[1]))
    assert lone.status.changing == (code is None), "two make one more than f"


def test_prepared_certificates_of_the_old_epoch_prove_nothing_in_the_new_one() -> None:
    lone, chain = at(END)
    old = chain.epochs[0]
    prepares = tuple(chain.vote(Kind.PREPARE, 0, END + 1, DIGEST, sender, old) for sender in (1, 2))
    proof = PreparedProof(chain.vote(Kind.PRE_PREPARE, 0, END + 1, DIGEST, 0, old), prepares)
    body = ViewChangeBody(1, chain.disk.certificates[END], (proof,))
    lone.hear(1, view_change(chain, 1, 1, body, chain.epochs[1]))
    assert lone.faults == [(name(1), Suspicion.BAD_PREPARED_PROOF)]


def test_a_pre_prepare_above_the_announced_end_is_not_answered() -> None:
    lone, chain = at(END - 1)
    lone.hear(0, PrePrepareMessage(chain.vote(Kind.PRE_PREPARE, 0, END + 1, DIGEST, 0, chain.epochs[0]), BATCH))
    assert not lone.votes()
    lone.hear(0, PrePrepareMessage(chain.vote(Kind.PRE_PREPARE, 0, END, DIGEST, 0, chain.epochs[0]), BATCH))
    assert [(vote.kind, vote.sequence) for vote in lone.votes()] == [(Kind.PREPARE, END)]


def test_a_view_change_that_hangs_at_the_boundary_is_over_in_the_next_epoch() -> None:
    """It has lost patience one block before the end, and then hears that the others got there without it."""
    lone, chain = at(END - 1)
    lone.host.submit(b"in vain")
    for _ in range(20):
        for peer in range(3):
            lone.hear(peer, chain.status(peer))
        lone.wait(200)
    assert (lone.status.epoch, lone.status.view, lone.status.changing) == (0, 1, True)
    lone.take(chain_to(END))
    assert (lone.status.epoch, lone.status.view, lone.status.changing) == (1, 0, False)
    assert {vote.epoch for vote in lone.votes() if vote.kind == Kind.VIEW_CHANGE} == {0}


def test_before_it_is_announced_nobody_is_asked_to_vote_beyond_where_the_end_could_be() -> None:
    """Block 1 is not executed yet. If it announces a set, the end is at least a window above it; so that far votes do no harm."""
    lone = Lone(index=3)
    chain = Chain()
    for sequence in range(1, WINDOW + 3):
        lone.hear(0, PrePrepareMessage(chain.vote(Kind.PRE_PREPARE, 0, sequence, DIGEST, 0), BATCH))
    assert [vote.sequence for vote in lone.votes()] == list(range(1, WINDOW + 1))


def test_what_was_executed_ahead_of_the_boundary_is_signed_once_the_epoch_begins() -> None:
    """It took two blocks of the next epoch from others and then lost its certificates: its signature may be the one that is missing."""
    own, others = chain_to(END + 2), chain_to(END + 2)
    for height in range(END - 1, END + 3):
        del own.disk.certificates[height]
    lone = Lone(index=3, disk=own.disk)
    assert lone.status.epoch == 0
    assert sorted(vote.sequence for vote in lone.votes()) == [END - 1, END]
    lone.hear(0, others.status(0, certified=END))
    lone.take(others, END)
    lone.wait(1_000)
    assert lone.status.epoch == 1
    signed = {vote.sequence: (vote.epoch, vote.digest) for vote in lone.votes() if vote.kind == Kind.CHECKPOINT}
    assert signed[END + 1] == (1, others.disk.headers[END + 1].hash)
    assert signed[END + 2] == (1, others.disk.headers[END + 2].hash)


def test_the_status_of_a_colleague_of_the_old_epoch_is_still_its_own_word() -> None:
    """Who is behind still speaks in the epoch before: that is no fault, and nobody sends it votes of this one."""
    lone, _ = at(END)
    lone.hear(1, chain_to(END - 1).status(1))
    assert not lone.faults
    assert lone.status.peer_heights[name(1)] == END - 1
    assert not [message for _, message in lone.said if not isinstance(message, StatusMessage)]
