"""Real brokers for the tests: the embedded one in a process of its own, and Mosquitto. Ended by process id."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import shutil
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from cluster.broker import BrokerUser, write_access_files, write_mosquitto_config
from cluster.ports import free_ports
from contracts.topics import BrokerAddress, parse_broker_url

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 20.0
PROGRAM = """
import asyncio, signal, sys
from pathlib import Path
from cluster.broker import EmbeddedBrokerConfig, serve_broker

async def main():
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    config = EmbeddedBrokerConfig(Path(sys.argv[1]), Path(sys.argv[2]), port=int(sys.argv[3]))
    await serve_broker(config, stop)

asyncio.run(main())
"""


async def until(condition: Callable[[], object], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until ``condition`` holds; fail with ``what`` after the deadline."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + deadline_s
    while not condition():
        if loop.time() > end_s:
            pytest.fail(f"{what}: not within {deadline_s:.0f} s")
        await asyncio.sleep(0.02)


class RealBroker:
    """One broker process on a fixed port; ``kind`` is "amqtt" or "mosquitto"."""

    def __init__(self, kind: str, folder: Path, users: Sequence[BrokerUser]) -> None:
        self.kind = kind
        self.folder = folder
        self.port = next(free_ports())
        self.address: BrokerAddress = parse_broker_url(f"mqtt://127.0.0.1:{self.port}")
        self.passwords, self.access = write_access_files(folder / "access", "main", users)
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = self._mosquitto() if self.kind == "mosquitto" else self._embedded()
        with (self.folder / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=log, stderr=log)
        await until(self._listens, f"{self.kind} listens")

    async def kill(self) -> None:
        """End it without any warning."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        await self._end(signal.SIGTERM)

    def log(self) -> str:
        return (self.folder / "log").read_text(errors="replace")

    async def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, how)
            await asyncio.wait_for(self._process.wait(), DEADLINE_S)
        self._process = None

    def _listens(self) -> bool:
        if self._process is None or self._process.returncode is not None:
            pytest.fail(f"{self.kind} ended: {self.log()}")
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def _embedded(self) -> list[str]:
        return [sys.executable, "-c", PROGRAM, str(self.passwords), str(self.access), str(self.port)]

    def _mosquitto(self) -> list[str]:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
        if program is None:
            pytest.fail("the Mosquitto broker is not installed: apt-get install mosquitto")
        config = self.folder / "mosquitto.conf"
        state = self.folder / "state"
        write_mosquitto_config(config, port=self.port, passwords=self.passwords, access=self.access, state=state, run_as=getpass.getuser())
        return [program, "-c", str(config)]
