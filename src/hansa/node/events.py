"""What happens while a member runs, as one JSON object each: what `run` gives its caller, and the lines of `--json`.

Every event is a frozen struct with one JSON form; "event" says which it is. The kinds of progress are the roles' own (`roles.run`).
"""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec

from hansa.node.record import Failure, Record
from hansa.plan import Value
from hansa.roles.run import Binned, Progress, Registered, Resumed, TableDescribed, Trained, TreeGrown, Withheld
from hansa.transport.notices import Kind


class Listening(
    msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="listening", forbid_unknown_fields=True
):
    """Others can connect to the aggregator or hub now.

    Attributes:
        host, port: where. member: who listens.
    """

    host: str
    port: int
    member: str


class Noticed(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="notice", forbid_unknown_fields=True):
    """What happens to a connection: the fields of `transport.notices.Notice`, and the sentence for people.

    Names and texts are as they came: whoever prints them filters them.
    """

    kind: Kind
    member: str
    waiting_for: tuple[str, ...]
    seconds: float
    limit_s: float | None
    text: str
    sentence: str


class Paused(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="paused", forbid_unknown_fields=True):
    """The run stands still, and this member waits until it can go on.

    Attributes:
        member: this one. waiting_for: who is gone, as far as this member knows. limit_s: seconds after which it gives up.
        text: what happened. run: the run's id in hex, once known.
    """

    member: str
    waiting_for: tuple[str, ...]
    limit_s: float
    text: str
    run: str


class FoldBegan(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="fold", forbid_unknown_fields=True):
    """The run of a fold of a cross-validation begins.

    Attributes:
        member: this one. fold: from 1 to folds.
    """

    member: str
    fold: int
    folds: int


class TrialBegan(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="trial", forbid_unknown_fields=True):
    """The run of a trial of a search for parameters begins.

    Attributes:
        member: this one. trial: from 1 to trials. parameters: those that are searched.
    """

    member: str
    trial: int
    trials: int
    parameters: dict[str, Value]


class Stage(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="stage", forbid_unknown_fields=True):
    """What a simulation does next, in words."""

    text: str


class Ended(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="record", forbid_unknown_fields=True):
    """The run is over; the last line of `--json` where it succeeded."""

    record: Record


class Failed(Failure, frozen=True, kw_only=True, tag_field="event", tag="error", forbid_unknown_fields=True):
    """The run, or the command, failed; the last line of `--json` then."""


Event = Listening | FoldBegan | TrialBegan | Progress | Noticed | Paused | Stage
"""What `run` and simulations tell while they go on."""

Line = Event | Ended | Failed
"""Everything that a line of `--json` may be."""

OnEvent = Callable[[Event], None]


def line_of(line: msgspec.Struct) -> str:
    """An event, a record or a report as JSON on one line: ASCII, so that nobody else's text does anything to a terminal."""
    return json.dumps(msgspec.to_builtins(line), allow_nan=False)


_LINES: msgspec.json.Decoder[Line] = msgspec.json.Decoder(
    Listening
    | FoldBegan
    | TrialBegan
    | Registered
    | Resumed
    | Binned
    | TreeGrown
    | Trained
    | Withheld
    | TableDescribed
    | Noticed
    | Paused
    | Stage
    | Ended
    | Failed
)


def read_line(line: str | bytes) -> Line:
    """What a member's command wrote with `--json`, held strictly to its kind. Raises msgspec.DecodeError."""
    try:
        return _LINES.decode(line)
    except (RecursionError, UnicodeError) as error:
        raise msgspec.DecodeError(str(error)) from error
