"""The light client: what can be proven about a chain to somebody who has nothing but its genesis.

What it trusts, and what not:

1. Genesis alone is given, and it must be the right one: it names the validators of epoch 0.
2. In every epoch fewer than q of the n validators are dishonest *together*, that is: no q of them (q = ceil((n + f + 1) / 2)) sign a
   header that the chain does not hold. Then a certificate proves its block, and the last header of an epoch proves who signs the next.
3. No node, broker or disk is trusted: what comes from one is checked, and what does not check changes nothing.
4. Rule 2 must hold for the keys of an epoch *for ever*, not only while it lasts. Whoever gets hold of the keys of q former validators
   later can write another chain from their epoch on, with validators of their own choice, and show it to somebody who knows
   that epoch but none after it (a long-range attack). A client that has learned of the next epoch refuses such a chain. One that
   starts from an old genesis cannot tell the two apart. So former validators destroy the keys that they no longer need, clients keep
   what they learned (:meth:`LightClient.save`), and who starts anew after years asks several people for the hash of a recent block.
5. It proves what was, not what is newest: a node may show an old block, or none. Ask several for the present.
"""

from __future__ import annotations

from collections.abc import Sequence

from consensus.block import Certificate, Header, decode_header
from consensus.codec import encode
from consensus.crypto import Verify, verify
from consensus.errors import InputError
from consensus.messages import ValidatorSet
from consensus.proofs import EntryProof, TransactionProof, certified_header, check_entry_proof, check_transaction_proof
from consensus.validators import decode_epoch_change, decode_epoch_changes, follow, set_at


class LightClient:
    """Knows the validators of one channel, epoch by epoch, and checks proofs against them.

    Args:
        genesis_set: the validators of epoch 0.
        check: how signatures are checked.
    """

    def __init__(self, genesis_set: ValidatorSet, check: Verify = verify) -> None:
        self._check = check
        self._epochs: tuple[ValidatorSet, ...] = (genesis_set,)
        self._changes: tuple[bytes, ...] = ()

    @classmethod
    def restore(cls, genesis_set: ValidatorSet, saved: bytes, check: Verify = verify) -> LightClient:
        """Return a client that knows again what :meth:`save` wrote; every proof in it is checked once more.

        Raises:
            InputError: it was damaged, or is of another chain.
        """
        client = cls(genesis_set, check)
        client.learn(decode_epoch_changes(saved))
        return client

    def save(self) -> bytes:
        """Return all that was proven to this client, for :meth:`restore`: the proofs themselves."""
        return encode(self._changes)

    @property
    def epochs(self) -> tuple[ValidatorSet, ...]:
        """All known validator sets, by epoch from 0 on."""
        return self._epochs

    @property
    def epoch(self) -> int:
        """Number of the last known epoch."""
        return self._epochs[-1].epoch

    def learn(self, changes: Sequence[bytes]) -> None:
        """Learn of later epochs, of all or of none.

        Args:
            changes: encoded ``EpochChange`` values by rising epoch, up from the last known one; those of known sets teach nothing.

        Raises:
            InputError: one is malformed, not certified, not the next one, or of another set than the known one.
        """
        epochs, kept = self._epochs, list(self._changes)
        for change in changes:
            following = decode_epoch_change(change).validators
            place = following.epoch - epochs[0].epoch
            if 0 <= place < len(epochs) and epochs[place] == following:
                continue
            followed = follow(epochs, (change,), self._check)
            if len(followed) > len(epochs):
                epochs = followed
                kept.append(change)
        self._epochs, self._changes = epochs, tuple(kept)

    def header(self, header: bytes, certificate: Certificate) -> Header:
        """Return a header that a quorum of its epoch certified.

        Raises:
            UnknownEpochError: it is of an epoch after the last known one: :meth:`learn`, then try again.
            InputError: says what does not fit.
        """
        return certified_header(self._epochs, header, certificate, self._check)

    def headers(self, chain: Sequence[bytes], certificate: Certificate) -> tuple[Header, ...]:
        """Return a run of headers: each names the hash of the one before, and the last one is certified.

        Args:
            chain: encoded headers by rising height, without a gap.
            certificate: of the last one.

        Raises:
            UnknownEpochError: the last one is of an epoch after the last known one.
            InputError: says what does not fit.
        """
        if not chain:
            raise InputError("headers", "there is none")
        found = [self.header(chain[-1], certificate)]
        for encoded in reversed(chain[:-1]):
            header, following = decode_header(encoded), found[-1]
            if (header.height, header.hash) != (following.height - 1, following.previous_hash) or encode(header) != encoded:
                raise InputError("headers", f"what stands before block {following.height} is not its predecessor")
            if header.epoch != set_at(self._epochs, header.height).epoch:
                raise InputError("headers", f"block {header.height} says epoch {header.epoch}, which it does not lie in")
            found.append(header)
        return tuple(reversed(found))

    def transaction(self, transaction_id: bytes, proof: TransactionProof) -> Header:
        """Return the header of the block that holds a transaction with the receipt in its proof.

        Raises:
            UnknownEpochError: it is of an epoch after the last known one.
            InputError: says what does not fit.
        """
        return check_transaction_proof(self._epochs, transaction_id, proof, self._check)

    def entry(self, proof: EntryProof) -> Header:
        """Return the header of the block after which a state entry was as its proof says.

        Raises:
            UnknownEpochError: it is of an epoch after the last known one.
            InputError: says what does not fit.
        """
        return check_entry_proof(self._epochs, proof, self._check)
