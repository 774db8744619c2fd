"""What a member's file says of the engine that holds its rows: the table [engine]."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from hansa.declared import one_of
from hansa.errors import in_words

MOST_WORKERS = 4096

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}

Memory = Annotated[
    str, Meta(pattern=r"\A[1-9][0-9]{0,8}(KB|MB|GB|TB)\Z", description='a size such as "8GB" (KB, MB, GB or TB)')
]


class EngineDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table [engine] as it is written. Which keys go with which kind, `engine_of` says.

    Attributes:
        kind: "ray", or "disk". folder: of `DiskSettings`. address, workers, threads, memory: of `RaySettings`.
    """

    kind: Annotated[str, one_of("ray", "disk")]
    folder: Annotated[str, Meta(pattern=r"\A[^\0]+\Z", description="a path of a folder")] | None = None
    workers: (
        Annotated[int, Meta(ge=1, le=MOST_WORKERS, description=f"a whole number from 1 to {MOST_WORKERS}")] | None
    ) = None
    address: Annotated[str, Meta(min_length=1, max_length=300)] | None = None
    threads: Annotated[int, Meta(ge=1, le=256, description="a whole number from 1 to 256")] | None = None
    memory: Memory | None = None


@dataclass(frozen=True)
class RaySettings:
    """The workers of a Ray cluster hold a party's rows.

    Attributes:
        address: of the cluster: "auto" finds the one of this host, "local" starts one that ends with the run.
        workers: how many hold rows. threads: that each computes with. memory_bytes: that each is given room for, or None.
    """

    workers: int
    address: str = "auto"
    threads: int = 1
    memory_bytes: int | None = None


@dataclass(frozen=True)
class DiskSettings:
    """A party's process holds its rows, with their codes in a file of this folder."""

    folder: Path


def engine_of(document: EngineDocument, above: Path) -> RaySettings | DiskSettings:
    """What a table [engine] says; its paths start from the folder `above`. Raises ValueError: a sentence about its keys."""
    keys = {"ray": ("workers", "address", "threads", "memory"), "disk": ("folder",)}
    own = keys[document.kind]
    for kind, others in keys.items():
        for key in others:
            if key not in own and getattr(document, key) is not None:
                raise ValueError(f'engine.{key} goes with engine.kind = "{kind}" only; leave it out')
    if document.kind == "disk":
        if document.folder is None:
            raise ValueError("engine.folder is missing; name a folder with room for a byte or two a row and feature")
        folder = above / document.folder
        try:
            there = folder.is_dir()
        except OSError as error:
            raise ValueError(
                f"engine.folder is {document.folder!r}, which cannot be looked at ({in_words(error)}); let this account read it, or "
                "name another folder"
            ) from error
        if not there:
            raise ValueError(f"engine.folder is {document.folder!r}, and there is no folder {folder}; make it")
        return DiskSettings(folder)
    if document.workers is None:
        raise ValueError("engine.workers is missing; say how many workers hold the rows")
    return RaySettings(document.workers, document.address or "auto", document.threads or 1, _bytes_of(document.memory))


def _bytes_of(memory: str | None) -> int | None:
    if memory is None:
        return None
    number, unit = re.findall(r"\A(\d+)(\w+)\Z", memory)[0]
    return int(number) * _UNITS[unit]
