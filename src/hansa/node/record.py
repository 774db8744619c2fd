"""A member's record of a run: a JSON file that is there from the start of the process, and says how the run ended, also when it failed.

It is replaced when the process starts, so that the record of an earlier run is never taken for this one's, and written anew at every
stage: whole or not at all, mode 0600. A process that is killed leaves the last stage, with the state "joining" or "running".

Each kind of member has a struct of its own; "role" in the file says which. What is not known yet is left out of the file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from hansa.consortium.identity import fingerprint
from hansa.errors import HansaError, OutputError, no_memory
from hansa.files import MOST_MODEL_BYTES, read_whole, write_whole
from hansa.node import logs
from hansa.node.config import MemberFile
from hansa.node.fold_scores import FoldScores
from hansa.node.phases import PhaseCost
from hansa.node.trial_scores import SearchScores
from hansa.roles.run import Purpose
from hansa.transport.channel import Traffic
from hansa.version import __version__

State = Literal["joining", "running", "finished", "withheld", "failed", "interrupted"]

REWRITE_S = 10.0
"""Seconds at least between two writings of a record while trees grow."""


class Failure(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What ended a run, or a command, as programs read it.

    Attributes:
        kind: of the error. text: for people. retry: whether the same command may succeed later.
        member, suspects, run, rule, cure: see `HansaError`.
    """

    kind: str
    text: str
    retry: bool
    member: str = ""
    suspects: tuple[str, ...] = ()
    run: str = ""
    rule: str = ""
    cure: str = ""


class Bytes(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What left one member to the hub, and came from it."""

    bytes_up: int
    bytes_down: int


def bytes_of(traffic: Mapping[str, Traffic]) -> dict[str, Bytes]:
    """The same by member, sorted."""
    return {name: Bytes(bytes_up=t.bytes_up, bytes_down=t.bytes_down) for name, t in sorted(traffic.items())}


class Seconds(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long parts of a run took.

    Attributes:
        total: of a hub's run. binning: from the last member's joining to the cuts. training: from there to the end.
    """

    total: float | UnsetType = UNSET
    binning: float | UnsetType = UNSET
    training: float | UnsetType = UNSET


class _Started(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the record of every member holds.

    Attributes:
        hansa: version. member, identity, members: who this is, and fingerprint and digest that others compare.
        plan, plan_file, mode: the plan's digest, its file's SHA-256, its mode.
        purpose: "train", or "describe" where the pooled table is described and nothing trained.
        state, stage, run, trees: how far the run is. started, ended: times in UTC. error: what ended it.
        bytes_up, bytes_down, clear_bytes: what left so far, and came, and how much of what left was neither masked nor sealed.
    """

    hansa: str
    member: str
    plan: str
    plan_file: str
    mode: str
    identity: str
    members: str
    state: State
    stage: str | None
    run: str | None
    trees: int
    started: str
    ended: str | None
    error: Failure | None
    purpose: Purpose = "train"
    bytes_up: int | UnsetType = UNSET
    bytes_down: int | UnsetType = UNSET
    clear_bytes: int | UnsetType = UNSET


class AggregatorRecord(_Started, frozen=True, kw_only=True, tag_field="role", tag="aggregator"):
    """An aggregator's record.

    Attributes:
        masked_bytes: of what came from the parties. clear: what came without a mask.
        trees_grown, exchanges: in all. history: metric -> its values after each round. without_value: metric -> why it has none.
        shap: by feature the mean size of SHAP values, where the plan has evaluation.shap.
        roster: (party, training rows, rows held out). traffic: by party. cross_validation: of a plan of folds, and search: of one of
            trials; the roster is the last one's. left_out: parties that the run went on without, where there are any.
    """

    cross_validation: FoldScores | UnsetType = UNSET
    search: SearchScores | UnsetType = UNSET
    masked_bytes: int | UnsetType = UNSET
    clear: str | UnsetType = UNSET
    trees_grown: int | UnsetType = UNSET
    exchanges: int | UnsetType = UNSET
    history: dict[str, tuple[float | None, ...]] | UnsetType = UNSET
    without_value: dict[str, str] | UnsetType = UNSET
    shap: dict[str, float] | UnsetType = UNSET
    model_sha256: str | UnsetType = UNSET
    roster: tuple[tuple[str, int, int], ...] | UnsetType = UNSET
    left_out: tuple[str, ...] | UnsetType = UNSET
    seconds: Seconds | UnsetType = UNSET
    traffic: dict[str, Bytes] | UnsetType = UNSET


class PartyRecord(_Started, frozen=True, kw_only=True, tag_field="role", tag="party"):
    """A party's record of a federated or secure-aggregation run.

    Attributes:
        masked_bytes: of what left. clear: what left without a mask. rows, warnings: of its table.
        model_sha256: of the model; None where it is no receiver. left_out, shap: as the aggregator's.
    """

    masked_bytes: int | UnsetType = UNSET
    clear: str | UnsetType = UNSET
    rows: int | UnsetType = UNSET
    warnings: tuple[str, ...] | UnsetType = UNSET
    model_sha256: str | UnsetType | None = UNSET
    left_out: tuple[str, ...] | UnsetType = UNSET
    shap: dict[str, float] | UnsetType = UNSET


class CollectorRecord(_Started, frozen=True, kw_only=True, tag_field="role", tag="collector"):
    """A collector's record; its bytes are those of its line to the aggregator.

    Attributes:
        clear: what a party sends it without a mask. model_sha256: of the model, as the aggregator told.
        roster: (party, training rows, rows held out) of its parties. traffic: by party.
    """

    clear: str | UnsetType = UNSET
    model_sha256: str | UnsetType | None = UNSET
    roster: tuple[tuple[str, int, int], ...] | UnsetType = UNSET
    traffic: dict[str, Bytes] | UnsetType = UNSET


class SharedRecord(_Started, frozen=True, kw_only=True, tag_field="role", tag="member"):
    """A member's record of a coopetitive run: what it was, sent and saw opened. Holds nothing of rows or model but the model's hash.

    Attributes:
        roles: "hub", "owner", "server", "receiver". sealed_bytes: of what left.
        rounds: of the protocol, at a server. training_rounds: those of training. openings: what was opened to it.
        history: metric -> (trees, value) wherever it was opened to it. without_value: metric -> why it has none.
        cross_validation, search: of a plan of folds or trials, at a server.
        cut: why fewer rounds than asked for were released.
        rows, warnings: of its table. model_sha256: of the model; None where it is no receiver.
        tree_seconds, phase_trees, phases, peak_bytes, seconds: what training cost a server; phases are of the last `phase_trees` trees.
    """

    roles: tuple[str, ...]
    cross_validation: FoldScores | UnsetType = UNSET
    search: SearchScores | UnsetType = UNSET
    sealed_bytes: int | UnsetType = UNSET
    rounds: int | UnsetType = UNSET
    history: dict[str, tuple[tuple[int, float | None], ...]] | UnsetType = UNSET
    without_value: dict[str, str] | UnsetType = UNSET
    openings: tuple[str, ...] | UnsetType = UNSET
    cut: str | UnsetType = UNSET
    rows: int | UnsetType = UNSET
    warnings: tuple[str, ...] | UnsetType = UNSET
    model_sha256: str | UnsetType | None = UNSET
    training_rounds: int | UnsetType = UNSET
    tree_seconds: tuple[float, ...] | UnsetType = UNSET
    phase_trees: int | UnsetType = UNSET
    phases: dict[str, PhaseCost] | UnsetType = UNSET
    peak_bytes: int | UnsetType = UNSET
    seconds: Seconds | UnsetType = UNSET


class HubRecord(SharedRecord, frozen=True, kw_only=True, tag_field="role", tag="hub"):
    """A hub's record, with those of its other roles in it.

    Attributes:
        roster: (member, training rows, rows held out). relayed: (from, to, sealed bytes). traffic: by member.
    """

    roster: tuple[tuple[str, int, int], ...] | UnsetType = UNSET
    relayed: tuple[tuple[str, str, int], ...] | UnsetType = UNSET
    traffic: dict[str, Bytes] | UnsetType = UNSET


Record = AggregatorRecord | PartyRecord | CollectorRecord | SharedRecord | HubRecord


def read_record(path: Path) -> Record:
    """The record in a file that this member's process wrote. Raises OSError, or ValueError where it is none of this version."""
    record: Record = msgspec.json.decode(read_whole(path), type=Record)
    return record


R = TypeVar("R", bound=_Started)
T = TypeVar("T")


def known(value: T | UnsetType) -> T:
    """A part of a record that every run of its kind has at its end. Raises HansaError where the run is not over."""
    if isinstance(value, UnsetType):
        raise HansaError("the record is not that of a finished run: the part that is asked for is not in it")
    return value


Counts = Callable[[], Mapping[str, int]]
"""What left so far: `bytes_up`, `bytes_down`, and how many bytes of it masked, sealed or in the clear."""


class RunRecord(Generic[R]):
    """One member's record, while its process runs. Made by `keeping`.

    Attributes:
        content: what stands in it.
    """

    def __init__(self, path: Path | None, content: R) -> None:
        self.content: R = content
        self._path = path
        self._counts: Counts = dict
        self._written_at = 0.0
        self.write()

    def count(self, counts: Counts) -> None:
        """From now on the record says what left so far, as `counts` gives it."""
        self._counts = counts

    def stage(self, stage: str, trees: int, run: bytes) -> None:
        """Note how far the run is. Where the file cannot be written now, the run goes on, and the log says so."""
        news = stage != self.content.stage
        self._note(state="running", stage=stage, run=run.hex() or None, trees=trees)
        if news or time.monotonic() - self._written_at > REWRITE_S:
            self._try_to_write()

    def end(self, state: State, **parts: Any) -> R:
        """Write the record for the last time; the record. `parts`: fields of its struct."""
        self._note(**parts, state=state, ended=logs.moment(time.time()))
        if state == "finished":
            self.write()
        else:
            self._try_to_write()
        return self.content

    def write(self) -> None:
        """Write the file, where there is to be one. Raises OutputError."""
        self._note(**self._counts())
        self._written_at = time.monotonic()
        if self._path is not None:
            write_whole(self._path, (json.dumps(msgspec.to_builtins(self.content), indent=2) + "\n").encode())

    def _note(self, **parts: Any) -> None:
        self.content = msgspec.structs.replace(self.content, **parts)

    def _try_to_write(self) -> None:
        try:
            self.write()
        except OutputError as error:
            logs.note(logging.WARNING, f"the record is not up to date: {error}")


@contextlib.contextmanager
def keeping(path: Path | None, first: R) -> Iterator[RunRecord[R]]:
    """A record from now on; an error that passes is noted in it, and says in which run it was.

    Args:
        path: of the file, or None for none. first: what is known before the run (`first_record`).

    Raises OutputError where the record cannot be written at the start, or at the end of a run that succeeded.
    """
    record = RunRecord(path, first)
    try:
        yield record
    except HansaError as error:
        error.run = error.run or record.content.run or ""
        record.end("failed", error=failure_of(error))
        raise
    except KeyboardInterrupt as interrupt:
        text = f"this process was stopped ({interrupt or 'SIGINT'})"
        record.end("interrupted", error=Failure(kind="Interrupted", text=text, retry=True))
        raise
    except MemoryError as fault:
        short = no_memory(fault)
        record.end("failed", error=failure_of(short))
        raise short from fault
    except BaseException as fault:
        record.end("failed", error=Failure(kind=type(fault).__name__, text=str(fault), retry=False))
        raise


def failure_of(error: HansaError) -> Failure:
    """An error as programs read it."""
    return Failure(
        kind=type(error).__name__,
        text=str(error),
        retry=error.retry,
        member=error.member,
        suspects=error.suspects,
        run=error.run,
        rule=error.rule,
        cure=error.cure,
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, a plan's or a model's, in hex."""
    return hashlib.sha256(read_whole(path, MOST_MODEL_BYTES)).hexdigest()


FRAMING = "names and positions of sums, lengths, keys with their signatures and confirmations, the model's hash"


CLEAR = {
    "federated": f"numbers of rows, every sum; {FRAMING}",
    "secure-aggregation": f"numbers of rows; {FRAMING}",
}
"""What a party sends without a mask, by mode."""


def first_record(kind: type[R], member: MemberFile, **parts: Any) -> R:
    """What a record of this kind says before the run: who this is, and the digests that other members compare.

    Args:
        parts: further fields of its struct.
    """
    return kind(
        hansa=__version__,
        member=member.identity.name,
        plan=member.plan.digest().hex(),
        plan_file=file_sha256(member.plan_path),
        mode=member.plan.mode,
        identity=fingerprint(member.identity.public),
        members=member.members.digest().hex(),
        state="joining",
        stage=None,
        run=None,
        trees=0,
        started=logs.moment(time.time()),
        ended=None,
        error=None,
        **parts,
    )
