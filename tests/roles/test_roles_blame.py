"""Who is at fault is an attribute of the error, never something that a text is searched for."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

import hansa.errors
from hansa.errors import (
    HansaError,
    LinkLost,
    MemberLost,
    OutputError,
    ProtocolError,
    RunStopped,
    TransportError,
    blaming,
    error_kinds,
)
from hansa.protocol.messages import Abort, Done, abort, decode, encode
from hansa.roles.run import run_hub, run_member
from hansa.roles.shared.relay import RelayHub
from shares import HUB, shared_plan, signer

ROLES = Path(hansa.errors.__file__).parent / "roles"

OF_NOBODY = {
    # This process called its own parts in a wrong order: a fault of the program, not of a member.
    "rows came before the cuts were known",
    "rows cannot be shared before the cuts are known",
    "trees before the cuts",
    "was asked for before the run's keys",
    "was asked for before the keys were confirmed",
    "a later fragment before the first",
}

OF_THE_CALLER = {
    # What is pooled is checked alike at both ends; each end says whose words they were.
    ("summed/verified_counts.py", "pooled"),
    ("summed/verified_counts.py", "open"),
    ("summed/verified_counts.py", "_check_proofs"),
    ("summed/verified_counts.py", "_check_signature"),
    ("summed/verified_counts.py", "check_evidence"),
    # Of the hub's words, and of the order in which it sent them.
    ("key_setup.py", "committed"),
    ("key_setup.py", "announcement"),
    ("key_setup.py", "exchange"),
    ("summed/checkpoints.py", "agree"),
    ("summed/checkpoints.py", "left_out"),
    ("summed/checkpoints.py", "check_signatures"),
    ("summed/levels.py", "dictionary_of"),
    ("summed/levels.py", "check_levels"),
    ("summed/levels.py", "own_codes"),
    ("summed/verified_counts.py", "open_signed"),
    ("summed/verified_counts.py", "recall_counts"),
    ("summed/describing.py", "check_request"),
    ("summed/describing.py", "count_columns"),
    ("summed/describing.py", "check_own"),
    ("summed/describing.py", "check_told"),
    ("summed/describing.py", "tell"),
    ("shared/checkpoints.py", "agree"),
    ("shared/resumption.py", "sign"),
    ("shared/resumption.py", "take"),
    # All servers said it (`told_by_all`).
    ("shared/sharing.py", "_start_of"),
}
"""Functions whose caller names who is at fault."""


def refusals() -> Iterator[tuple[str, str, ast.Call]]:
    """(file, function, call) of every `ProtocolError(...)` in roles."""
    for path in sorted(ROLES.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "ProtocolError":
                    yield str(path.relative_to(ROLES)), function.name, call


def test_every_refusal_of_a_role_names_a_member():
    found = list(refusals())
    assert len(found) > 80
    silent = [
        (file, function, call.lineno)
        for file, function, call in found
        if not {keyword.arg for keyword in call.keywords} & {"member", "suspects"}
        and (file, function) not in OF_THE_CALLER
        and function != "_blamed"  # names several servers, or one owner, behind it
        and not any(part in ast.unparse(call).replace("\\'", "'") for part in OF_NOBODY)
    ]
    assert silent == []


def test_what_is_excepted_is_there():
    texts = [ast.unparse(call).replace("\\'", "'") for _, _, call in refusals()]
    assert all(any(part in text for text in texts) for part in OF_NOBODY)
    assert {(file, function) for file, function, _ in refusals()} >= OF_THE_CALLER


class Hub:
    """A hub that gives some frames, then fails; notes what is sent."""

    def __init__(self, *frames: tuple[str, bytes], end: HansaError | None = None) -> None:
        self._frames = list(frames)
        self._end = end
        self.sent: list[tuple[str, bytes]] = []

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        if not self._frames and self._end is not None:
            raise self._end
        name, frame = self._frames.pop(0)
        return name, memoryview(frame)

    def send(self, member: str, frame: bytes) -> None:
        self.sent.append((member, bytes(frame)))

    def blamed(self) -> set[str]:
        """Whom the hub named to its members when it stopped."""
        told = [decode("hub", frame) for _, frame in self.sent]
        assert told
        assert all(isinstance(message, Abort) for message in told)
        return {message.member for message in told}


class Refusing:
    """A hub's role that refuses the first frame."""

    done = False
    run = b"\x0a\x0b"
    parties = ("aurora", "borealis")

    def __init__(self, error: HansaError) -> None:
        self._error = error

    def handle(self, member: str, frame: memoryview) -> Iterator[tuple[str, bytes]]:
        raise self._error
        yield

    def waiting_for(self) -> list[str]:
        return ["borealis"]

    def has_left(self, member: str) -> bool:
        return False


@pytest.mark.parametrize(
    ("error", "blamed"),
    [
        (ProtocolError("a frame that nobody understands", member="aurora"), "aurora"),
        (ProtocolError("the hub 'borealis' speaks of 'aurora' and blames nobody"), ""),
        (ProtocolError("one of the two", suspects=("aurora", "borealis")), ""),
        (ProtocolError("another one's words", member="borealis"), "borealis"),
        (RunStopped("aurora", "enough", retry=False), "aurora"),
        (MemberLost("borealis", "hung up"), "borealis"),
        (OutputError("/var/aurora: no space is left for 'aurora'"), ""),
        (HansaError("member 'aurora' is what this text is about"), ""),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_hub_names_who_is_at_fault_by_the_error_and_not_by_its_text(error, blamed):
    hub = Hub(("aurora", b"x"))
    with pytest.raises(type(error)) as caught:
        run_hub(Refusing(error), hub)
    assert hub.blamed() == {blamed}
    assert caught.value is error
    assert error.run == "0a0b"


def test_a_bad_frame_is_its_senders_fault():
    plan = shared_plan()
    hub = Hub(("cirrus", b"\x01\x02"))
    with pytest.raises(ProtocolError) as caught:
        run_hub(RelayHub(plan, signer(plan, HUB).identities), hub)
    assert caught.value.member == "cirrus"
    assert caught.value.rule
    assert hub.blamed() == {"cirrus"}


def test_a_message_out_of_turn_is_its_senders_fault_with_the_rule():
    plan = shared_plan()
    with pytest.raises(ProtocolError) as caught:
        run_hub(RelayHub(plan, signer(plan, HUB).identities), Hub(("dune", encode(Done()))))
    assert (caught.value.member, caught.value.rule) == ("dune", "expected Join, Abort")


def test_a_hub_that_waits_in_vain_names_who_is_owed_and_blames_nobody():
    hub = Hub(end=TransportError("no frame in 5 s"))
    with pytest.raises(TransportError) as caught:
        run_hub(Refusing(HansaError("never")), hub)
    assert caught.value.member == "borealis"
    assert hub.blamed() == {""}


class Left(Hub):
    """A hub that nobody can be sent anything through: borealis left, and what it said last may be there to be received."""

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        if not self._frames:
            raise TransportError("no frame in 0 s")
        return super().receive(timeout)

    def send(self, member: str, frame: bytes) -> None:
        super().send(member, frame)
        if member == "borealis":
            raise MemberLost(member, "it has left")


class Answering(Refusing):
    """A hub's role that answers aurora by a frame for borealis, and hears an Abort."""

    def handle(self, member: str, frame: memoryview) -> Iterator[tuple[str, bytes]]:
        if member == "borealis":
            raise self._error
        yield "borealis", b"next"


@pytest.mark.parametrize(
    ("unread", "kind"),
    [
        ((), MemberLost),
        ((("aurora", encode(Done())),), MemberLost),
        ((("aurora", abort("", "of another", True)),), MemberLost),
        ((("borealis", encode(Done())), ("borealis", abort("", "enough", True))), RunStopped),
    ],
)
def test_a_member_that_stopped_the_run_and_left_is_heard_out(unread, kind):
    stopped = RunStopped("borealis", "party 'borealis' stopped the run: enough", retry=True)
    with pytest.raises(kind, match="borealis") as caught:
        run_hub(Answering(stopped), Left(("aurora", b"x"), *unread))
    assert (caught.value is stopped) == (kind is RunStopped)


class Member:
    """A member's role that fails at once."""

    done = False
    run = b""

    def __init__(self, error: HansaError) -> None:
        self._error = error

    def opening(self) -> Iterable[bytes]:
        raise self._error

    def handle(self, frame: memoryview) -> Iterator[bytes]:
        raise self._error
        yield

    def erase(self) -> None:
        """There are no keys."""


class Line:
    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def send(self, frame: bytes) -> None:
        self.sent.append(bytes(frame))

    def receive(self, timeout: float | None = None) -> memoryview:
        raise TransportError("nothing comes")


def test_a_member_whose_own_disk_is_full_blames_nobody():
    line, error = Line(), OutputError("/home/aurora: full", retry=True)
    with pytest.raises(OutputError):
        run_member(Member(error), line)
    assert (error.member, error.suspects, error.run) == ("", (), "")
    (told,) = (decode("aurora", frame) for frame in line.sent)
    assert (told.member, told.retry) == ("", True)
    assert "/home" not in told.reason


def test_a_member_that_waits_in_vain_names_all_who_are_owed():
    with pytest.raises(TransportError) as caught:
        run_member(Member(TransportError("no frame in 5 s")), Line(), 5.0, lambda: ["aurora", "dune"])
    assert (caught.value.member, caught.value.suspects) == ("", ("aurora", "dune"))


def test_whoever_is_named_first_stays_named():
    with pytest.raises(ProtocolError) as caught, blaming("hub"):
        raise ProtocolError("x", member="aurora")
    assert caught.value.member == "aurora"
    with pytest.raises(ProtocolError) as caught, blaming("hub"):
        raise ProtocolError("x")
    assert caught.value.member == "hub"
    with pytest.raises(ProtocolError) as caught, blaming("a", "b"):
        raise ProtocolError("x")
    assert (caught.value.member, caught.value.suspects) == ("", ("a", "b"))
    with pytest.raises(OutputError) as caught, blaming("hub"):
        raise OutputError("full")
    assert caught.value.member == ""


def test_kinds_of_errors_say_whether_they_follow_from_another_members():
    kinds = error_kinds()
    assert {name for name, kind in kinds.items() if kind.follows} == {
        "RunStopped",
        "TransportError",
        "LinkLost",
        "MemberLost",
        "RunUnknown",
    }
    assert kinds["LinkLost"] is LinkLost
    assert {"HansaError", "ProtocolError", "ServersDisagree", "PlanError"} <= set(kinds)


def test_an_abort_of_the_hub_names_whom_the_hub_names():
    assert RunStopped("hub", "enough", retry=True, member="aurora").member == "aurora"
    assert RunStopped("hub", "enough", retry=True).member == "hub"
