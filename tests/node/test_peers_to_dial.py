"""Whom a node dials: the nodes of its configuration, whatever became of them, and validators that the chain names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from node.outgoing import PeerAddress
from node.service import _peers


def dialled(written: dict[str, int], members: dict[str, int]) -> dict[str, PeerAddress]:
    config: Any = SimpleNamespace(peers={name: SimpleNamespace(host="127.0.0.1", port=port) for name, port in written.items()})
    known = {name: SimpleNamespace(name=name, host="10.0.0.1" if port else "", port=port) for name, port in members.items()}
    channel: Any = SimpleNamespace(node="me", members=lambda: known)
    return _peers(config, channel)


def test_addresses_that_the_operator_wrote_down_are_dialled_whoever_the_validators_were() -> None:
    """A validator that slept while everybody else was replaced knows only members that are gone. It must dial somebody who is there."""
    assert list(dialled({"new-1": 9000, "old-1": 9001}, {"me": 0, "old-1": 0})) == ["old-1", "new-1"]


def test_what_the_operator_wrote_down_goes_before_what_the_chain_says_and_a_node_does_not_dial_itself() -> None:
    found = dialled({"me": 1, "a": 9000}, {"me": 2, "a": 7, "b": 8, "nowhere": 0})
    assert found == {"a": PeerAddress("127.0.0.1", 9000), "b": PeerAddress("10.0.0.1", 8)}
