"""How a party's parts of sums leave it: as they are (federated mode), or masked so that only their sum can be read.

The seam between the modes on a party's side. Guarantees of `SumMasking`:

1. Nothing passes `mask` before the key of every other party, or of every neighbour in a drawn graph, was checked and confirmed.
2. A vector is masked under a label that binds plan, run, tree, step, quantity, roster, length and every broadcast of the
   aggregator so far; a label, and a place in the run, is used once.
3. The masks of all parties cancel in the sum, if and only if all saw the same broadcasts: the closing zero word tells.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from hansa.errors import ProtocolError
from hansa.protocol.messages import AnnounceKey, CommitKey, ConfirmKeys, ExchangeKeys, KeysCommitted, KeysConfirmed
from hansa.roles.key_setup import KeySetup, Signer
from hansa.secure.keys import RunNames
from hansa.secure.mask_graph import is_drawn
from hansa.secure.masking import Label, MaskedVector, Masker, RingVector, Transcript
from hansa.secure.vouching import Vouching

__all__ = ["MaskingNotReady", "NoMasking", "Signer", "SumMasking"]


class NoMasking:
    """Federated mode: parts leave as they are."""

    masked_bytes = 0

    def absorb(self, kind: str, frame: memoryview) -> None:
        """A broadcast of the aggregator; means nothing here."""

    def mask(
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


class MaskingNotReady(NoMasking):
    """A protected mode before its keys are being made: nothing passes."""

    def mask(
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


class SumMasking:
    """Secure aggregation: one party's keys and masks in one run.

    Args:
        member: this party. run: plan, run and epoch. signer: see `Signer`. parties: everybody in the roster.
        vouches: whether this party proves things to every other one (`secure.vouching`), and so needs a key with each.
        start: 32 bytes that the transcript begins from, where that is not the run's id: of a later epoch, its checkpoint's.

    Attributes:
        run: plan, run and epoch. start: what the transcript began from.
        vouching: proofs for the other parties, once the keys are confirmed.
    """

    def __init__(
        self,
        member: str,
        run: RunNames,
        signer: Signer,
        parties: tuple[str, ...],
        vouches: bool = True,
        start: bytes = b"",
    ) -> None:
        self.masked_bytes = 0
        self._member = member
        self._parties = len(parties)
        self.run = run
        self.start = start or run.run_id
        self._setup = KeySetup(member, run, signer, parties, is_drawn(len(parties)), vouches)
        self._transcript = Transcript(self.start)
        self._masker: Masker | None = None
        self._vector: MaskedVector | None = None
        self.vouching: Vouching | None = None

    def received(self) -> bytes:
        """32 bytes over every broadcast of the aggregator so far."""
        return self._transcript.digest()

    def opening(self) -> CommitKey | AnnounceKey:
        """This party's signed key for the run; what binds it to that key, where the parties draw a graph."""
        return self._setup.commitment() if is_drawn(self._parties) else self._setup.announcement()

    def committed(self, message: KeysCommitted) -> AnnounceKey:
        """See `KeySetup.committed`."""
        return self._setup.committed(message)

    def exchange(self, message: ExchangeKeys) -> ConfirmKeys:
        """See `KeySetup.exchange`."""
        return self._setup.exchange(message)

    def confirm(self, message: KeysConfirmed) -> None:
        """See `KeySetup.confirm`; from here on vectors can be masked."""
        self._setup.confirm(message)
        masked_with = {peer: self._setup.keys[peer] for peer in self._setup.neighbours}
        self._masker = Masker(self._member, masked_with, self._setup.algorithm)
        self.vouching = Vouching(self._setup.keys)

    def absorb(self, kind: str, frame: memoryview) -> None:
        """Bind all later masks to a broadcast of the aggregator."""
        self._transcript.absorb(kind, frame)

    def mask(
        self,
        tree: int,
        step: int,
        quantity: str,
        values: npt.NDArray[Any],
        first: bool,
        words: int,
    ) -> int:
        """Mask `values` in place; returns the masked zero word with the last fragment of a vector, else 0.

        Args:
            tree, step, quantity: where in the run. values: int64 or uint32, C-contiguous; overwritten.
            first: whether this is the vector's first fragment. words: of the whole vector.
        """
        if self._masker is None:
            raise ProtocolError(
                f"{quantity!r} was asked for before the keys were confirmed; rule: no vector goes out unmasked"
            )
        flat: RingVector = values.view(np.uint64) if values.itemsize == 8 else values.view(np.uint32)
        if flat.ndim > 1:
            flat = flat.reshape(-1)
        if first:
            label = Label(
                run=self.run.run_id,
                epoch=self.run.epoch,
                tree=tree + 1,
                step=step,
                tensor=quantity,
                roster_hash=self._setup.roster,
                transcript_hash=self._transcript.digest(),
                length=words + 1,
                ring=64 if values.itemsize == 8 else 32,
            )
            if words == flat.size:
                self._vector = None
                zero = self._masker.mask(label, flat)
                self.masked_bytes += flat.nbytes
                return zero
            self._vector = self._masker.open(label)
        if self._vector is None:
            raise ProtocolError(f"{quantity!r}: a later fragment before the first")
        self._vector.mask_into(flat, flat)
        self.masked_bytes += flat.nbytes
        if self._vector.remaining:
            return 0
        zero = self._vector.finish()
        self._vector = None
        return zero

    def erase(self) -> None:
        """Zero all keys."""
        if self._masker is not None:
            self._masker.erase()
        if self.vouching is not None:
            self.vouching.erase()
        self._setup.erase()
