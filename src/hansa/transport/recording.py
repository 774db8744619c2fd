"""Transcripts: every frame that passes one end, in a file, so that anybody can check what was sent.

A hub with a member of its own (`local_member`) leaves two: the hub's, `<name>.hub.frames`, and that member's.

The file `<end>.frames` begins with `MAGIC`. Each record after it is, integers big-endian:

    1 byte    direction: "U" up (member to hub) or "D" down (hub to member)
    1 byte    length of the member's name, then the name in ASCII
    8 bytes   sequence number: 0, 1, 2, ... through the whole file
    4 bytes   length of the frame, then the frame

There are no times in it, so two runs that say the same leave the same bytes. Sums stand in it as they were
sent: the file is made readable for its owner only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from hansa.errors import OutputError, TransportError
from hansa.files import failed, make_folder
from hansa.transport.channel import Channel, Frame, Hub, Traffic
from hansa.transport.local_member import LocalMember

MAGIC = b"hansa frames 1\n"
_MARKS: Mapping[str, bytes] = {"up": b"U", "down": b"D"}

_PART_BYTES = 2**24

Direction = Literal["up", "down"]


@dataclass(frozen=True)
class RecordedFrame:
    """One frame of a transcript.

    Attributes
    ----------
    direction : {"up", "down"}
        "up" from the member to the hub, "down" from the hub to the member.
    member : str
        Whose connection the frame passed.
    sequence : int
        Place in the transcript, from 0.
    frame : bytes
        What was sent. A sealed or masked part of it stays so.

    Examples
    --------
    >>> RecordedFrame("up", "aurora", 0, b"...").member
    'aurora'
    """

    direction: Direction
    member: str
    sequence: int
    frame: bytes


def read_transcript(path: Path) -> Iterator[RecordedFrame]:
    """The frames of a transcript, in the order in which they passed.

    Parameters
    ----------
    path : pathlib.Path
        A file `NAME.frames` in the folder that a member's file names as `transcript`.

    Yields
    ------
    RecordedFrame
        Each frame as it was sent or received.

    Raises
    ------
    TransportError
        The file is no transcript, is cut off, or a record is missing.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "aurora.frames"
    >>> written = path.write_bytes(MAGIC)
    >>> list(read_transcript(path))
    []
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise TransportError(f"{path}: not a transcript of frames (it does not begin with {MAGIC!r})")
        sequence = 0
        while mark := file.read(1):
            yield _read_record(file, mark, sequence, path)
            sequence += 1


class _Transcript:
    """A transcript being written. Where that fails, OutputError says so once, and the transcript ends there."""

    def __init__(self, folder: Path, end: str) -> None:
        make_folder(folder)
        path = self._path = folder / f"{end}.frames"
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise OutputError(f"{path}: there is a transcript already; name another folder") from error
        except OSError as error:
            raise failed(path, error) from error
        self._file = os.fdopen(descriptor, "wb")
        self._file.write(MAGIC)
        self._sequence = 0

    def write(self, direction: Direction, member: str, frame: Frame) -> None:
        if self._file.closed:
            return
        name, view = member.encode("ascii"), memoryview(frame).cast("B")
        try:
            self._file.write(_MARKS[direction] + bytes([len(name)]) + name)
            self._file.write(self._sequence.to_bytes(8, "big") + len(view).to_bytes(4, "big"))
            self._file.write(view)
        except OSError as error:
            # Other members are told next, over channels that are recorded too: those frames must not fail again.
            with contextlib.suppress(OSError):
                self._file.close()
            raise failed(self._path, error) from error
        self._sequence += 1

    def close(self) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise failed(self._path, error) from error


class RecordingHub:
    """A hub that writes down every frame that passes it, in `<folder>/<end>.frames`. See `channel.Hub`.

    A frame counts as sent when the hub tries to send it, and as received when the hub is given it.
    """

    def __init__(self, hub: Hub, folder: Path, end: str = "hub") -> None:
        self._hub = hub
        self._transcript = _Transcript(folder, end)

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        """The recorded hub's."""
        return self._hub.traffic

    def send(self, member: str, frame: Frame) -> None:
        """Write the frame down, then send it."""
        self._transcript.write("down", member, frame)
        self._hub.send(member, frame)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        """Receive a frame, then write it down."""
        member, frame = self._hub.receive(timeout)
        self._transcript.write("up", member, frame)
        return member, frame

    def drop(self, member: str, reason: str) -> None:
        """Drop a member from the recorded hub."""
        self._hub.drop(member, reason)

    def close(self) -> None:
        """Close the hub and the transcript."""
        self._hub.close()
        self._transcript.close()


class RecordingChannel:
    """A channel that writes down every frame that passes it, in `<folder>/<member>.frames`.

    See `channel.Channel`.
    """

    def __init__(self, channel: Channel, folder: Path, member: str) -> None:
        self._channel = channel
        self._member = member
        self._transcript = _Transcript(folder, member)

    def send(self, frame: Frame) -> None:
        """Write the frame down, then send it."""
        self._transcript.write("up", self._member, frame)
        self._channel.send(frame)

    def receive(self, timeout: float | None = None) -> memoryview:
        """Receive a frame, then write it down."""
        frame = self._channel.receive(timeout)
        self._transcript.write("down", self._member, frame)
        return frame

    def close(self) -> None:
        """Close the channel and the transcript."""
        self._channel.close()
        self._transcript.close()


class RecordingLocalMember:
    """A hub's own member that writes down every frame that it sends or receives, in `<folder>/<member>.frames`.

    See `local_member.LocalMember`.
    """

    def __init__(self, local_member: LocalMember, folder: Path, member: str) -> None:
        self._local_member = local_member
        self._member = member
        self._transcript = _Transcript(folder, member)

    def opening(self) -> Iterator[Frame]:
        """The local member's, each written down first."""
        return self._noted(self._local_member.opening())

    def handle(self, frame: memoryview) -> Iterator[Frame]:
        """Write the frame down, then each of the local member's answers."""
        self._transcript.write("down", self._member, frame)
        return self._noted(self._local_member.handle(frame))

    def waited(self, seconds: float) -> Iterator[Frame]:
        """The local member's, each written down first."""
        return self._noted(self._local_member.waited(seconds))

    def close(self) -> None:
        """Close the transcript."""
        self._transcript.close()

    def _noted(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        for frame in frames:
            self._transcript.write("up", self._member, frame)
            yield frame


def _read_record(file: BinaryIO, mark: bytes, sequence: int, path: Path) -> RecordedFrame:
    directions: dict[bytes, Direction] = {b"U": "up", b"D": "down"}
    if mark not in directions:
        raise TransportError(f"{path}: record {sequence} has the direction {mark!r}, expected b'U' or b'D'")
    name = _exactly(file, _exactly(file, 1, sequence, path)[0], sequence, path)
    number = int.from_bytes(_exactly(file, 8, sequence, path), "big")
    if number != sequence:
        raise TransportError(f"{path}: record {number} follows where {sequence} was expected; records are missing")
    length = int.from_bytes(_exactly(file, 4, sequence, path), "big")
    frame = _exactly(file, length, sequence, path)
    try:
        return RecordedFrame(directions[mark], name.decode("ascii"), sequence, frame)
    except UnicodeDecodeError as error:
        raise TransportError(f"{path}: record {sequence} names a member in other than ASCII") from error


def _exactly(file: BinaryIO, count: int, sequence: int, path: Path) -> bytes:
    """So many bytes, in parts: reading makes room for all that is asked for, and a damaged file may say that 4 GiB follow."""
    content = bytearray()
    while part := file.read(min(count - len(content), _PART_BYTES)):
        content += part
    if len(content) != count:
        raise TransportError(f"{path}: cut off inside record {sequence}")
    return bytes(content)
