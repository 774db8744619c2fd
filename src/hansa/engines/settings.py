"""What a member's file says of the engine that holds its rows: the table [engine]."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

MOST_WORKERS = 4096

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

Memory = Annotated[
    str, Meta(pattern=r"\A[1-9][0-9]{0,8}(KB|MB|GB|TB)\Z", description='a size such as "8GB" (KB, MB, GB or TB)')
]


class EngineSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which engine holds a party's rows.

    Attributes:
        kind: "ray". address: of the cluster: "auto" finds the one of this host, "local" starts one that ends with the run.
        workers: how many hold rows. threads: that each computes with. memory: that each is given room for, or None.
    """

    kind: Literal["ray"]
    workers: Annotated[int, Meta(ge=1, le=MOST_WORKERS, description=f"a whole number from 1 to {MOST_WORKERS}")]
    address: Annotated[str, Meta(min_length=1, max_length=300)] = "auto"
    threads: Annotated[int, Meta(ge=1, le=256, description="a whole number from 1 to 256")] = 1
    memory: Memory | None = None

    @property
    def memory_bytes(self) -> int | None:
        """`memory` as a number."""
        if self.memory is None:
            return None
        number, unit = re.findall(r"\A(\d+)(\w+)\Z", self.memory)[0]
        return int(number) * _UNITS[unit]
