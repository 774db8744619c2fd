"""Whatever a line loses, both ends hear each frame once, in order, unchanged; and nobody asks for more than that."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hansa.errors import TransportError
from hansa.transport import delivery
from hansa.transport.delivery import (
    ACKNOWLEDGE,
    CLOSE,
    FLUSH,
    HEAD,
    DeliveryState,
    read_hello,
    read_welcome,
)


def wire(head: bytes, frame: bytes) -> memoryview:
    return memoryview(head + frame)


def said(end: DeliveryState, *frames: bytes) -> list[memoryview]:
    return [wire(*end.keep(frame)) for frame in frames]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from([0, 1]), st.just("say")),
            st.tuples(st.sampled_from([0, 1]), st.just("hear")),
            st.tuples(st.sampled_from([0, 1]), st.just("signal")),
            st.tuples(st.integers(0, 5), st.just("cut")),
        ),
        max_size=80,
    )
)
def test_each_frame_is_received_once_in_order_whatever_is_cut(steps):
    """The oracle: two lists of what was said. A cut loses all on the line; both ends then say how far they have received."""
    ends = (DeliveryState(), DeliveryState())
    lines: tuple[list[memoryview], list[memoryview]] = ([], [])  # what is on its way from each end
    told: tuple[list[bytes], list[bytes]] = ([], [])
    received: tuple[list[bytes], list[bytes]] = ([], [])

    def hear(who: int) -> None:
        content = ends[who].take(lines[1 - who].pop(0))
        if content is not None:
            received[who].append(bytes(content))

    def cut() -> None:
        far = [end.received for end in ends]
        for who in (0, 1):
            lines[who].clear()
            lines[who].extend(wire(*each) for each in ends[who].again(far[1 - who]))

    for who, what in steps:
        if what == "say":
            frame = b"%d" % len(told[who]) * (1 + len(told[who]) % 3)
            told[who].append(frame)
            lines[who].append(wire(*ends[who].keep(frame)))
        elif what == "signal":
            lines[who].append(memoryview(ends[who].signal(ACKNOWLEDGE)))
        elif what == "cut":
            cut()
        elif lines[1 - who]:
            hear(who)
    cut()
    for who in (0, 1):
        while lines[1 - who]:
            hear(who)
        assert received[who] == told[1 - who]
        assert ends[who].repeated == 0
    cut()
    for who in (0, 1):
        assert lines[who] == []
        assert ends[who].kept_bytes == 0


def test_bytes_are_kept_as_they_are_and_views_are_copied():
    end = DeliveryState()
    fixed = bytes(1000)
    assert end.keep(fixed)[1] is fixed
    for changing in (bytearray(b"before"), memoryview(bytearray(b"before"))):
        _, kept = end.keep(changing)
        changing[:] = b"after!"
        assert kept == b"before"
    assert [frame for _, frame in end.again(1)] == [b"before", b"before"]


def test_a_frame_that_comes_again_is_dropped():
    there, here = DeliveryState(), DeliveryState()
    first, second = said(there, b"one", b"two")
    assert here.take(first) == b"one"
    assert here.take(first) is None
    assert here.take(second) == b"two"
    assert here.take(second) is None
    assert (here.received, here.repeated) == (2, 2)


def test_a_gap_and_a_frame_from_the_future_are_refused():
    there, here = DeliveryState(), DeliveryState()
    _, second, third = said(there, b"one", b"two", b"three")
    for late in (second, third):
        with pytest.raises(TransportError, match=r"frame [23] came, expected frame 1; rule: none is left out"):
            here.take(late)
    assert here.received == 0


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (b"", "0 bytes came, too few"),
        (HEAD.pack(1, 0), "8 bytes came, too few"),
        (HEAD.pack(1, 4) + b"x", "frame 4 was acknowledged after 1, of 3"),
        (HEAD.pack(1, 0) + b"x", "frame 0 was acknowledged after 1, of 3"),
        (HEAD.pack(0, 1) + b"x", "a signal of 1 bytes"),
        (HEAD.pack(0, 1) + ACKNOWLEDGE + CLOSE, "a signal of 2 bytes"),
    ],
)
def test_what_breaks_the_rules_is_refused(sent, text):
    end = DeliveryState()
    said(end, b"a", b"b", b"c")
    assert end.take(memoryview(HEAD.pack(0, 1) + ACKNOWLEDGE)) is None
    with pytest.raises(TransportError, match=text):
        end.take(memoryview(sent))


def test_what_was_acknowledged_is_let_go_and_cannot_be_asked_for_again():
    """Rewinding: an end that claims to have received less than it acknowledged gets nothing."""
    there, here = DeliveryState(), DeliveryState()
    for frame in said(here, b"one", b"two", b"three")[:2]:
        there.take(frame)
    here.take(memoryview(there.signal(ACKNOWLEDGE)))
    assert (here.acknowledged, here.kept_bytes) == (2, len(b"three"))
    for received in (0, 1, 4):
        with pytest.raises(TransportError, match=f"says it has received {received} frames; it acknowledged 2 of 3"):
            list(here.again(received))
    assert [frame for _, frame in here.again(2)] == [b"three"]


def test_signals_say_what_they_say_and_are_no_frames():
    there, here = DeliveryState(), DeliveryState()
    assert here.take(memoryview(there.signal(FLUSH))) is None
    assert (here.asked, here.left) == (True, False)
    assert here.take(memoryview(there.signal(CLOSE))) is None
    assert here.left
    assert here.untouched


def test_one_who_only_listens_owes_an_acknowledgement_after_a_while(monkeypatch):
    monkeypatch.setattr(delivery, "ACKNOWLEDGE_BYTES", 1000)
    monkeypatch.setattr(delivery, "ACKNOWLEDGE_FRAMES", 5)
    there, here = DeliveryState(), DeliveryState()
    for frame in said(there, *[b"x"] * 5):
        here.take(frame)
    assert not here.owes
    here.take(said(there, b"x")[0])
    assert here.owes
    there.take(memoryview(here.signal(ACKNOWLEDGE)))
    assert not here.owes
    assert there.kept_bytes == 0
    here.take(said(there, bytes(1001))[0])
    assert here.owes
    here.keep(b"an answer acknowledges too")
    assert not here.owes


def test_numbers_end_and_do_not_begin_anew():
    end = DeliveryState()
    end.sent = 2**32 - 1
    with pytest.raises(TransportError, match="all that it can number"):
        end.keep(b"x")


def test_greetings_have_one_length():
    assert read_hello(bytes(32) + b"\0\0\0\7") == (bytes(16), bytes(16), 7)
    assert read_welcome(bytes(16) + b"\0\0\0\7") == (bytes(16), 7)
    for wrong in (b"", bytes(35), bytes(37)):
        with pytest.raises(TransportError, match=f"{len(wrong)} bytes, expected 36"):
            read_hello(wrong)
    for wrong in (b"", bytes(19), bytes(21)):
        with pytest.raises(TransportError, match=f"{len(wrong)} bytes, expected 20"):
            read_welcome(wrong)
