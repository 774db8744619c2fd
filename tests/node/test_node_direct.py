"""A server's channel with connections of its own to the other servers: what goes which way, and what is refused."""

from __future__ import annotations

import time
from collections import deque

import pytest

from hansa.errors import MemberLost, ProtocolError, TransportError
from hansa.node import direct
from hansa.node.direct import ABORT_REASON_S, DirectChannel
from hansa.protocol import messages
from hansa.protocol.messages import Abort, Close, Done, KeysConfirmed, Relay
from hansa.transport.channel import Traffic


def loss_of(member):
    return MemberLost(member, "the connection was closed", broken=True)


class Links:
    """Connections whose other ends say what the test says."""

    def __init__(self):
        self.sent = []
        self.waits = []
        self.gone = set()
        self.told = set()
        self.coming = deque()
        self.closed = False
        self.traffic = {"post": Traffic(1, 2, 3, 4), "b": Traffic(10, 20, 30, 40)}

    def send(self, member, frame):
        if member in self.gone:
            # A loss is raised once, here or by `receive`.
            raise TransportError(f"member {member!r} is not connected") if member in self.told else self.loss(member)
        self.sent.append((member, bytes(frame)))

    def receive(self, timeout=None):
        if not self.coming:
            self.waits.append(timeout)
            raise TransportError(f"no frame from any member in {timeout} s")
        if isinstance(self.coming[0], MemberLost):
            raise self.loss(self.coming[0].member, self.coming.popleft())
        return self.coming.popleft()

    def loss(self, member, error=None):
        self.gone.add(member)
        self.told.add(member)
        return error or loss_of(member)

    def close(self):
        self.closed = True


def sealed(sender, to, text=b"sealed"):
    return messages.encode(Relay(sender, to, "round", memoryview(text)))


CONFIRMED = messages.encode(KeysConfirmed({}))
DONE = messages.encode(Done())


@pytest.fixture
def links():
    return Links()


@pytest.fixture
def channel(links):
    return DirectChannel("a", "post", ("b", "c"), links, time.monotonic)


def test_sealed_messages_to_servers_go_to_them_and_all_else_to_the_hub(links, channel):
    frames = [sealed("a", "b"), sealed("a", "dune"), sealed("a", "c"), DONE]
    for frame in frames:
        channel.send(frame)
    assert links.sent == list(zip(("b", "post", "c", "post"), frames, strict=True))


def test_with_a_server_that_is_the_hub_the_connection_to_the_hub_is_the_direct_one(links):
    channel = DirectChannel("a", "c", ("b",), links, time.monotonic)
    frames = [sealed("a", "b"), sealed("a", "c"), sealed("a", "dune"), DONE]
    for frame in frames:
        channel.send(frame)
    assert links.sent == list(zip(("b", "c", "c", "c"), frames, strict=True))
    received = [CONFIRMED, sealed("c", "a", b"its own"), sealed("dune", "a", b"passed on")]
    links.coming += [("c", frame) for frame in received]
    assert [bytes(channel.receive(1)) for _ in received] == received


def test_the_hubs_sealed_messages_come_from_the_hub_only(links):
    channel = DirectChannel("a", "c", ("b",), links, time.monotonic)
    links.coming += [("c", CONFIRMED), ("b", sealed("c", "a"))]
    channel.receive(1)
    with pytest.raises(ProtocolError, match=r"server .b. sent .* nothing but its own sealed messages"):
        channel.receive(1)


def test_a_server_that_is_the_hub_and_hangs_up_is_named_at_once(links):
    channel = DirectChannel("a", "c", ("b",), links, time.monotonic)
    links.coming += [("c", CONFIRMED), loss_of("c"), ("b", sealed("b", "a"))]
    channel.receive(1)
    with pytest.raises(MemberLost, match="'c'"):
        channel.receive(None)
    assert links.waits == []


def test_what_the_hub_said_before_it_hung_up_is_received_though_this_server_was_sending(links):
    """Server c is the hub: it lost b, said so, and hung up, while this server wrote to it."""
    channel = DirectChannel("a", "c", ("b",), links, time.monotonic)
    abort_reason = messages.encode(Abort("b", "the connection was closed"))
    lost = MemberLost("c", "gone while a frame was sent to it", broken=True, unread=(sealed("c", "a"), abort_reason))

    def send(member, frame):
        raise lost

    links.send = send
    for _ in range(3):
        channel.send(sealed("a", "c"))
    assert bytes(channel.receive(1)) == abort_reason
    links.send = Links().send
    silent = MemberLost("c", "gone while a frame was sent to it", broken=True, unread=(sealed("c", "a"),))
    channel, links.coming = DirectChannel("a", "c", ("b",), links, time.monotonic), deque([silent])
    with pytest.raises(MemberLost, match="'c'"):
        channel.receive(1)


def test_sealed_messages_that_overtake_the_confirmation_of_keys_wait_for_it(links, channel):
    first, second, third = sealed("b", "a", b"1"), sealed("c", "a", b"2"), sealed("b", "a", b"3")
    links.coming += [("b", first), ("c", second), ("post", CONFIRMED), ("b", third)]
    assert [bytes(channel.receive(1)) for _ in range(4)] == [CONFIRMED, first, second, third]
    with pytest.raises(TransportError, match="no frame"):
        channel.receive(1)


def test_what_overtakes_is_bounded(links, channel, monkeypatch):
    monkeypatch.setattr(direct, "HELD_BYTES", 100)
    links.coming += [("b", sealed("b", "a", bytes(50)))] * 3
    with pytest.raises(ProtocolError, match="server 'b' sent sealed messages before the keys were confirmed"):
        channel.receive(1)


@pytest.mark.parametrize(
    "frame",
    [sealed("c", "a"), sealed("b", "c"), CONFIRMED, DONE, messages.encode(Close())],
    ids=["in another's name", "to another", "the hub's word", "a last word", "the hub's end"],
)
def test_a_server_says_nothing_but_its_own_sealed_messages(links, channel, frame):
    links.coming += [("post", CONFIRMED), ("b", frame)]
    channel.receive(1)
    with pytest.raises(ProtocolError, match=r"server .b. sent .* nothing but its own sealed messages"):
        channel.receive(1)


def test_noise_is_blamed_on_who_sent_it(links, channel):
    links.coming.append(("c", b"\xff\xff"))
    with pytest.raises(ProtocolError, match="'c'"):
        channel.receive(1)


def test_a_server_may_hang_up_only_once_all_are_through(links, channel):
    links.coming.append(loss_of("b"))
    with pytest.raises(MemberLost, match="'b'"):
        channel.receive(None)
    (wait,) = links.waits
    assert 0 < wait <= ABORT_REASON_S


def test_whoever_is_through_may_hang_up_and_the_hub_may_not(links, channel):
    channel.send(DONE)
    links.coming += [loss_of("b"), ("post", messages.encode(Close())), loss_of("post")]
    assert bytes(channel.receive(1)) == messages.encode(Close())
    with pytest.raises(MemberLost, match="'post'"):
        channel.receive(1)


def test_the_hub_says_who_ended_the_run_when_servers_hang_up_one_after_another(links, channel):
    """c lost b and hung up; this server hears of c first."""
    abort_reason = messages.encode(Abort("b", "the connection was closed"))
    links.coming += [("post", CONFIRMED), loss_of("c"), loss_of("b"), ("post", abort_reason)]
    channel.receive(1)
    assert bytes(channel.receive(1)) == abort_reason


def test_a_sealed_message_to_a_server_that_hung_up_waits_for_the_hubs_word_as_well(links, channel):
    abort_reason = messages.encode(Abort("b", "the connection was closed"))
    links.gone.add("c")
    channel.send(sealed("a", "c"))
    links.coming.append(("post", abort_reason))
    assert bytes(channel.receive(1)) == abort_reason
    with pytest.raises(MemberLost, match="'c'"):
        channel.receive(1)
    links.gone.add("post")
    with pytest.raises(MemberLost, match="'post'"):
        channel.send(DONE)


def test_sealed_messages_go_on_to_whoever_is_left_until_the_hubs_word_is_here(links, channel):
    """c hung up, and b's sealed message of the round asks for an answer to both."""
    abort_reason, asking = messages.encode(Abort("c", "the connection was closed")), sealed("b", "a")
    links.coming += [("post", CONFIRMED), loss_of("c"), ("b", asking), ("post", abort_reason)]
    channel.receive(1)
    assert bytes(channel.receive(1)) == asking
    for _ in range(2):
        channel.send(sealed("a", "c"))
        channel.send(sealed("a", "b"))
    assert [member for member, _ in links.sent] == ["b", "b"]
    assert bytes(channel.receive(1)) == abort_reason


def test_a_server_that_broke_a_rule_is_named_at_once(links, channel):
    links.coming += [MemberLost("b", "sent a frame of 2 GB"), ("post", messages.encode(Close()))]
    with pytest.raises(MemberLost, match=r"'b'.*2 GB"):
        channel.receive(1)


def test_traffic_is_that_of_all_connections_seen_from_here(links, channel):
    assert channel.traffic == Traffic(bytes_up=22, bytes_down=11, frames_up=44, frames_down=33)
    channel.close()
    assert links.closed
