"""Free ports of this machine's loopback address."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

from consensus.errors import InputError

HOST = "127.0.0.1"
PORTS = range(20_000, 32_000)
"""Below the range that the system takes ports for outgoing connections from."""


def free_ports() -> Iterator[int]:
    """Yield ports that nobody listens on at this moment, each once.

    Raises:
        InputError: there are none left.
    """
    candidates = list(PORTS)
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if port_is_free(port):
            yield port
    raise InputError("ports", f"none from {PORTS.start} to {PORTS.stop - 1} is free")


def port_is_free(port: int) -> bool:
    """Tell whether nobody listens on a port of this machine's loopback address."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
