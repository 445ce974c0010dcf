"""The tree of errors and the numbered misbehaviours."""

from __future__ import annotations

import pytest

from consensus.errors import DecodeError, GridPactError, InputError, InvariantViolation, PeerFault, Suspicion


def test_the_tree_is_as_drawn() -> None:
    assert issubclass(DecodeError, InputError)
    assert not issubclass(PeerFault, InputError)
    assert not issubclass(InvariantViolation, InputError)
    for kind in (InputError, PeerFault, InvariantViolation):
        assert issubclass(kind, GridPactError)


def test_an_input_error_names_field_and_reason() -> None:
    error = InputError("node.toml: http: port", "70000 is no port")
    assert (error.field, error.reason) == ("node.toml: http: port", "70000 is no port")
    assert str(error) == "node.toml: http: port: 70000 is no port"


@pytest.mark.parametrize("code", Suspicion)
def test_every_misbehaviour_has_its_own_sentence(code: Suspicion) -> None:
    sentences = [other.sentence for other in Suspicion]
    assert sentences.count(code.sentence) == 1
    assert str(PeerFault("dc2", code, "seen")) == f"dc2 {code.sentence} (seen)"
    assert str(PeerFault("dc2", code)) == f"dc2 {code.sentence}"


def test_numbers_of_misbehaviours_are_for_ever() -> None:
    assert {code.name: code.value for code in Suspicion} | {
        "MALFORMED": 1,
        "NOT_A_VALIDATOR": 2,
        "BAD_SIGNATURE": 3,
        "WRONG_KIND": 4,
        "NOT_PRIMARY": 5,
        "PRIMARY_PREPARED": 6,
        "DIGEST_MISMATCH": 7,
        "BAD_CERTIFICATE": 8,
        "BAD_PREPARED_PROOF": 9,
        "BAD_VIEW_CHANGE": 10,
        "BAD_NEW_VIEW": 11,
        "EQUIVOCATION": 12,
        "BAD_BLOCK": 13,
        "BAD_PROPOSAL": 14,
        "TOO_LARGE": 15,
        "BAD_SNAPSHOT": 16,
    } == {code.name: code.value for code in Suspicion}
