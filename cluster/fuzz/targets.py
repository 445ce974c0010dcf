"""The table of all targets. A new one needs a line here and nothing else.

Whatever takes bytes from outside belongs in it. A target that plays a whole protocol fits as well: its input is then a list of what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, cast

from cluster.fuzz.target import MakeTarget, Target


class Entry(NamedTuple):
    """One target.

    Attributes:
        where: ``module:class``; it is imported only when it runs.
        about: what it is, in a few words.
    """

    where: str
    about: str


TABLE: Mapping[str, Entry] = {
    "frames": Entry("cluster.fuzz.on_codecs:FramesTarget", "the stream between nodes, in random pieces"),
    "messages": Entry("cluster.fuzz.on_messages:MessagesTarget", "consensus messages into a replica a few blocks in"),
    "transactions": Entry("cluster.fuzz.on_ledger:TransactionsTarget", "signed envelopes into a ledger that goes on"),
    "calls": Entry("cluster.fuzz.on_codecs:CallsTarget", "contract calls"),
    "proofs": Entry("cluster.fuzz.on_proofs:ProofsTarget", "receipts and state proofs, as clients check them"),
    "records": Entry("cluster.fuzz.on_records:RecordsTarget", "values in block store and vote log"),
    "files": Entry("cluster.fuzz.on_records:FilesTarget", "bytes in LevelDB's files"),
    "genesis": Entry("cluster.fuzz.on_config:GenesisTarget", "genesis files"),
    "config": Entry("cluster.fuzz.on_config:ConfigTarget", "node.toml"),
    "cases": Entry("cluster.fuzz.on_inputs:CasesTarget", "cases for gridpact auction and settle"),
    "data": Entry("cluster.fuzz.on_inputs:DataTarget", "household data in CSV"),
    "http": Entry("cluster.fuzz.on_http:HttpTarget", "requests and WebSocket frames to the API, over a socket"),
    "mqtt": Entry("cluster.fuzz.on_mqtt:MqttTarget", "topics and payloads from a broker into the meter feed"),
}


def maker_of(name: str) -> MakeTarget:
    """Return what makes a target of the table."""

    def make(folder: Path) -> Target:
        module, _, attribute = TABLE[name].where.partition(":")
        return cast("MakeTarget", getattr(import_module(module), attribute))(folder)

    return make


TARGETS: Mapping[str, MakeTarget] = {name: maker_of(name) for name in TABLE}
