"""Every message survives the wire unchanged; anything else is refused, by the sender's name."""

from __future__ import annotations

import contextlib
import json
import re
import tracemalloc
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hansa.errors import ProtocolError
from hansa.protocol.messages import (
    DTYPES,
    ENVELOPE_BYTES,
    MESSAGES,
    PROTOCOL_VERSION,
    REASON_CHARACTERS,
    ROSTER_BYTES,
    SEALED,
    WITH_DATA,
    Abort,
    AnnounceKey,
    AnyMessage,
    AskLogs,
    Awaited,
    CheckpointSigned,
    Claim,
    Close,
    Collect,
    CommitKey,
    ConfirmKeys,
    Contribution,
    CountBins,
    CountCells,
    CountersignLogs,
    CountMagnitudes,
    CountResiduals,
    Described,
    Done,
    ExchangeKeys,
    Explain,
    Finish,
    Join,
    KeepLevels,
    KeysCommitted,
    KeysConfirmed,
    LogCheckpoint,
    LogProof,
    LogsCountersigned,
    LogsOpened,
    LogsShown,
    Mark,
    Message,
    OpenLogs,
    PassOn,
    QuantiseGradients,
    Received,
    Relay,
    ReleaseTree,
    Resume,
    SetLeaves,
    ShowLog,
    ShowRows,
    SignCheckpoint,
    SplitNodes,
    SumLabels,
    TellLevels,
    Tensor,
    TrainingSetup,
    TreeScales,
    TreeSplits,
    UseCuts,
    UseLevels,
    VouchRows,
    Welcome,
    abort,
    decode,
    encode,
    kind_of,
    to_array,
    to_tensor,
)

WHO = "Party|Member|Owner|Server|Receiver|Aggregator|Hub|party|aggregator|member|owner|server|receiver|hub|collector"
INT64 = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
TEXT = st.text(max_size=20)
ARRAYS = st.sampled_from(DTYPES).flatmap(
    lambda dtype: hnp.arrays(np.dtype(dtype), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)
TENSORS = ARRAYS.map(to_tensor)
MARKS = st.builds(Mark, INT64, st.binary(max_size=40))
CLAIMS = st.builds(Claim, st.binary(max_size=40), INT64, INT64, st.none() | MARKS, MARKS, MARKS)
HASHES = st.binary(max_size=40)
INDEXES = st.lists(INT64, max_size=3).map(tuple)
PROOFS = st.builds(LogProof, INT64, INT64, INDEXES, INDEXES, st.lists(HASHES, max_size=3).map(tuple))
LOGS = st.builds(LogCheckpoint, HASHES, INT64, HASHES, HASHES, st.lists(PROOFS, max_size=2).map(tuple))
SCALES = st.lists(st.builds(TreeScales, INT64, FLOATS, FLOATS, TENSORS), max_size=3).map(tuple)
AWAITED = st.builds(Awaited, TEXT, INT64, TEXT, INDEXES, INT64, INDEXES)
FIELDS = {
    tuple[Awaited, ...]: st.lists(AWAITED, max_size=3).map(tuple),
    LogCheckpoint: LOGS,
    dict[str, LogCheckpoint]: st.dictionaries(TEXT, LOGS, max_size=3),
    dict[str, int]: st.dictionaries(TEXT, INT64, max_size=4),
    tuple[int, ...]: INDEXES,
    Claim | None: st.none() | CLAIMS,
    tuple[tuple[str, Claim], ...]: st.lists(st.tuples(TEXT, CLAIMS), max_size=3).map(tuple),
    int: INT64,
    bool: st.booleans(),
    float: FLOATS,
    float | None: st.none() | FLOATS,
    tuple[float, ...]: st.lists(FLOATS, max_size=3).map(tuple),
    bytes: st.binary(max_size=40),
    str: TEXT,
    Tensor: TENSORS,
    tuple[tuple[str, bytes, int, int, bytes], ...]: st.lists(
        st.tuples(TEXT, st.binary(max_size=40), INT64, INT64, st.binary(max_size=8)), max_size=4
    ).map(tuple),
    tuple[tuple[str, bytes, str, bytes], ...]: st.lists(
        st.tuples(TEXT, st.binary(max_size=40), TEXT, st.binary(max_size=64)), max_size=4
    ).map(tuple),
    memoryview: st.binary(max_size=40).map(memoryview),
    tuple[bytes, bytes]: st.tuples(st.binary(max_size=40), st.binary(max_size=40)),
    tuple[Tensor, ...]: st.lists(TENSORS, max_size=3).map(tuple),
    dict[str, bytes]: st.dictionaries(TEXT, st.binary(max_size=40), max_size=4),
    dict[str, tuple[str, ...]]: st.dictionaries(TEXT, st.lists(TEXT, max_size=4).map(tuple), max_size=4),
    QuantiseGradients | None: st.none() | st.builds(QuantiseGradients, INT64, FLOATS, FLOATS, TENSORS, SCALES),
    tuple[TreeScales, ...]: SCALES,
    tuple[TreeSplits, ...]: st.lists(st.builds(TreeSplits, INT64, *[TENSORS] * 8), max_size=3).map(tuple),
    Contribution | None: st.none() | st.builds(Contribution, INT64, INT64, TEXT, INT64, TENSORS, INT64),
}


def build(kind: type[Message]) -> st.SearchStrategy[Message]:
    return st.builds(kind, **{field.name: FIELDS[field.type] for field in msgspec.structs.fields(kind)})


MESSAGE = st.sampled_from(MESSAGES).flatmap(build)


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_every_message_survives_the_wire(kind, data):
    message = data.draw(build(kind))
    back = decode("aurora", encode(message))
    assert type(back) is kind
    assert encode(back) == encode(message)
    for field in msgspec.structs.fields(kind):
        was, now = getattr(message, field.name), getattr(back, field.name)
        assert plain(now) == plain(was)


def plain(value):
    """A field's value with tensors and views as bytes, to be compared."""
    if isinstance(value, Tensor):
        return value.dtype, value.shape, bytes(value.data)
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, Message):
        return type(value), encode(value)
    return bytes(value) if isinstance(value, memoryview) else value


def test_the_list_of_messages_is_closed():
    assert set(MESSAGES) == set(Message.__subclasses__())
    assert set(MESSAGES) == set(AnyMessage.__args__)
    assert [kind.__name__ for kind in MESSAGES] == [
        "OpenLogs",
        "LogsOpened",
        "ShowLog",
        "LogsShown",
        "AskLogs",
        "CountersignLogs",
        "LogsCountersigned",
        "Join",
        "Welcome",
        "Resume",
        "SignCheckpoint",
        "CheckpointSigned",
        "CommitKey",
        "KeysCommitted",
        "AnnounceKey",
        "ExchangeKeys",
        "ConfirmKeys",
        "KeysConfirmed",
        "CountMagnitudes",
        "SumLabels",
        "TellLevels",
        "UseLevels",
        "KeepLevels",
        "CountCells",
        "UseCuts",
        "CountBins",
        "Described",
        "QuantiseGradients",
        "SplitNodes",
        "CountResiduals",
        "SetLeaves",
        "Contribution",
        "VouchRows",
        "ShowRows",
        "Collect",
        "PassOn",
        "Explain",
        "Finish",
        "Received",
        "Relay",
        "Done",
        "Close",
        "ShareCounts",
        "CountProbes",
        "TrainingSetup",
        "ShareRows",
        "TakeRows",
        "ReleaseTree",
        "DecideRelease",
        "AgreeModel",
        "Abort",
    ]


def test_messages_cannot_be_changed():
    with pytest.raises(AttributeError):
        Received(b"x").model_sha256 = b"y"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_refused(frame):
    with pytest.raises(ProtocolError, match="'borealis'"):
        decode("borealis", frame)


@settings(max_examples=150, deadline=None)
@given(MESSAGE, st.data())
def test_a_truncated_frame_is_refused(message, data):
    frame = encode(message)
    with pytest.raises(ProtocolError, match="'borealis'"):
        decode("borealis", frame[: data.draw(st.integers(0, len(frame) - 1))])


@settings(max_examples=150, deadline=None)
@given(MESSAGE, st.binary(min_size=1, max_size=9))
def test_a_frame_with_more_than_one_message_is_refused(message, more):
    with pytest.raises(ProtocolError, match="'borealis'"):
        decode("borealis", encode(message) + more)


@settings(max_examples=300, deadline=None)
@given(MESSAGE, st.data())
def test_a_flipped_bit_gives_a_listed_message_or_a_refusal(message, data):
    frame = bytearray(encode(message))
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[bit // 8] ^= 1 << bit % 8
    back = None
    with contextlib.suppress(ProtocolError):
        back = decode("borealis", frame)
    if back is None:
        return
    assert type(back) in MESSAGES
    # What decodes is within the types that the message declares: it can be said again.
    assert encode(decode("borealis", encode(back))) == encode(back)


@pytest.mark.parametrize(
    "content",
    [
        {"type": "Joined", "model_sha256": b""},
        {"type": "Received"},
        {"model_sha256": b""},
        {"type": "Received", "model_sha256": b"", "more": 1},
        {"type": "Received", "model_sha256": 5},
        {"type": "SumLabels", "label_unit": 1.5, "weight_unit": 0},
        {"type": "SumLabels", "label_unit": "1", "weight_unit": 0},
        {"type": "SumLabels", "label_unit": True, "weight_unit": 0},
        {"type": "SumLabels", "label_unit": None, "weight_unit": 0},
        {"type": "Abort", "member": b"x", "reason": ""},
        ["Received", b""],
        b"Received",
        None,
        7,
    ],
    ids=str,
)
def test_another_form_is_refused(content):
    with pytest.raises(ProtocolError, match="'cirrus'"):
        decode("cirrus", msgspec.msgpack.encode(content))


def test_a_deeply_nested_frame_is_refused():
    with pytest.raises(ProtocolError, match="'cirrus'"):
        decode("cirrus", b"\x91" * 100_000 + b"\xc0")


def packed(kind: type[Message], field: str, content: bytes) -> bytes:
    """A message with one field alone, which is these bytes."""
    name, key = kind.__name__.encode(), field.encode()
    return b"\x82\xa4type" + bytes([0xA0 | len(name)]) + name + bytes([0xA0 | len(key)]) + key + content


def array32(count: int, item: bytes) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big") + item * count


def map32(count: int, key: bytes, value: bytes) -> bytes:
    return (
        b"\xdf"
        + count.to_bytes(4, "big")
        + b"".join(bytes([0xA0 | len(key) + 8]) + key + b"%08d" % place + value for place in range(count))
    )


MILLIONS = 4 * 2**20
TENSOR = b"\x83\xa5dtype\xa3<i8\xa5shape"

BOMBS = {
    "keys of nobody": packed(ExchangeKeys, "keys", array32(MILLIONS, b"\x94\xa0\xc4\x00\xa0\xc4\x00")),
    "members without end": packed(Welcome, "roster", array32(MILLIONS, b"\x94\xa0\xc4\x00\x01\x01")),
    "proofs for everybody": packed(ConfirmKeys, "tags", map32(2**20, b"name", b"\xc4\x00")),
    "a shape of all dimensions": packed(Contribution, "values", TENSOR + array32(MILLIONS, b"\xcd\x01\x01")),
    "arrays of arrays": packed(ReleaseTree, "splits", array32(2**20, TENSOR + b"\x90\xa4data\xc4\x00")),
    "numbers": packed(TrainingSetup, "base_score", array32(MILLIONS, b"\xcb" + bytes(8))),
    "a long word": packed(
        Contribution, "quantity", b"\xdb" + (2**24).to_bytes(4, "big") + "\N{SNOWMAN}a".encode() * 2**22
    ),
    "a long reason": packed(Abort, "reason", b"\xdb" + (2**24).to_bytes(4, "big") + b"a" * 2**24),
    "one field again and again": b"\xdf"
    + MILLIONS.to_bytes(4, "big")
    + encode(Abort("", ""))[1:]
    + b"\xa6reason\xa1a" * MILLIONS,
    "an array behind data that are announced and never come": packed(
        Contribution, "values", TENSOR + b"\x91\x00\xa4data\xc6\xff\xff\xff\xff" + array32(MILLIONS, b"\x00")
    ),
    "an extension that hides an array": packed(
        ReleaseTree, "splits", b"\x92\xc7\x06\x01\xc6\x10\x00\x00\x00\x00" + array32(MILLIONS, b"\x90")
    ),
}


@pytest.mark.parametrize("frame", BOMBS.values(), ids=BOMBS)
def test_attack_a_frame_makes_no_more_objects_than_its_kind_may_have(frame):
    """Whatever is packed into a frame: what comes of it is a small part of the frame, or nothing."""
    assert len(frame) > 2**22
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="'cirrus'"):
        decode("cirrus", frame)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.__name__)
def test_attack_the_largest_frame_of_each_kind_takes_little_memory(kind):
    """The most objects that fit into what a kind may have beside its data: 2^16 empty arrays, or 2^20 for all members."""
    limit = ROSTER_BYTES if kind in (Welcome, ExchangeKeys, ConfirmKeys, KeysConfirmed) else ENVELOPE_BYTES
    for field in msgspec.structs.fields(kind):
        for item in (
            b"\x90",
            b"\x80",
            b"\xa1a",
            b"\xce\xff\xff\xff\xff",
            b"\x94\xa1a\xc4\x00\x07\x07",
            TENSOR + b"\x90\xa4data\xc4\x00",
        ):
            frame = packed(kind, field.name, array32((limit - 60) // len(item), item))
            tracemalloc.start()
            with contextlib.suppress(ProtocolError):
                decode("cirrus", frame)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert most < 32 * limit


def test_the_data_of_a_message_are_not_copied():
    frame = encode(Contribution(0, 0, "cells", 0, to_tensor(np.zeros(2**22, np.uint32))))
    tracemalloc.start()
    message = decode("cirrus", frame)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(message.values.data) == 2**24
    assert most < 2**16


def test_a_large_frame_of_every_kind_that_has_data_passes():
    data = to_tensor(np.zeros(2**18, np.uint32))
    values = {Tensor: data, tuple[Tensor, ...]: (data, data), memoryview: data.data, bytes: bytes(2**18)}
    for kind in WITH_DATA:
        fields = msgspec.structs.fields(kind)
        assert any(field.type in values for field in fields), kind
        plain = {
            int: 1,
            bool: True,
            float: 0.5,
            str: "x",
            tuple[float, ...]: (0.5,) * 1000,
            tuple[bytes, bytes]: (b"", b""),
            tuple[TreeScales, ...]: (TreeScales(1, 0.5, 0.5, data),),
            tuple[TreeSplits, ...]: (TreeSplits(1, *[data] * 8),),
        }
        message = kind(**{f.name: (values | plain).get(f.type) for f in fields})
        assert encode(decode("aurora", encode(message))) == encode(message)
    others = [field.type for kind in set(MESSAGES) - WITH_DATA for field in msgspec.structs.fields(kind)]
    assert not {Tensor, tuple[Tensor, ...], memoryview} & set(others)


def test_a_circle_of_two_thousand_members_can_meet():
    names = [f"{'a' * 59}{place:04}" for place in range(2000)]
    for message in (
        Welcome(bytes(32), tuple((name, bytes(32), 10**9, 10**9, bytes(251)) for name in names)),
        ExchangeKeys(tuple((name, bytes(32), "aes-256-ctr", bytes(64)) for name in names)),
        ConfirmKeys({name: bytes(32) for name in names}),
        KeysConfirmed({name: bytes(32) for name in names}),
        LogsShown({name: LogCheckpoint(bytes(32), 10**9, bytes(32), bytes(64), (), bytes(64)) for name in names}),
    ):
        assert decode("hub", encode(message)) == message


@settings(max_examples=300, deadline=None)
@given(MESSAGE)
def test_the_kind_of_a_frame_is_read_from_its_first_bytes(message):
    frame = encode(message)
    assert kind_of("aurora", frame) is type(message)
    assert kind_of("aurora", memoryview(frame[:32])) is type(message)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x82",
        b"\x81\xa4type",
        b"\x81\xa4type\xbf",
        b"\x81\xa4type\xc0",
        b"\x81\xa4Type\xa4Join",
        b"\xa4type\xa4Join",
    ],
)
def test_a_frame_that_does_not_begin_with_a_kind_is_refused(frame):
    with pytest.raises(ProtocolError, match="'aurora' sent a frame of"):
        kind_of("aurora", frame)


def test_a_frame_that_names_two_kinds_is_refused():
    frame = bytearray(encode(Received(b"hash")) + b"\xa4type\xa5Close")
    frame[0] += 1
    with pytest.raises(ProtocolError, match="'aurora'"):
        decode("aurora", frame)


def test_a_reason_that_nobody_could_read_is_cut():
    message = decode("hub", abort("aurora", "because " * 10_000))
    assert message.member == "aurora"
    assert message.reason.startswith("because because")
    assert len(message.reason) == REASON_CHARACTERS
    assert decode("hub", abort("", "short")) == Abort("", "short")


def test_text_that_is_not_utf8_is_refused():
    frame = encode(Abort("", "abcd")).replace(b"abcd", b"ab\xff\xfe")
    with pytest.raises(ProtocolError, match="'cirrus'"):
        decode("cirrus", frame)


@settings(deadline=None)
@given(ARRAYS)
def test_an_array_survives_as_a_tensor(array):
    back = decode("a", encode(Contribution(0, 0, "q", 0, to_tensor(array)))).values
    result = to_array("a", "q", back, array.dtype.type, tuple(None for _ in array.shape))
    assert result.dtype == array.dtype
    assert result.shape == array.shape
    assert result.tobytes() == array.tobytes()


def test_an_array_out_of_order_cannot_be_sent():
    with pytest.raises(TypeError, match="C order"):
        to_tensor(np.arange(24, dtype=np.int64).reshape(4, 6)[::2, ::-3])


def test_a_decoded_array_cannot_be_written():
    with pytest.raises(ValueError, match="read-only"):
        to_array("a", "q", decode("a", encode(tensor_message())).values, np.int64, (3,))[0] = 1


def tensor_message() -> Contribution:
    return Contribution(0, 0, "q", 0, to_tensor(np.arange(3)))


@pytest.mark.parametrize("dtype", [np.float64, np.bool_, np.int16, np.complex64, np.dtype(">i8")], ids=str)
def test_other_dtypes_cannot_be_sent(dtype):
    with pytest.raises(TypeError, match="cannot be sent"):
        to_tensor(np.zeros(2, dtype))


@pytest.mark.parametrize(
    ("tensor", "shape"),
    [
        (Tensor("<i8", (3,), b"\x00" * 23), (3,)),
        (Tensor("<i8", (3,), b"\x00" * 25), (3,)),
        (Tensor("<i8", (2,), b"\x00" * 16), (3,)),
        (Tensor("<i4", (3,), b"\x00" * 12), (3,)),
        (Tensor(">i8", (3,), b"\x00" * 24), (3,)),
        (Tensor("<u8", (3,), b"\x00" * 24), (3,)),
        (Tensor("O", (3,), b"\x00" * 24), (3,)),
        (Tensor("<i8", (3, 1), b"\x00" * 24), (3,)),
        (Tensor("<i8", (), b"\x00" * 8), (1,)),
        (Tensor("<i8", (-1, -3), b"\x00" * 24), (None, None)),
        (Tensor("<i8", (2**62, 2**62), b""), (None, None)),
        (Tensor("<i8", (2**61, 8), b""), (None, None)),
        (Tensor("<i8", (0, 5), b""), (None, 4)),
    ],
    ids=str,
)
def test_a_tensor_that_does_not_fit_is_refused(tensor, shape):
    frame = encode(Contribution(0, 0, "cells", 0, tensor))
    with pytest.raises(ProtocolError, match=r"'dune' sent cells as"):
        to_array("dune", "cells", decode("dune", frame).values, np.int64, shape)


def test_every_message_says_who_sends_it():
    for kind in MESSAGES:
        assert kind.__doc__ is not None
        assert re.match(rf"({WHO})( or hub)? to ({WHO}|all)|Either way", kind.__doc__), kind


def test_both_ways_are_listed():
    down = {
        Welcome, ExchangeKeys, KeysConfirmed, CountMagnitudes, SumLabels, CountCells, UseCuts, QuantiseGradients, SplitNodes, Finish,
        Explain,
        ShowRows, CountBins, Described, CountResiduals, SetLeaves, Resume, CheckpointSigned, UseLevels, KeepLevels,
        KeysCommitted,
    }  # fmt: skip
    up = {Join, SignCheckpoint, CommitKey, AnnounceKey, ConfirmKeys, Contribution, VouchRows, Received, TellLevels}
    collectors = {Collect, PassOn}
    coopetitive = {Relay, Done, Close}
    logs = {OpenLogs, LogsOpened, ShowLog, LogsShown, AskLogs, CountersignLogs, LogsCountersigned}
    assert down | up | collectors | coopetitive | logs | {Abort} | set(SEALED) == set(MESSAGES)
    assert len(down) + len(up) + len(collectors) + len(coopetitive) + len(logs) + len(SEALED) + 1 == len(MESSAGES)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1))
@example(2**64 - 1)
@example(2**63)
def test_a_zero_word_of_either_ring_survives(zero):
    message = Contribution(0, 0, "totals", 0, to_tensor(np.zeros(2, np.int64)), zero)
    assert decode("aurora", encode(message)).zero == zero


@pytest.mark.parametrize("zero", [b"\0" * 8, "1", 1.0, None, [1]], ids=str)
def test_a_zero_word_is_a_whole_number(zero):
    fields = msgspec.msgpack.decode(encode(Contribution(0, 0, "totals", 0, to_tensor(np.zeros(2, np.int64)), 5)))
    with pytest.raises(ProtocolError, match="'aurora'"):
        decode("aurora", msgspec.msgpack.encode(fields | {"zero": zero}))


@pytest.mark.parametrize(
    "keys",
    [[["a", b"k", "aes-256-ctr"]], [["a", b"k", "c", b"s", 1]], [[1, b"k", "c", b"s"]], {"a": b""}],
    ids=str,
)
def test_keys_of_another_form_are_refused(keys):
    with pytest.raises(ProtocolError, match="'hub'"):
        decode("hub", msgspec.msgpack.encode({"type": "ExchangeKeys", "keys": keys}))


FRAMES = json.loads((Path(__file__).parents[1] / "vectors" / "frames.json").read_text(encoding="utf-8"))


def test_every_kind_of_message_has_a_frame_in_the_vectors():
    assert FRAMES["version"] == PROTOCOL_VERSION
    assert set(FRAMES["frames"]) == {kind.__name__ for kind in MESSAGES}


@pytest.mark.parametrize("name", sorted(FRAMES["frames"]))
def test_a_frame_of_the_vectors_is_read_and_written_as_it_stands(name):
    frame = bytes.fromhex(FRAMES["frames"][name])
    message = decode("aurora", frame)
    assert type(message).__name__ == name
    assert encode(message) == frame


@pytest.mark.parametrize("why", sorted(FRAMES["refused"]))
def test_a_frame_that_is_to_be_refused_is(why):
    with pytest.raises(ProtocolError, match="aurora"):
        decode("aurora", bytes.fromhex(FRAMES["refused"][why]))
