"""A transcript holds every frame that passed, and a damaged one is refused."""

from __future__ import annotations

import stat

import pytest

from hansa.errors import OutputError, TransportError
from hansa.transport.in_process import InProcessHub
from hansa.transport.recording import MAGIC, RecordedFrame, RecordingChannel, RecordingHub, read_transcript


def recorded(folder):
    hub = RecordingHub(InProcessHub({"north": lambda frame: [b"1" + frame, b"2" + frame]}), folder)
    hub.send("north", b"question")
    assert bytes(hub.receive(1)[1]) == b"1question"
    hub.send("north", b"more")
    assert bytes(hub.receive(1)[1]) == b"2question"
    assert hub.traffic["north"].frames_up == 2
    hub.close()
    hub.close()
    return folder / "hub.frames"


def test_what_was_said_is_read_back(tmp_path):
    path = recorded(tmp_path / "new" / "folder")
    assert list(read_transcript(path)) == [
        RecordedFrame("down", "north", 0, b"question"),
        RecordedFrame("up", "north", 1, b"1question"),
        RecordedFrame("down", "north", 2, b"more"),
        RecordedFrame("up", "north", 3, b"2question"),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_two_runs_that_say_the_same_leave_the_same_bytes(tmp_path):
    assert recorded(tmp_path / "a").read_bytes() == recorded(tmp_path / "b").read_bytes()


def test_the_layout_is_as_documented(tmp_path):
    content = recorded(tmp_path).read_bytes()
    first = b"D" + b"\x05north" + bytes(8) + b"\0\0\0\x08question"
    assert content.startswith(MAGIC + first + b"U\x05north" + (1).to_bytes(8, "big"))


def test_both_ends_record_the_same_frames(tmp_path, network):
    inner = network.hub()
    (north,) = network.connect(inner, "north")
    hub, channel = RecordingHub(inner, tmp_path), RecordingChannel(north, tmp_path, "north")
    channel.send(b"hello")
    hub.receive(5)
    hub.send("north", bytes(100_000))
    channel.receive(5)
    channel.close()
    hub.close()
    assert list(read_transcript(tmp_path / "hub.frames")) == list(read_transcript(tmp_path / "north.frames"))
    assert len(list(read_transcript(tmp_path / "hub.frames"))) == 2


def test_dropping_passes_through(tmp_path):
    hub = RecordingHub(InProcessHub({"north": lambda frame: [frame]}), tmp_path)
    hub.drop("north", "left")
    with pytest.raises(TransportError, match="not connected"):
        hub.send("north", b"x")
    hub.close()


def test_a_transcript_is_never_overwritten(tmp_path):
    recorded(tmp_path)
    with pytest.raises(OutputError, match="there is a transcript already"):
        RecordingHub(InProcessHub({}), tmp_path)


def test_every_cut_is_refused_unless_it_ends_a_record(tmp_path):
    path = recorded(tmp_path)
    content = path.read_bytes()
    ends = [len(MAGIC)]
    for record in read_transcript(path):
        ends.append(ends[-1] + 1 + 1 + len("north") + 8 + 4 + len(record.frame))
    assert ends[-1] == len(content)
    for size in range(len(content)):
        path.write_bytes(content[:size])
        if size in ends:
            assert len(list(read_transcript(path))) == ends.index(size)
        else:
            with pytest.raises(TransportError, match=r"cut off inside record|not a transcript"):
                list(read_transcript(path))


@pytest.mark.parametrize(
    ("place", "byte", "message"),
    [
        (0, b"H", "not a transcript"),
        (15, b"X", "direction b'X'"),
        (17, b"\xff", "other than ASCII"),
        (29, b"\x07", "record 7 follows where 0 was expected"),
    ],
)
def test_damage_is_named(tmp_path, place, byte, message):
    path = recorded(tmp_path)
    content = bytearray(path.read_bytes())
    content[place : place + 1] = byte
    path.write_bytes(content)
    with pytest.raises(TransportError, match=message):
        list(read_transcript(path))
