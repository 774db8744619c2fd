"""Processes of a simulation: of several that fail, the one is shown that says why."""

from __future__ import annotations

import os
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from hansa.errors import HansaError
from hansa.node.events import Failed
from hansa.simulation import processes
from hansa.simulation.processes import Processes


class Ended:
    """A process that has ended."""

    def __init__(self, status: int) -> None:
        self.exitcode = status

    def terminate(self) -> None:
        pass

    def join(self, timeout: float | None = None) -> None:
        pass


def print_no_event(arguments: tuple[str, ...], output: Connection, errors: Path) -> None:
    """Instead of a member's command."""
    errors.touch()
    os.write(output.fileno(), b"no event\n")
    time.sleep(60)


def failed(monkeypatch, told: dict[str, Failed]) -> HansaError:
    monkeypatch.setattr(processes.time, "sleep", lambda _: None)
    with Processes() as run:
        for name, failure in told.items():
            run._processes[name] = Ended(1)  # type: ignore[assignment]
            run._told[name] = failure
        with pytest.raises(HansaError) as caught:
            run.next_event()
    return caught.value


@pytest.mark.parametrize("kind", ["RunStopped", "MemberLost", "LinkLost", "TransportError"])
def test_the_member_that_says_why_is_shown_and_not_one_that_follows(monkeypatch, kind):
    """The text of the follower names everybody and everything: it is not looked at."""
    error = failed(
        monkeypatch,
        {
            "aurora": Failed(kind=kind, text="ProtocolError of 'hub'", retry=True, member="hub"),
            "hub": Failed(
                kind="ProtocolError", text="RunStopped", retry=False, member="borealis", run="ab", rule="r", cure="c"
            ),
        },
    )
    assert str(error) == "the process of member 'hub' ended with status 1: RunStopped"
    assert (error.member, error.run, error.rule, error.cure) == ("borealis", "ab", "r", "c")


def test_where_all_follow_the_first_by_name_is_shown(monkeypatch):
    lost = Failed(kind="MemberLost", text="gone", retry=True, member="cirrus")
    assert "'aurora'" in str(failed(monkeypatch, {"borealis": lost, "aurora": lost}))


def test_a_process_that_writes_something_else_than_events_ends_the_run(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(processes, "_run_command", print_no_event)
    with Processes() as run:
        run.start("party", "aurora", tmp_path)
        with pytest.raises(HansaError, match=r"'aurora' ended with status .*: wrote what is no line of `--json`"):
            run.next_event()


def test_where_the_folder_for_temporary_files_has_a_long_name_members_start_by_themselves(tmp_path: Path, monkeypatch):
    def refuse() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(processes.forkserver, "ensure_running", refuse)
    monkeypatch.setattr(processes, "_run_command", print_no_event)
    with Processes() as run:
        run.start("party", "aurora", tmp_path)
        with pytest.raises(HansaError, match=r"'aurora' ended with status .*: wrote what is no line of `--json`"):
            run.next_event()


def test_a_signal_while_a_process_starts_passes_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    started = Processes()
    monkeypatch.setattr(started._context.Process, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), started:
        started.start("party", "aurora", tmp_path)
