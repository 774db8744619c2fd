"""Who asks a party: at which step the aggregator is, and how what is wrong with its words becomes its fault."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.errors import HansaError, ProtocolError
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import SETUP, Message, Tensor
from hansa.roles.summed.party_rows import DoesNotFit


class Asker:
    """Who asks this party, and what for.

    Attributes:
        tree, step: that sums are asked for now.
    """

    def __init__(self, plan: Plan, name: str) -> None:
        self.tree = SETUP
        self.step = 0
        self._name = name
        self._aggregator = plan.aggregator
        self._above = plan.above(name)

    def array(
        self, message: msgspec.Struct, name: str, dtype: type[np.generic], *shape: int | None
    ) -> npt.NDArray[np.generic]:
        """A copy of a tensor of the aggregator's message, held to its dtype and shape."""
        tensor: Tensor = getattr(message, name)
        what = f"{type(message).__name__}.{name}"
        return messages.to_array(self._aggregator, what, tensor, dtype, shape).copy()

    def whole(self, message: Message, name: str, length: int | None) -> npt.NDArray[np.int64]:
        """The same of whole numbers, (length,)."""
        return self.array(message, name, np.int64, length).astype(np.int64)

    def broken(self, rule: str) -> ProtocolError:
        """The error that the aggregator broke a rule."""
        through = "" if self._above == self._aggregator else f", through collector {self._above!r},"
        return ProtocolError(
            f"member {self._aggregator!r} (aggregator){through} to {self._name!r}, tree {self.tree}, step {self.step}: {rule}",
            member=self._aggregator,
            rule=rule,
        )

    @contextmanager
    def blaming(self) -> Iterator[None]:
        """What is wrong with something the aggregator sent is its fault, or that of the party whose words it passed on."""
        try:
            yield
        except HansaError as error:
            if isinstance(error, ProtocolError) and error.member == self._aggregator:
                raise
            broken = self.broken(str(error))
            if others := (error.member,) if error.member else error.suspects:
                broken.member, broken.suspects = "", (self._aggregator, *others)
            raise broken from error

    @contextmanager
    def fitting(self) -> Iterator[None]:
        """What the aggregator told does not fit this party's rows: its fault."""
        try:
            yield
        except DoesNotFit as error:
            raise self.broken(str(error)) from error

    def name_way(self, error: ProtocolError) -> None:
        """Name the collector too, through which the aggregator's words came."""
        if error.member == self._aggregator != self._above:
            error.member, error.suspects = "", (self._aggregator, self._above)
