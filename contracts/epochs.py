"""Validator sets in the state, and the validators as senders of transactions.

Law.

1. Every set that was ever announced stays in the state, numbered from 0 (genesis) without a gap, first heights rising.
2. A validator signs transactions in its own name with the key that it has in the set of the block that holds them. So what a removed
   validator or a replaced key signed is void from the boundary on, and nobody else can be called the same.
3. The set of a block is known more than a window before it, so no block changes who may send in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from consensus.messages import Domain, ValidatorSet
from contracts.events import Member
from contracts.genesis import OPERATOR, Genesis
from contracts.records import Epoch, name_key
from contracts.registry import Registry, Sender


@dataclass(frozen=True, slots=True)
class Seats:
    """Who validates one block; make it with :func:`seats_of`.

    Attributes:
        epoch: number of the set; -1 if there is none yet.
        members: by index.
        senders: the same as senders of transactions, by name.
    """

    epoch: int
    members: tuple[Member, ...]
    senders: Mapping[str, Sender]

    def fee_account(self, proposer: int) -> str:
        """Return who earns the fees of a block; without a proposer it is the operator."""
        return self.members[proposer].account if 0 <= proposer < len(self.members) else OPERATOR


NOBODY = Seats(-1, (), {})


def seats_of(epoch: Epoch, registry: Registry) -> Seats:
    """Return the seats of a set."""
    return Seats(epoch.number, epoch.members, {member.name: _sender(member, registry) for member in epoch.members})


def first_epoch(genesis: Genesis) -> Epoch:
    """Return the set that genesis names. Where its members are reached is not the chain's business yet."""
    return Epoch(0, 1, tuple(Member(one.name, one.public_key, one.account) for one in genesis.validators), 0)


def validator_set(genesis: Genesis, epoch: Epoch) -> ValidatorSet:
    """Return a set as consensus knows it."""
    names = tuple(member.name for member in epoch.members)
    keys = tuple(bytes.fromhex(member.public_key) for member in epoch.members)
    logs = tuple(bytes.fromhex(member.log) for member in epoch.members)
    return ValidatorSet(Domain(genesis.chain_id, genesis.channel, epoch.number), epoch.first_height, names, keys, logs)


def _sender(member: Member, registry: Registry) -> Sender:
    role = registry.senders[member.account].role
    return Sender(member.name, name_key(member.name), bytes.fromhex(member.public_key), False, member.account, role, is_validator=True)
