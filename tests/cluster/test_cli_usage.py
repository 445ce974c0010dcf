"""The command line as its users meet it: help of every command, and bad input in one line with exit status 2."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest

from cluster.cli import ENTRIES, cli, main
from cluster.commands.verify import print_report
from cluster.lazy_group import LazyGroup
from node.audit_report import AuditFault, AuditReport

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, cwd=None, timeout=60):
    """Run ``gridpact ARGUMENTS`` as a process."""
    return subprocess.run(
        [sys.executable, "-m", "cluster", *arguments],
        cwd=cwd or ROOT,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def every_command(group=cli, path=()):
    """Yield the path of every command, hidden ones too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))


COMMANDS = list(every_command())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_every_runnable_one_an_example(path, capsys):
    assert main([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"Usage: gridpact {' '.join(path)}")
    command = cli
    for name in path:
        command = command.get_command(click.Context(command), name)
    if not isinstance(command, click.Group):
        assert f"gridpact {path[0]}" in shown.partition("Example")[2]


def test_the_stable_commands_are_there():
    expected = {"up", "init", "status", "logs", "down", "bench", "drill", "verify", "auction", "settle"}
    assert expected <= {path[0] for path in COMMANDS if len(path) == 1}
    assert {("node", "run"), ("meter", "simulate"), ("market", "book"), ("market", "trades"), ("market", "bills")} <= set(COMMANDS)


def test_help_imports_no_command():
    code = (
        "import sys; from cluster.cli import main; main(['--help']); "
        "heavy = [name for name in ('aiohttp', 'plyvel', 'amqtt', 'rich', 'uvloop') if name in sys.modules]; "
        "heavy += [name for name in sys.modules if name.startswith('cluster.commands.')]; print(heavy, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr.strip() == "[]"
    assert "up " in done.stdout
    assert "broker" not in done.stdout


def test_a_node_loads_neither_the_display_nor_the_embedded_broker():
    code = "import sys, cluster.commands.node; print([name for name in ('rich.live', 'amqtt', 'meters') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_the_table_names_real_commands():
    assert isinstance(cli, LazyGroup)
    for name, entry in ENTRIES.items():
        module, _, attribute = entry.target.partition(":")
        assert getattr(import_module(module), attribute).name == name


BAD = [
    (["nonsense"], "No such command 'nonsense'"),
    (["up", "--nodes", "3"], "--nodes"),
    (["up", "--nodes", "many"], "--nodes"),
    (["up", "--market", "game"], "--market"),
    (["up", "--period", "15 minutes"], "--period"),
    (["up", "--period", "0m"], "--period"),
    (["up", "--start", "yesterday"], "--start"),
    (["up", "--speed", "0"], "--speed"),
    (["up", "--speed", "nan"], "--speed"),
    (["up", "--periods", "0"], "--periods"),
    (["up", "--broker", "http://localhost"], "--broker"),
    (["up", "--broker", "mqtt://user:secret@localhost"], "--broker"),
    (["up", "--unknown"], "--unknown"),
    (["up", "extra"], "extra"),
    (["up", "--json", "no/such/folder/out.json"], "--json no/such/folder/out.json"),
    (["up", "--data", "absent.csv"], "absent.csv"),
    (["up", "--households", "15"], "--households"),
    (["up", "--period", "7m"], "--period"),
    (["up", "--speed", "100000"], "--speed"),
    (["up", "--start", "2016-08-07T12:07"], "--start"),
    (["up", "--start", "2030-01-01T00:00"], "--start"),
    (["up", "--broker", "mqtt://localhost", "--broker-users", "absent.txt"], "absent.txt"),
    (["init", "--out", "x"], "--hosts"),
    (["init", "--hosts", "a,,b", "--out", "x"], "--hosts"),
    (["init", "--hosts", "a,a", "--out", "x"], "--hosts"),
    (["init", "--hosts", "a,b,c,d,e", "--out", "x"], "--hosts"),
    (["init", "--hosts", "bad host!", "--out", "x"], "bad host!"),
    (["init", "--hosts", "a", "--broker", "embedded", "--out", "x"], "--broker"),
    (["status"], "holds no cluster"),
    (["logs"], "holds no cluster"),
    (["down"], "holds no cluster"),
    (["verify"], "holds neither a cluster"),
    (["meter", "simulate"], "holds no cluster"),
    (["node", "run"], "--home"),
    (["node", "run", "--home", "absent"], "absent"),
    (["settle", "absent.json"], "absent.json"),
    (["settle"], "FILE"),
    (["auction", "absent.json"], "absent.json"),
]


@pytest.mark.parametrize(("arguments", "named"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_usage_is_one_line_and_status_2(arguments, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GRIDPACT_HOME", raising=False)
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.splitlines()) == 1, shown.err
    assert shown.err.startswith("gridpact: ")
    assert named in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [b"", b"not json", b"[]", b'{"version": 2}', b"\xff\xfe", b"[" * 100_000, b'{"version": 1, "surprise": true}'],
    ids=["empty", "text", "list", "short", "not utf-8", "deep", "unknown key"],
)
def test_a_damaged_topology_is_one_line_that_names_it(text, tmp_path, capsys):
    (tmp_path / "cluster.json").write_bytes(text)
    assert main(["status", "--home", str(tmp_path)]) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert str(tmp_path / "cluster.json") in shown


@pytest.mark.parametrize("text", [b"", b"{}", b"nonsense", b'{"trades": 1}', b"[" * 100_000])
def test_a_bad_settlement_case_is_one_line_that_names_it(text, tmp_path, capsys):
    case = tmp_path / "case.json"
    case.write_bytes(text)
    assert main(["settle", str(case)]) == 2
    shown = capsys.readouterr().err
    assert len(shown.splitlines()) == 1
    assert "case.json" in shown


def test_a_settlement_case_is_settled(tmp_path):
    case = tmp_path / "case.json"
    case.write_text(
        '{"grid_buy_price": 220000, "grid_sell_price": 80000, "fine_ppm": 100000, "tolerance_ppm": 50000, "fee_ppm": 0,'
        ' "trades": [{"id": "t1", "seller": "a", "buyer": "b", "quantity_wh": 1000, "price": 150000}],'
        ' "meters": {"a": {"export_wh": 1000, "import_wh": 0}, "b": {"export_wh": 0, "import_wh": 1500}}}'
    )
    assert main(["settle", str(case), "--json", str(tmp_path / "out.json")]) == 0
    result = (tmp_path / "out.json").read_text()
    assert '"t1": 1000' in result
    assert '"a": 150000' in result


def test_json_goes_to_standard_output_alone(tmp_path):
    made = run("init", "--hosts", "10.0.0.1", "--households", "2", "--out", str(tmp_path / "out"), "--json", "-")
    assert made.returncode == 0, made.stderr
    assert made.stdout.lstrip().startswith("{")
    assert '"genesis_digest"' in made.stdout


def test_exit_status_reaches_the_shell(tmp_path):
    done = run("up", "--nodes", "99", cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert run("--help").returncode == 0
    assert run("--version").returncode == 0


def test_an_interrupt_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cluster.commands.manage.read_topology", interrupted)
    assert main(["status"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_a_home_without_permission_is_one_line(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("x")
    assert main(["up", "--home", str(blocked / "home")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ("faults", "said"), [((AuditFault(None, "block store", "x"),), "1 fault; no block could be read"), ((), "the store is empty")]
)
def test_an_audit_without_blocks_names_no_height(faults, said, capsys):
    print_report("node-1", AuditReport(-1, 0, 0, 0, faults))
    shown = capsys.readouterr().out
    assert said in shown
    assert "-1" not in shown.replace("node-1", "")
