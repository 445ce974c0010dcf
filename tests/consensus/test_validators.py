"""From one validator set to the next, trusting nobody: every link is checked, known or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from consensus.block import Header, decode_header
from consensus.codec import encode
from consensus.errors import DecodeError
from consensus.messages import Domain, ValidatorSet
from consensus.validators import EpochChange, decode_epoch_change, follow, set_at
from tests.consensus.plain_ledger import DOMAIN, WINDOW, Seat, name, set_batch, signer, validator_set
from tests.consensus.scenes import Chain

ENDS = 3


def grown() -> Chain:
    """A chain that has gone from four validators to seven, one at a time, and a little further."""
    chain = Chain()
    for index in range(4, 4 + ENDS):
        chain.extend(set_batch(Seat(name(index), signer(index).public_key)))
        chain.extend_to(chain.epochs[-1].first_height)
    return chain


CHAIN = grown()
PROOFS = tuple(CHAIN.disk.changes)
GENESIS = CHAIN.epochs[:1]


def replaced(value: Any, **changes: object) -> Any:
    return msgspec.structs.replace(value, **changes)


def test_whoever_knows_genesis_gets_to_the_present() -> None:
    assert [len(one.names) for one in CHAIN.epochs] == [4, 5, 6, 7]
    assert follow(GENESIS, PROOFS) == CHAIN.epochs
    assert follow(GENESIS, ()) == GENESIS


@pytest.mark.parametrize("known", range(1, ENDS + 2))
def test_whoever_knows_more_goes_on_from_there_with_all_proofs_or_only_the_rest(known: int) -> None:
    assert follow(CHAIN.epochs[:known], PROOFS) == CHAIN.epochs
    assert follow(CHAIN.epochs[:known], PROOFS[known - 1 :]) == CHAIN.epochs
    assert follow(CHAIN.epochs[known - 1 : known], PROOFS) == CHAIN.epochs[known - 1 :]


def test_a_gap_or_another_order_proves_nothing() -> None:
    for proofs in (PROOFS[1:], (PROOFS[0], PROOFS[2]), PROOFS[::-1]):
        with pytest.raises(DecodeError, match="epoch change"):
            follow(GENESIS, proofs)


def lies() -> dict[str, Callable[[EpochChange, Header], EpochChange]]:
    def with_set(change: EpochChange, **changes: object) -> EpochChange:
        """A set that the header does name: only the quorum would have to lie."""
        return replaced(change, validators=replaced(change.validators, **changes))

    def resigned(change: EpochChange, header: Header, **changes: object) -> EpochChange:
        """The certificate, made with the keys of ``changes``."""
        height = header.height
        return replaced(change, certificate=CHAIN.certificate(height, header.hash, **changes))  # type: ignore[arg-type]

    def moved(change: EpochChange, header: Header, **changes: object) -> EpochChange:
        other = replaced(header, **changes)
        return replaced(change, header=encode(other), certificate=CHAIN.certificate(other.height, other.hash))

    strangers = replaced(validator_set(4), public_keys=tuple(signer(index).public_key for index in range(5, 9)))
    return {
        "rubbish for a header": lambda change, header: replaced(change, header=b"rubbish"),
        "another header": lambda change, header: replaced(change, header=encode(replaced(header, time_ms=1))),
        "one vote too few": lambda change, header: resigned(change, header, votes=2),
        "signed by strangers": lambda change, header: resigned(change, header, validators=strangers),
        "signed by the next set": lambda change, header: resigned(change, header, validators=change.validators),
        "another set": lambda change, header: with_set(change, names=(*change.validators.names[:-1], "mallory")),
        "another key": lambda change, header: with_set(change, public_keys=change.validators.public_keys[::-1]),
        "another log": lambda change, header: with_set(change, logs=(b"x",) * len(change.validators.names)),
        "another height": lambda change, header: with_set(change, first_height=change.validators.first_height + 1),
        "another channel": lambda change, header: with_set(change, domain=Domain(DOMAIN.chain_id, "other", change.validators.epoch)),
        "the set before": lambda change, header: replaced(change, validators=set_at(CHAIN.epochs, header.height)),
        "a block too early": lambda change, header: moved(change, header, height=header.height - 1),
        "no change at all": lambda change, header: moved(
            change, header, next_validators=set_at(CHAIN.epochs, header.height).digest
        ),
    }  # fmt: skip


@pytest.mark.parametrize("lie", lies())
@pytest.mark.parametrize("at", range(ENDS))
@pytest.mark.parametrize("known", range(1, ENDS + 2))
def test_no_lie_passes_wherever_it_stands(lie: str, at: int, known: int) -> None:
    """Not even where the reader knows better: what it takes it will show to others, who do not."""
    change = decode_epoch_change(PROOFS[at])
    forged = encode(lies()[lie](change, decode_header(change.header)))
    with pytest.raises(DecodeError):
        follow(CHAIN.epochs[:known], (*PROOFS[:at], forged, *PROOFS[at + 1 :]))


def test_epochs_may_not_be_skipped_even_if_everybody_signs() -> None:
    """Validators who know what comes later may not hand over to it directly."""
    first = decode_epoch_change(PROOFS[0])
    later = replaced(CHAIN.epochs[2], first_height=first.validators.first_height)
    header = replaced(decode_header(first.header), next_validators=later.digest)
    leap = EpochChange(encode(header), CHAIN.certificate(header.height, header.hash), later)
    with pytest.raises(DecodeError, match="of epoch 2 after epoch 0"):
        follow(GENESIS, (encode(leap),))


def test_the_set_of_a_height() -> None:
    starts = [one.first_height for one in CHAIN.epochs]
    for height in range(1, CHAIN.height + 5):
        assert set_at(CHAIN.epochs, height).epoch == sum(start <= height for start in starts) - 1
    assert set_at(CHAIN.epochs, 0).epoch == 0


def test_a_set_begins_more_than_a_window_above_its_announcement() -> None:
    announced = [height for height in range(1, CHAIN.height + 1) if CHAIN.disk.blocks[height - 1][1].startswith(b"set:")]
    assert [one.first_height for one in CHAIN.epochs[1:]] == [height + WINDOW + 1 for height in announced]


def test_every_header_names_the_set_of_the_next_block() -> None:
    for height in range(1, CHAIN.height + 1):
        header = CHAIN.disk.headers[height]
        assert (header.epoch, header.next_validators) == (set_at(CHAIN.epochs, height).epoch, set_at(CHAIN.epochs, height + 1).digest)


def test_a_certificate_counts_only_in_the_epoch_of_its_height() -> None:
    for height in range(1, CHAIN.height + 1):
        certificate = CHAIN.disk.certificates[height]
        epoch = set_at(CHAIN.epochs, height).epoch
        assert [one.epoch for one in CHAIN.epochs if one.certifies(certificate)] == [epoch]
    early = CHAIN.epochs[1].first_height - 1
    assert not CHAIN.epochs[1].certifies(CHAIN.certificate(early, bytes(32), CHAIN.epochs[1]))


def test_the_digest_of_a_set_covers_every_field() -> None:
    known = CHAIN.epochs[1]
    for field in ValidatorSet.__struct_fields__:
        other = replaced(known, **{field: getattr(CHAIN.epochs[2], field)})
        assert (other == known) == (other.digest == known.digest), field


def test_an_epoch_change_survives_the_wire() -> None:
    for raw in PROOFS:
        assert encode(decode_epoch_change(raw)) == raw
