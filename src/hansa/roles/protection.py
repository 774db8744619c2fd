"""How a party's parts of sums leave it: as they are (federated mode), or masked so that only their sum can be read.

The seam between the modes on a party's side. Guarantees of `Masked`:

1. Nothing passes `protect` before every other party's key was checked and confirmed.
2. A vector is masked under a label that binds plan, run, tree, step, quantity, roster, length and every broadcast of the
   aggregator so far; a label, and a place in the run, is used once.
3. The masks of all parties cancel in the sum, if and only if all saw the same broadcasts: the closing zero word tells.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.consortium.identity import verify
from hansa.errors import ProtocolError
from hansa.protocol.messages import AnnounceKey, ConfirmKeys, ExchangeKeys, KeysConfirmed
from hansa.secure.fixed_point import Words
from hansa.secure.keys import (
    Announcement,
    PairKey,
    Run,
    announce,
    check_announcements,
    check_confirmation,
    confirmation,
    derive_pair_keys,
    fresh_key_pair,
    roster_hash,
)
from hansa.secure.masking import Label, MaskedVector, Masker, Transcript
from hansa.secure.prg import Algorithm, agreed_algorithm, preferred_algorithm


@dataclass(frozen=True)
class Signer:
    """A member's own signature, and the identities that all members pinned.

    Attributes:
        sign: (purpose, message) -> signature under the member's identity.
        identities: name -> Ed25519 public key (32 bytes), of every member of the plan.
    """

    sign: Callable[[str, bytes], bytes]
    identities: Mapping[str, bytes]


class Clear:
    """Federated mode: parts leave as they are."""

    masked_bytes = 0

    def hear(self, kind: str, frame: memoryview) -> None:
        """A broadcast of the aggregator; means nothing here."""

    def protect(
        self,
        tree: int,  # noqa: ARG002
        step: int,  # noqa: ARG002
        quantity: str,  # noqa: ARG002
        values: npt.NDArray[Any],  # noqa: ARG002
        first: bool,  # noqa: ARG002
        words: int,  # noqa: ARG002
    ) -> int:
        """Leave `values` as they are; there is no zero word."""
        return 0

    def erase(self) -> None:
        """Nothing is secret here."""


class Locked(Clear):
    """A protected mode before its keys are being made: nothing passes."""

    def protect(
        self,
        tree: int,  # noqa: ARG002
        step: int,  # noqa: ARG002
        quantity: str,
        values: npt.NDArray[Any],  # noqa: ARG002
        first: bool,  # noqa: ARG002
        words: int,  # noqa: ARG002
    ) -> int:
        """Refuse. Raises ProtocolError."""
        raise ProtocolError(f"{quantity!r} was asked for before the run's keys; rule: no vector goes out unmasked")


class Masked:
    """Secure aggregation: one party's keys and masks in one run.

    Args:
        member: this party. run: plan, run and epoch. signer: see `Signer`. parties: everybody in the roster.
    """

    def __init__(self, member: str, run: Run, signer: Signer, parties: tuple[str, ...]) -> None:
        self.masked_bytes = 0
        self._member = member
        self._run = run
        self._signer = signer
        self._parties = parties
        self._pair = fresh_key_pair()
        self._transcript = Transcript(run.run_id)
        self._roster = b""
        self._keys: dict[str, PairKey] = {}
        self._algorithm: Algorithm = preferred_algorithm()
        self._masker: Masker | None = None
        self._vector: MaskedVector | None = None

    def announcement(self) -> AnnounceKey:
        """This party's signed key for the run."""
        own = announce(self._pair, self._run, self._member, self._algorithm, self._signer.sign)
        return AnnounceKey(own.public_key, own.algorithm.value, own.signature)

    def exchange(self, message: ExchangeKeys) -> ConfirmKeys:
        """Check everybody's signed key against the pinned identities; derive the pair keys; prove that we hold them.

        Raises IdentityError or ProtocolError naming the member whose key is wrong.
        """
        given = [
            Announcement(member, key, _algorithm(member, algorithm), signature)
            for member, key, algorithm, signature in message.keys
        ]
        pinned = {party: self._signer.identities[party] for party in self._parties}
        announcements = check_announcements(given, self._run, pinned, verify)
        self._keys = derive_pair_keys(self._pair, self._member, announcements, self._run)
        self._pair.erase()
        self._roster = roster_hash(self._run, announcements)
        self._algorithm = agreed_algorithm([a.algorithm for a in announcements.values()])
        return ConfirmKeys({peer: confirmation(key, self._roster) for peer, key in self._keys.items()})

    def confirm(self, message: KeysConfirmed) -> None:
        """Check that every other party holds the same key and roster. Raises ProtocolError naming the one that does not."""
        if set(message.tags) != set(self._keys):
            raise ProtocolError(
                f"key confirmations came from {sorted(message.tags)}; expected one from each of {sorted(self._keys)}"
            )
        for peer, key in self._keys.items():
            check_confirmation(key, self._roster, message.tags[peer])
        self._masker = Masker(self._member, self._keys, self._algorithm)

    def hear(self, kind: str, frame: memoryview) -> None:
        """Bind all later masks to a broadcast of the aggregator."""
        self._transcript.absorb(kind, frame)

    def protect(
        self,
        tree: int,
        step: int,
        quantity: str,
        values: npt.NDArray[Any],
        first: bool,
        words: int,
    ) -> int:
        """Mask `values` in place; returns the masked zero word with the last piece of a vector, else 0.

        Args:
            tree, step, quantity: where in the run. values: int64 or uint32, C-contiguous; overwritten.
            first: whether this is the vector's first piece. words: of the whole vector.
        """
        if self._masker is None:
            raise ProtocolError(
                f"{quantity!r} was asked for before the keys were confirmed; rule: no vector goes out unmasked"
            )
        ring = values.dtype.itemsize * 8
        flat: Words = values.reshape(-1).view(np.uint64) if ring == 64 else values.reshape(-1).view(np.uint32)
        if first:
            label = Label(
                run=self._run.run_id,
                epoch=self._run.epoch,
                tree=tree + 1,
                step=step,
                tensor=quantity,
                roster_hash=self._roster,
                transcript_hash=self._transcript.digest(),
                length=words + 1,
                ring=64 if ring == 64 else 32,
            )
            self._vector = self._masker.open(label)
        if self._vector is None:
            raise ProtocolError(f"{quantity!r}: a later piece before the first")
        self._vector.mask_into(flat, flat)
        self.masked_bytes += flat.nbytes
        if self._vector.remaining:
            return 0
        zero = int(self._vector.finish()[0])
        self._vector = None
        return zero

    def erase(self) -> None:
        """Zero all keys."""
        self._pair.erase()
        if self._masker is not None:
            self._masker.erase()
        for key in self._keys.values():
            key.erase()


def _algorithm(member: str, name: str) -> Algorithm:
    try:
        return Algorithm(name)
    except ValueError as error:
        raise ProtocolError(f"member {member!r}: unknown stream cipher {name[:40]!r}") from error
