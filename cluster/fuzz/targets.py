"""The table of all targets. A new one needs a line here and nothing else.

Whatever takes bytes from outside belongs in it. A target that plays a whole protocol fits as well: its input is then a list of what to do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

from cluster.fuzz.target import MakeTarget, Target


class Entry(NamedTuple):
    """One target.

    Attributes:
        where: ``module:class``; it is imported only when it runs.
        about: what it is, in a few words.
        share: how large its part is of inputs that are shared by all: what matters more gets more, what is slow gets less.
    """

    where: str
    about: str
    share: int


TABLE: Mapping[str, Entry] = {
    "frames": Entry("cluster.fuzz.on_codecs:FramesTarget", "the stream between nodes, in random pieces", 200),
    "messages": Entry("cluster.fuzz.on_messages:MessagesTarget", "consensus messages into a replica a few blocks in", 250),
    "member": Entry("cluster.fuzz.on_member:MemberTarget", "a faulty member that speaks the protocol to a group of replicas", 100),
    "transactions": Entry("cluster.fuzz.on_ledger:TransactionsTarget", "signed envelopes into a ledger that goes on", 120),
    "calls": Entry("cluster.fuzz.on_codecs:CallsTarget", "contract calls", 200),
    "proofs": Entry("cluster.fuzz.on_proofs:ProofsTarget", "receipts and state proofs, as clients check them", 100),
    "records": Entry("cluster.fuzz.on_records:RecordsTarget", "values in block store and vote log", 10),
    "files": Entry("cluster.fuzz.on_records:FilesTarget", "bytes in LevelDB's files", 2),
    "genesis": Entry("cluster.fuzz.on_config:GenesisTarget", "genesis files", 20),
    "config": Entry("cluster.fuzz.on_config:ConfigTarget", "node.toml", 30),
    "cases": Entry("cluster.fuzz.on_inputs:CasesTarget", "cases for gridpact auction and settle", 50),
    "data": Entry("cluster.fuzz.on_inputs:DataTarget", "household data in CSV", 40),
    "http": Entry("cluster.fuzz.on_http:HttpTarget", "requests and WebSocket frames to the API, over a socket", 4),
    "mqtt": Entry("cluster.fuzz.on_mqtt:MqttTarget", "topics and payloads from a broker into the meter feed", 10),
}


def shared(total: int, names: Sequence[str]) -> dict[str, int]:
    """Return how many of ``total`` inputs each of the targets gets; together they are that many, and each gets one at least."""
    shares = sum(TABLE[name].share for name in names)
    inputs = {name: max(1, total * TABLE[name].share // shares) for name in names}
    largest = max(names, key=lambda name: TABLE[name].share)
    inputs[largest] = max(1, inputs[largest] + total - sum(inputs.values()))
    return inputs


def maker_of(name: str) -> MakeTarget:
    """Return what makes a target of the table."""

    def make(folder: Path) -> Target:
        module, _, attribute = TABLE[name].where.partition(":")
        return cast("MakeTarget", getattr(import_module(module), attribute))(folder)

    return make


TARGETS: Mapping[str, MakeTarget] = {name: maker_of(name) for name in TABLE}
