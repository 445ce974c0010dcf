"""The same history gives the same bytes, whatever the process's hash seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SCRIPT = """
from tests.contracts.test_epochs import governed_world
from tests.contracts.test_queries import busy_world
roots = [world.application.tree.root.hex() for world in (busy_world(20), governed_world())]
print("/".join(roots), hash("seed"))
"""


def test_state_roots_do_not_depend_on_the_hash_seed() -> None:
    outputs = []
    for seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        run = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
        outputs.append(run.stdout.split())
    roots, hashes = zip(*outputs, strict=True)
    assert len(set(roots)) == 1 and len(set(hashes)) == 3
