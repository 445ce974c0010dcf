"""Votes of data-centre nodes on who the validators are: cast with the keys of node folders, followed until they take effect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cluster.options import RunError
from consensus.crypto import Signer
from consensus.errors import InputError
from consensus.mempool import NONCE_IN_USE
from consensus.transaction import decode_transaction, sign_transaction
from contracts.calls import VoteOnValidators
from contracts.genesis import Genesis
from contracts.views import EpochView
from node.client import GridPactClient, NodeUnreachable, Refused
from node.config import CONFIG_FILE, NodeConfig, load_genesis, read_config
from node.http.views import ValidatorSetsView
from node.keys import read_signer
from node.provisioning import NODES_FOLDER
from node.vote_log import FIRST_START

RECEIPT_S = 30.0
NONCES_TRIED = 8
"""The next number may be taken by something of this node that waits."""
EPOCH_S = 120.0
POLL_S = 0.2
DONE_CODES = ("OK", "ALREADY_VOTED", "STALE_EPOCH")


@dataclass(frozen=True, slots=True)
class Voter:
    """A node whose folder is here: its name, its key, where it answers."""

    name: str
    signer: Signer
    url: str


class Decision(msgspec.Struct, frozen=True):
    """What came of a change.

    Fields:
        votes: who voted for it now or before. needed: how many decide.
        decided: whether it was; then epoch and first_height say when it takes effect, and in_force whether it has.
    """

    action: str
    name: str
    votes: tuple[str, ...]
    needed: int
    decided: bool
    epoch: int
    first_height: int
    in_force: bool


def node_folders(homes: Sequence[Path]) -> list[Path]:
    """Return node folders: each home is one itself, or the folder of a cluster that holds them.

    Raises:
        InputError: one is neither.
    """
    folders: list[Path] = []
    for home in homes:
        if (home / CONFIG_FILE).is_file():
            folders.append(home)
            continue
        found = sorted(path.parent for path in (home / NODES_FOLDER).glob(f"*/{CONFIG_FILE}"))
        if not found:
            raise InputError(f"--home {home}", f"is neither a node's folder (it has no {CONFIG_FILE}) nor that of a cluster")
        folders += found
    return folders


def voters_in(homes: Sequence[Path]) -> tuple[list[Voter], Genesis]:
    """Return the nodes that can vote from here, and the chain's genesis.

    Raises:
        InputError: a folder does not fit, or none has a key.
    """
    voters, genesis = [], None
    for folder in node_folders(homes):
        config = read_config(folder)
        genesis = genesis or load_genesis(config)
        voters += [Voter(config.name, read_signer(key), _url(config)) for key in config.validator_keys]
    if genesis is None or not voters:
        raise InputError("--home", "holds no validator's key")
    return voters, genesis


def _url(config: NodeConfig) -> str:
    """Return where a node's API answers on its own machine."""
    host = "127.0.0.1" if config.http.host in ("0.0.0.0", "::") else config.http.host  # noqa: S104 - only compared
    return f"http://[{host}]:{config.http.port}" if ":" in host else f"http://{host}:{config.http.port}"


async def vote_log_of(folder: Path) -> bytes:
    """Return the id of a node's vote log, as the node says, or, if it does not answer, its folder if that was never started.

    Raises:
        InputError: the folder does not fit, or the node was started before and does not answer.
    """
    config = read_config(folder)
    genesis = load_genesis(config)
    async with GridPactClient([_url(config)], genesis) as client:
        try:
            status = await client.status()
        except (NodeUnreachable, Refused) as error:
            if (config.channel_folder(genesis.channel) / FIRST_START).exists():
                return b""
            raise InputError("--log", f"is needed, or {config.name} must run: {error}") from error
    if status.node != config.name:
        raise InputError("--log", f"is needed: {status.node} answers at the address of {config.name}")
    return bytes.fromhex(status.vote_log)


async def decide(
    voters: Sequence[Voter], genesis: Genesis, change: VoteOnValidators, report: Callable[[str], None], *, wait: bool
) -> Decision:
    """Cast the votes of all voters that are in the latest set, until the change is decided.

    Args:
        change: what is voted on; its ``epoch`` is filled in here.
        report: told of every step.
        wait: whether to wait until the new set is in force.

    Raises:
        Refused: the chain refuses the change.
        RunError: it does not come into force in time.
    """
    async with GridPactClient([voter.url for voter in voters], genesis) as client:
        sets = await client.validators()
        before = latest(sets)
        change = msgspec.structs.replace(change, epoch=before.number)
        keys = {member.name: member.public_key for member in before.members}
        able = [voter for voter in voters if keys.get(voter.name) == voter.signer.public_key.hex()]
        if not able:
            raise InputError("--home", f"holds the key of no validator of epoch {before.number}")
        voted: list[str] = []
        for voter in able:
            await _cast(client, genesis, voter, change)
            voted.append(voter.name)
            report(f"{voter.name} votes to {change.action} {change.name} ({len(voted)} here; {before.votes_needed} decide)")
            after = latest(await client.validators())
            if after.number > before.number:
                report(f"decided: epoch {after.number} begins with block {after.first_height}")
                in_force = await _in_force(client, after, report) if wait else False
                return _decision(change, voted, before, after, in_force)
        return _decision(change, voted, before, None, in_force=False)


def latest(sets: ValidatorSetsView) -> EpochView:
    """Return the set that a change changes: the last announced one, or the present one."""
    return sets.announced[-1] if sets.announced else sets.present


def _decision(change: VoteOnValidators, voted: Sequence[str], before: EpochView, after: EpochView | None, in_force: bool) -> Decision:
    epoch, first = (after.number, after.first_height) if after is not None else (before.number, 0)
    return Decision(change.action, change.name, tuple(voted), before.votes_needed, after is not None, epoch, first, in_force)


async def _cast(client: GridPactClient, genesis: Genesis, voter: Voter, change: VoteOnValidators) -> None:
    known = await client.validator(voter.name)
    if known is None:
        raise InputError("--home", f"{voter.name} is no validator of this chain")
    status = await client.status()
    code = detail = ""
    for nonce in range(known.next_nonce, known.next_nonce + NONCES_TRIED):
        raw = sign_transaction(
            voter.signer,
            chain_id=genesis.chain_id,
            channel=genesis.channel,
            sender=voter.name,
            nonce=nonce,
            valid_until_ms=status.clock_ms + max(genesis.consensus.max_validity_ms // 2, 1),
            call=change,
        )
        try:
            await client.submit(raw)
            executed = await client.wait_receipt(decode_transaction(raw).id, RECEIPT_S)
            code, detail = executed.receipt.code, executed.receipt.detail
        except Refused as error:
            code, detail = error.code, error.detail
        if code != NONCE_IN_USE:
            break
    if code not in DONE_CODES:
        raise Refused(code, detail, "")


async def _in_force(client: GridPactClient, wanted: EpochView, report: Callable[[str], None]) -> bool:
    """Wait until the chain has reached an epoch.

    Raises:
        RunError: not in time.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + EPOCH_S
    while loop.time() < deadline_s:
        status = await client.status()
        if status.epoch >= wanted.number:
            report(f"epoch {wanted.number} is in force: {', '.join(member.name for member in wanted.members)}")
            return True
        await asyncio.sleep(POLL_S)
    raise RunError(f"epoch {wanted.number} did not begin within {EPOCH_S:g} s; see gridpact validator list")
