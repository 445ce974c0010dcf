"""What an agent on a small machine has to load for the client."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
HEAVY = ("plyvel", "numpy", "aiohttp", "cryptography", "prometheus_client", "structlog", "aiomqtt", "rich", "click", "uvloop")


def test_importing_the_client_loads_nothing_heavy() -> None:
    program = f"import sys, node.client; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_using_the_client_loads_no_server() -> None:
    program = """
import asyncio, sys
from node.client import GridPactClient, NodeUnreachable
async def main():
    async with GridPactClient(["http://127.0.0.1:1"], timeout_s=0.2) as client:
        try:
            await client.status()
        except NodeUnreachable:
            print([name for name in ("plyvel", "numpy", "aiohttp.web", "cryptography") if name in sys.modules])
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
