"""Imports run one way only: consensus <- contracts <- node <- { meters, dispatch } <- cluster."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.project import PACKAGES, ROOT

PLANTED = {
    "consensus knows contracts": ("consensus", "import contracts.calls"),
    "consensus knows the node": ("consensus", "def later() -> None:\n    from node import planted_host\n"),
    "contracts know the node": ("contracts", "from node import planted_host"),
    "contracts know the cluster": ("contracts", "from cluster import planted_top"),
    "the node knows meters": ("node", "import meters"),
    "the node knows dispatch": ("node", "import dispatch"),
    "the node knows the cluster": ("node", "from cluster import planted_top"),
    "meters know the cluster": ("meters", "from cluster import planted_top"),
    "meters know more of the node than its client": ("meters", "from node import planted_host"),
    "dispatch knows more of the node than its client": ("dispatch", "from node import planted_host"),
    "dispatch knows meters": ("dispatch", "import meters"),
    "meters know dispatch": ("meters", "import dispatch"),
}


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter with the contracts of setup.cfg over the packages in ``folder``."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    return subprocess.run([*command, "--no-cache", "--config", "setup.cfg"], cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def copied_tree(tmp_path: Path) -> Path:
    """A copy of the packages, with two modules more to aim planted imports at."""
    for package in PACKAGES:
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=lambda _, names: [name for name in names if "." in name and name[-3:] != ".py"]
        )
    shutil.copy(ROOT / "setup.cfg", tmp_path)
    (tmp_path / "node" / "planted_host.py").write_text("")
    (tmp_path / "cluster" / "planted_top.py").write_text("")
    return tmp_path


def test_imports_run_one_way() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_copy_is_clean_before_anything_is_planted(copied_tree: Path) -> None:
    result = lint_imports(copied_tree)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_import_is_caught(copied_tree: Path, name: str) -> None:
    package, line = PLANTED[name]
    (copied_tree / package / "planted.py").write_text(line + "\n")
    result = lint_imports(copied_tree)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{package}.planted" in result.stdout


@pytest.mark.parametrize("package", ["meters", "dispatch"])
def test_the_edge_may_use_the_client(copied_tree: Path, package: str) -> None:
    (copied_tree / "node" / "client.py").touch()
    (copied_tree / package / "planted.py").write_text("import node.client\n")
    result = lint_imports(copied_tree)
    assert result.returncode == 0, result.stdout + result.stderr
