"""What members and meters send in a run: good transactions that must all commit, and bad ones that never may."""

from __future__ import annotations

import msgspec

from cluster.simulation.dice import Dice
from cluster.simulation.settings import Settings
from cluster.simulation.world import CHAIN_ID, CHANNEL, FIRST_PERIOD, GENESIS_MS, MAX_VALIDITY_MS, MEMBERS, METERS, World
from consensus.codec import encode
from consensus.transaction import Body, Envelope, sign_transaction
from contracts.calls import Call, PlaceOrder, SubmitReading, Transfer

MUST = ("transfer", "reading")
"""Kinds that must commit."""
MAY = ("order", "brief", "rival")
"""Kinds that may commit: the market may close, the time may run out, another one may have spent the nonce (then that one must)."""
NEVER = ("forged", "wrong-key", "expired", "unknown", "foreign")
"""Kinds that may never stand in a block."""
BRIEF_MS, PROBE_MS = 900, 200


class Sending(msgspec.Struct, frozen=True):
    """One transaction that somebody sends.

    Fields:
        at_ms: when he sends it first; he sends it again and again, to other nodes, until it is in the chain.
        node: where he begins.
        kind: one of :data:`MUST`, :data:`MAY` and :data:`NEVER`.
        sender: account or meter.
        nonce: of the transaction.
        number: makes it different from all others.
    """

    at_ms: int
    node: int
    kind: str
    sender: str
    nonce: int
    number: int

    def __str__(self) -> str:
        return f"{self.kind} {self.number} of {self.sender} (nonce {self.nonce}) at {self.at_ms} ms to node {self.node}"


def make_sendings(chance: Dice, settings: Settings, end_ms: int, over_ms: int) -> tuple[Sending, ...]:
    """Draw what is sent in a run.

    Args:
        end_ms: when the faults stop.
        over_ms: when the last one has begun; one more transaction shows after it that the chain goes on.
    """
    nonces = dict.fromkeys((*MEMBERS, *METERS), 0)
    found: list[Sending] = []
    number = 0
    for at_ms in sorted(chance.randrange(end_ms) for _ in range(chance.randint(6, 24))):
        number += 1
        node = chance.randrange(settings.nodes)
        drawn = chance.random()
        if drawn < 0.15:
            meter = chance.choice(METERS)
            nonces[meter] += 1
            found.append(Sending(at_ms, node, "reading", meter, nonces[meter], number))
            continue
        member = chance.choice(MEMBERS)
        if drawn < 0.25:
            found.append(Sending(at_ms, node, chance.choice(NEVER), member, nonces[member] + 1, number))
            continue
        nonces[member] += 1
        if drawn < 0.33:
            found.append(Sending(at_ms, node, "rival", member, nonces[member], number))
            number += 1
            found.append(Sending(at_ms, chance.randrange(settings.nodes), "rival", member, nonces[member], number))
        else:
            kind = "order" if drawn < 0.45 else "brief" if drawn < 0.5 else "transfer"
            found.append(Sending(at_ms, node, kind, member, nonces[member], number))
    nonces[MEMBERS[0]] += 1
    found.append(Sending(over_ms + PROBE_MS, chance.randrange(settings.nodes), "transfer", MEMBERS[0], nonces[MEMBERS[0]], number + 1))
    return tuple(found)


def envelope(world: World, sending: Sending) -> bytes:
    """Return the signed transaction of a sending (badly signed, if that is its kind)."""
    keys, kind = world.keys, sending.kind
    sender = "nobody" if kind == "unknown" else sending.sender
    valid_until_ms = GENESIS_MS + sending.at_ms + MAX_VALIDITY_MS // 2
    if kind == "brief":
        valid_until_ms = GENESIS_MS + sending.at_ms + BRIEF_MS
    if kind == "expired":
        valid_until_ms = GENESIS_MS - 1
    signer = keys.signer("thief" if kind in ("wrong-key", "unknown") else sender)
    raw = sign_transaction(
        signer,
        chain_id=CHAIN_ID,
        channel="elsewhere" if kind == "foreign" else CHANNEL,
        sender=sender,
        nonce=sending.nonce,
        valid_until_ms=valid_until_ms,
        call=_call(sending),
    )
    return _forged(raw) if kind == "forged" else raw


def _call(sending: Sending) -> Call:
    number = sending.number
    if sending.kind == "reading":
        energy_wh = sending.nonce
        return SubmitReading(sending.nonce, GENESIS_MS + sending.at_ms, energy_wh, energy_wh, "ntp", "boot", sending.at_ms)
    if sending.kind == "order":
        period = FIRST_PERIOD + (sending.at_ms // 8_000) % 2
        side, price = ("buy", 200_000) if number % 2 else ("sell", 150_000)
        return PlaceOrder(period, "buy" if side == "buy" else "sell", "pv", 100 + number, price, price)
    others = [member for member in MEMBERS if member != sending.sender]
    return Transfer(others[number % len(others)], 1 + number, f"number {number}")


def _forged(raw: bytes) -> bytes:
    """Return the envelope with a signature that somebody without the key made up."""
    good = msgspec.msgpack.decode(raw, type=Envelope)
    return encode(Envelope(good.scheme, good.public_key, good.body, bytes(len(good.signature))))


def nonce_of(raw: bytes) -> tuple[str, int]:
    """Return whose nonce a transaction spends, and which."""
    body = msgspec.msgpack.decode(msgspec.msgpack.decode(raw, type=Envelope).body, type=Body)
    return body.sender, body.nonce
