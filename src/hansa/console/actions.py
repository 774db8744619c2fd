"""What a form of the console asks for, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec


@dataclass(frozen=True)
class Form:
    """A form as it was sent: values of its path and its fields, the bytes of a file that came with it, and who sent it."""

    values: Mapping[str, str] = field(default_factory=dict)
    several: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    file: bytes = b""
    who: str = ""

    def get(self, name: str) -> str:
        """The value of this name; empty where there is none."""
        return self.values.get(name, "")

    def all(self, name: str) -> tuple[str, ...]:
        """Every value of this name, such as of boxes that were ticked."""
        return self.several.get(name, ())


class Done(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an action did: a sentence, the page to go on with, and the proposal, run or account that it was about.

    secret: what the person who did it is told, once, and nobody else; it is not written down.
    """

    text: str
    to: str
    about: str
    secret: str = ""


class Offered(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file that a page offers: its name, its kind and its bytes.

    Attributes:
        policy: Content-Security-Policy of a page of its own that is shown in the browser; empty where the file is saved.
    """

    name: str
    kind: str
    content: bytes
    policy: str = ""
