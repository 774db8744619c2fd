"""Every message of a run, and nothing else: what is not listed here cannot be sent.

Messages are frozen msgspec structs, tagged, encoded as MessagePack, decoded strictly: an unknown type, an unknown or missing
field, a wrong type or a tensor whose bytes do not fit its shape is refused. Numbers that are summed over parties travel only as
`Contribution`s, so that a mode can change how they are protected without changing what is sent.

A frame's kind is read before anything else of it (`kind_of`), so that `protocol.session` refuses a kind that is not legal now; then
its size is checked. Only after that are objects made of it: what stands outside its binary data is limited, and data are not copied.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from hansa.errors import ProtocolError

PROTOCOL_VERSION = 10

ENVELOPE_BYTES = 2**16
"""Bytes that a message may have beside its binary data; without any (`WITH_DATA`), in all."""

ROSTER_BYTES = 2**20
"""The same for messages that say something of every member, or list levels."""

REASON_CHARACTERS = 4000
"""Of an `Abort`'s reason that are sent: more could not be read by anybody."""

_NOTHING = memoryview(b"")

DTYPES = ("|u1", "<i4", "<u4", "<i8", "<u8", "<f4")

_KINDS: dict[type, tuple[np.dtype[Any], str, int]] = {
    (kind := np.dtype(name)).type: (kind, name, kind.itemsize) for name in DTYPES
}

ANY_LENGTH = (None,)
"""The shape of an array whose length is not known."""

SETUP = -1
"""Stands for the tree in messages that come before the first tree."""


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An array: numpy's name of the dtype, the shape, and the little-endian bytes in C order."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


class Mark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A place among a run's broadcasts: how many there were, and the hash that chains them from the run's id (32 bytes)."""

    number: int
    chain: bytes


class Claim(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far a member is in a run, as its state folder says.

    run: the run's id. epoch: the last one that it took part in. checkpoint: the last one that it reached: 0 once all members joined, 1
    with the cuts, one more with every tree, or all that grew side by side. before, head: the broadcasts up to the checkpoint before
    that one (None where there is none) and up to it; now: up to the last one that it answered. In coopetitive mode
    `roles.shared.checkpoints` says what they are.
    """

    run: bytes
    epoch: int
    checkpoint: int
    before: Mark | None
    head: Mark
    now: Mark


class LogProof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a log of `size` entries extends one of `prior` (fields are those of `consortium.audit_log.Extension`)."""

    prior: int
    size: int
    rule: tuple[int, ...]
    subset: tuple[int, ...]
    path: tuple[bytes, ...]


class LogCheckpoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a member's audit log stands: its name (32 bytes), its size and root, signed for this exchange; and what it extends, signed
    too, so that the hub cannot keep a proof back in the member's name.
    """

    log: bytes
    size: int
    root: bytes
    signature: bytes
    proofs: tuple[LogProof, ...]
    proofs_signature: bytes


class Awaited(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sum that a collector is to make of its parties' `Contribution`s.

    quantity, step, dtype, shape: as each party sends it; "histograms" are awaited of each tree that grows, (nodes, planes, cells), and
    come one node behind the other, those of all trees, in fragments of some nodes.
    planes: of the histograms in it (`trees.histogram`), 0 where there are none. most: what one row adds to a number at most, by
    `roles.summed.row_bounds`; empty where no bound is known.
    """

    quantity: str
    step: int
    dtype: str
    shape: tuple[int, ...]
    planes: int
    most: tuple[int, ...]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    """Base of all messages."""


class OpenLogs(Message, frozen=True):
    """Member to hub, before all else: this version of the protocol; 32 random bytes; and of each other member's audit log the size of
    the newest checkpoint that I hold.
    """

    version: int
    nonce: bytes
    held: dict[str, int]


class LogsOpened(Message, frozen=True):
    """Hub to member: everybody's nonce, which together name this exchange; and the sizes of my log that others hold."""

    nonces: dict[str, bytes]
    sizes: tuple[int, ...]


class ShowLog(Message, frozen=True):
    """Member to hub: where my audit log stands, with proofs that it extends the sizes that others hold."""

    checkpoint: LogCheckpoint


class LogsShown(Message, frozen=True):
    """Hub to member: where everybody's log stands, the hub's too. Each member checks all."""

    logs: dict[str, LogCheckpoint]


class AskLogs(Message, frozen=True):
    """Hub to member, when the run is over, however it ended: show where your log stands now."""


class CountersignLogs(Message, frozen=True):
    """Member to hub: my signature over all that was shown at the end of the run."""

    signature: bytes


class LogsCountersigned(Message, frozen=True):
    """Hub to member: everybody's, the hub's too. The exchange is over."""

    signatures: dict[str, bytes]


class Join(Message, frozen=True):
    """Party to aggregator: I take part in the plan with this digest.

    rows and evaluation_rows are public in every mode; nonce (32 random bytes) goes into the run's id. bit i of enough (its
    bytes, the lowest first) is set where this party has `privacy.min_party_rows` rows in batch i of
    `consortium.policy.batches_of` and that batch is of one class; empty where none is.
    parts are digests of what
    makes up the agreement, by name (`roles.run.agreement_parts`): where it differs, they say in what. claim: where this party took part
    in the run before, how far it is; the nonce is then that of the run.
    """

    version: int
    plan: bytes
    nonce: bytes
    rows: int
    evaluation_rows: int
    enough: bytes
    parts: dict[str, bytes] = {}
    claim: Claim | None = None


class Welcome(Message, frozen=True):
    """Aggregator or hub to all: who takes part. The run's id is the hash of all of it."""

    run: bytes
    roster: tuple[tuple[str, bytes, int, int, bytes], ...]


class Resume(Message, frozen=True, omit_defaults=True):
    """Aggregator or hub to all, in place of `Welcome`: the run goes on in a new epoch, from the last checkpoint that all reached.

    claims: of every member, sorted by member; the aggregator's are among them, a hub has none. roster: as in `Welcome`, from a hub
    only: a member that ended right after it joined has not seen it.
    """

    run: bytes
    epoch: int
    claims: tuple[tuple[str, Claim], ...]
    roster: tuple[tuple[str, bytes, int, int, bytes], ...] = ()


class SignCheckpoint(Message, frozen=True):
    """Party to aggregator, or member to hub: my signature over run, epoch, checkpoint and all claims (`roles.summed.checkpoints`)."""

    signature: bytes


class CheckpointSigned(Message, frozen=True):
    """Aggregator or hub to all: the signatures of all members, an aggregator's own included. The epoch begins."""

    signatures: dict[str, bytes]


class CommitKey(Message, frozen=True):
    """Party to aggregator, with masks over a drawn graph: the hash of the key that I shall announce (`secure.keys.commitment`)."""

    commitment: bytes


class KeysCommitted(Message, frozen=True):
    """Aggregator to party: everybody's commitment, by party. Only now keys are announced."""

    commitments: dict[str, bytes]


class AnnounceKey(Message, frozen=True):
    """Party to aggregator, or member to hub: my X25519 key for this run, signed by my identity; the cipher I prefer."""

    public_key: bytes
    algorithm: str
    signature: bytes


class ExchangeKeys(Message, frozen=True):
    """Aggregator to party: everybody's announced key: (member, key, cipher, signature), sorted by member."""

    keys: tuple[tuple[str, bytes, str, bytes], ...]


class ConfirmKeys(Message, frozen=True):
    """Party to aggregator: for each other party, proof that I hold our shared key and saw this roster."""

    tags: dict[str, bytes]


class KeysConfirmed(Message, frozen=True):
    """Aggregator to party: the proofs that the others made for this party. Relayed, not broadcast."""

    tags: dict[str, bytes]


class CountMagnitudes(Message, frozen=True):
    """Aggregator to party: count labels and weights by binary exponent (answered by `Contribution` "magnitudes")."""


class SumLabels(Message, frozen=True):
    """Aggregator to party: sum labels and weights in units of 2^label_unit and 2^weight_unit ("labels").

    Where the plan has rare levels, also count rows by level ("levels").
    """

    label_unit: int
    weight_unit: int


class TellLevels(Message, frozen=True):
    """Party to aggregator, where the plan has unions of levels: the levels, sorted, that this party's table holds, by feature.

    It comes before the "magnitudes".
    """

    levels: dict[str, tuple[str, ...]]


class UseLevels(Message, frozen=True):
    """Aggregator to party, where the plan has unions of levels: the levels of all parties, sorted, by feature."""

    levels: dict[str, tuple[str, ...]]


class KeepLevels(Message, frozen=True):
    """Aggregator to party, where the plan has rare levels: which of their features' levels enough pooled rows have.

    kept: uint8, 1 or 0 for each level of the plan, feature by feature; all others become one level, the last.
    """

    kept: Tensor


class CountCells(Message, frozen=True):
    """Aggregator to party: count values in the parts of these cells of the feature axes ("cells"), and sum weights ("weights").

    The fields are those of `data.quantiles.CutRequest`.
    """

    bits: int
    offsets: Tensor
    prefixes: Tensor


class UseCuts(Message, frozen=True):
    """Aggregator to party: the cuts and base scores; answer with the first tree's "totals".

    Cuts: int64 offsets, float32 values, uint8 has_missing; a categorical feature has none. base_scores in label space, one for each
    output; scale_pos_weight resolved; no weight exceeds 2^weight_exponent, no label 2^label_exponent in size; bounds on |g| and h of
    any row fix the units of the totals; histogram_bits (32 or 64) of each sum in a histogram.
    """

    offsets: Tensor
    values: Tensor
    has_missing: Tensor
    base_scores: tuple[float, ...]
    scale_pos_weight: float
    weight_exponent: int
    label_exponent: int
    gradient_bound: float
    hessian_bound: float
    histogram_bits: int


class CountBins(Message, frozen=True):
    """Aggregator to party, where a run describes: count values in these bins of every column ("bins").

    Columns are the features, and the label last. int64 offsets and float32 values of inner edges, as those of cuts; a column whose
    values are categories has none, and is counted by category. rows: int64, how many rows of all parties each bin of the others is
    known to hold, column by column.
    """

    offsets: Tensor
    values: Tensor
    rows: Tensor


class Described(Message, frozen=True):
    """Aggregator to party, where a run describes: what is told of the pooled table; the run is over.

    Columns as in `CountBins`. counts: int64, rows by bin or category and then without a value, column by column, -1 where that many
    are too few to be told; other: int64, the rows of a column's untold cells; label_mean: of all rows, by their weights;
    0 where it is not told.
    """

    counts: Tensor
    other: Tensor
    label_mean: float


class TreeScales(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a tree that grows beside another: the fields of `QuantiseGradients`."""

    tree: int
    gradient_scale: float
    hessian_scale: float
    columns: Tensor


class TreeSplits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of a tree that grows beside another: the fields of `SplitNodes`."""

    tree: int
    feature: Tensor
    bin: Tensor
    missing_left: Tensor
    leaf: Tensor
    build_left: Tensor
    child_leaf: Tensor
    nodes: Tensor
    categories: Tensor


class QuantiseGradients(Message, frozen=True, omit_defaults=True):
    """Aggregator to party: count gradients at these scales, over these columns; answer with the root's "histograms".

    beside: the same of the trees after it that grow side by side with it: one answer has the roots of all. Alone before the first tree
    and wherever scales wait for totals; otherwise part of the `SplitNodes` that end the trees before, as for all trees of a round but
    the first ones.
    """

    tree: int
    gradient_scale: float
    hessian_scale: float
    columns: Tensor
    beside: tuple[TreeScales, ...] = ()

    @property
    def trees(self) -> tuple[QuantiseGradients | TreeScales, ...]:
        """Of each tree what is told of it."""
        return self, *self.beside


class SplitNodes(Message, frozen=True, omit_defaults=True):
    """Aggregator to party: what happens to active nodes of a tree (fields of `trees.level.Level`), and of those `beside` it.

    All trees that grow side by side and have not ended are told of, in their order. Answered by "histograms" of the built children,
    those of all trees one behind the other; where all trees have ended (build_left is empty), by what comes next. In a round that has
    more trees, `then` has the scales and columns of the next ones, answered by their roots' "histograms". Else a new round begins,
    gradients bounded by gradient_bound: its metrics, then the "totals" of every output or, where `then` gives scales and columns
    already, its "root", the root's histogram with the totals behind. Where leaves are refitted, all leaves are 0 and the tree's end is
    answered by "residuals": its `SetLeaves` then says what comes next.
    """

    tree: int
    level: int
    feature: Tensor
    bin: Tensor
    missing_left: Tensor
    leaf: Tensor
    build_left: Tensor
    child_leaf: Tensor
    nodes: Tensor
    categories: Tensor
    gradient_bound: float
    then: QuantiseGradients | None = None
    beside: tuple[TreeSplits, ...] = ()

    @property
    def trees(self) -> tuple[SplitNodes | TreeSplits, ...]:
        """Of each tree what is told of it."""
        return self, *self.beside


class CountResiduals(Message, frozen=True):
    """Aggregator to party: count residuals in the parts of these cells of the groups of rows ("residuals"), and sum weights there
    ("residual-weights").

    The groups are the leaves of the tree, in the order in which they were told; before the first tree all rows are one group, their
    residuals the labels. bits, offsets and prefixes are those of `data.quantiles.CutRequest`, groups in place of features. bits is 0
    where the public first cells are asked for, as before the first tree; of a tree's leaves these counts are the answer to its last
    `SplitNodes`.
    """

    tree: int
    bits: int
    offsets: Tensor
    prefixes: Tensor


class SetLeaves(Message, frozen=True):
    """Aggregator to party: the values of the tree's leaves, float32, in the order in which they were told, which were 0 until now.

    Answered by what comes next, as a `SplitNodes` that ends a tree; gradient_bound and then are as there.
    """

    tree: int
    values: Tensor
    gradient_bound: float
    then: QuantiseGradients | None = None


class Contribution(Message, frozen=True):
    """Party to aggregator: this party's part of a sum over all parties.

    tree is -1 before the first tree, and the first one of those that grow side by side; step counts the requests of the set-up or of
    the tree; quantity says what is summed; first is the position of the first item where a quantity travels in several fragments (of
    histograms the first built node, counted over all trees); zero, in the last fragment of a masked
    vector, is its masked zero word (0 elsewhere).
    """

    tree: int
    step: int
    quantity: str
    first: int
    values: Tensor
    zero: int = 0


class VouchRows(Message, frozen=True):
    """Party to aggregator: how many of my rows each of the named cells or nodes holds, masked, for all parties to add up.

    words: uint64, little-endian, a count for each and then the masked zero word; tags: for each other party, in the order of names,
    `secure.vouching`'s proof that the words are mine; then: the first fragment of the answer that they come with (none where the answer
    waits for the counts, `privacy.verify_counts = "before"`).
    """

    tree: int
    step: int
    words: memoryview
    tags: memoryview
    then: Contribution | None = None


class ShowRows(Message, frozen=True):
    """Aggregator to party: what all parties vouched for, one behind the other in the order of names; the proofs for this party.

    signature: the aggregator's, over its broadcasts so far, where cells were counted or a tree ends, else empty; frame: the broadcast
    that follows (none where the parties' answers wait for the counts).
    """

    words: memoryview
    tags: memoryview
    signature: bytes
    frame: memoryview


class Collect(Message, frozen=True):
    """Aggregator to collector: add up what your parties answer to my last request, and send me the sums as your own `Contribution`s.

    sums: in the order in which a party may send them, histograms after all others.
    """

    tree: int
    sums: tuple[Awaited, ...]


class PassOn(Message, frozen=True):
    """Aggregator to collector, and collector to aggregator: a frame for this party of the collector, or from it, as it is.

    Upwards `Join`, `TellLevels`, `Received`, `Abort` and the frames of audit logs pass so; downwards those of audit logs.
    """

    member: str
    frame: memoryview


class Explain(Message, frozen=True):
    """Aggregator to party: the model is done; sum the sizes of your rows' SHAP values under it ("shap").

    trees, model_sha256, model: as in `Finish`, which brings none after this. Where the plan has `evaluation.shap`, and the model is
    released, so that every party receives it.
    """

    trees: int
    model_sha256: bytes
    model: bytes


class Finish(Message, frozen=True):
    """Aggregator to party: the run is over. model is the zlib-compressed XGBoost JSON for receivers, empty for others.

    metric: where the plan's release depends on one, its value, as the aggregator says. Where that is not enough nobody gets the model,
    and hash and model are empty.
    shap: after `Explain`, by feature the mean size of all parties' SHAP values; else empty.
    """

    trees: int
    model_sha256: bytes
    model: bytes
    metric: float | None = None
    shap: tuple[float, ...] = ()


class Received(Message, frozen=True):
    """Party to aggregator: I have the end of the run, and for a receiver the model with this hash.

    Of a run that describes it is the hash of `Described`.
    """

    model_sha256: bytes


class Relay(Message, frozen=True):
    """Member to member, through the hub (coopetitive): a fragment of a sealed message that only the receiver can open.

    The hub checks that `sender` is who sent it, and passes the frame on as it is. kind is "message", a sealed message of
    `SEALED`, or "round", the numbers of one round among servers; the seal binds it.
    """

    sender: str
    receiver: str
    kind: str
    sealed: memoryview


class Done(Message, frozen=True):
    """Member to hub (coopetitive): I have sent my last message."""


class Close(Message, frozen=True):
    """Hub to member (coopetitive): everybody is through; the run is over."""


class ShareCounts(Message, frozen=True):
    """Owner to server, sealed: my shares of whole numbers (fields are those of `oblivious.shared_vectors.VectorShares`).

    step 0 is the sums of my labels and weights, where the plan gives no base score; the others answer `CountProbes`, in order.
    """

    step: int
    count: int
    keys: tuple[bytes, bytes]
    part: tuple[Tensor, ...]


class CountProbes(Message, frozen=True):
    """Server to owner, sealed: count rows at these probes (fields are those of `oblivious.quantile_search.CutProbes`)."""

    offsets: Tensor
    starts: Tensor
    depths: Tensor
    bits: int


class TrainingSetup(Message, frozen=True, omit_defaults=True):
    """Server to owner and receiver, sealed: cuts, base score and scale_pos_weight, as the three servers found them.

    base_score and total_weight have one entry for each output; total_weight bounds the sum of all rows' weights, and is 0 where
    nothing is known of it. label_spread bounds the standard deviation of the labels of squared error, and label_scale is their unit;
    both are 0 for other objectives, and where the plan gives the base score.
    """

    offsets: Tensor
    values: Tensor
    has_missing: Tensor
    base_score: tuple[float, ...]
    scale_pos_weight: float
    total_weight: tuple[float, ...]
    label_spread: float = 0.0
    label_scale: float = 0.0


class ShareRows(Message, frozen=True):
    """Owner to server, sealed: the shares of some of my rows (fields are those of `oblivious.shared_rows.RowShares`).

    held says whether these are held-out rows; first is the number of the first row; keys has an empty key where that part is no
    key stream; parts is the part that travels, or empty.
    """

    held: bool
    first: int
    rows: int
    keys: tuple[bytes, bytes]
    parts: tuple[Tensor, ...]


class TakeRows(Message, frozen=True):
    """Server to owner, sealed: I hold so many of your rows, held-out ones included; you may go on."""

    rows: int


class ReleaseTree(Message, frozen=True):
    """Server to receiver, sealed: my two parts of every split (XOR parts of packed one-hots, by level) and leaf of a tree.

    covers is my parts of the leaves' covers, where the plan releases statistics, else empty.
    """

    tree: int
    trees: int
    splits: tuple[Tensor, ...]
    leaves: Tensor
    covers: tuple[Tensor, ...]


class DecideRelease(Message, frozen=True):
    """Server to receiver, sealed, where the plan's release depends on a metric: whether it is reached, before any tree.

    metric is its value at the model's last round where that was opened; else None, and servers opened no more than whether it is
    reached, or it has none.
    """

    reached: bool
    metric: float | None


class AgreeModel(Message, frozen=True):
    """Receiver to receiver, sealed: the hash of the model file that I put together."""

    model_sha256: bytes


class Abort(Message, frozen=True):
    """Either way: the run cannot go on. member is who is at fault ("" where nobody is), reason says what happened.

    retry says whether the same run may succeed later although nobody changes a file.
    """

    member: str
    reason: str
    retry: bool = False


MESSAGES: tuple[type[Message], ...] = (
    OpenLogs,
    LogsOpened,
    ShowLog,
    LogsShown,
    AskLogs,
    CountersignLogs,
    LogsCountersigned,
    Join,
    Welcome,
    Resume,
    SignCheckpoint,
    CheckpointSigned,
    CommitKey,
    KeysCommitted,
    AnnounceKey,
    ExchangeKeys,
    ConfirmKeys,
    KeysConfirmed,
    CountMagnitudes,
    SumLabels,
    TellLevels,
    UseLevels,
    KeepLevels,
    CountCells,
    UseCuts,
    CountBins,
    Described,
    QuantiseGradients,
    SplitNodes,
    CountResiduals,
    SetLeaves,
    Contribution,
    VouchRows,
    ShowRows,
    Collect,
    PassOn,
    Explain,
    Finish,
    Received,
    Relay,
    Done,
    Close,
    ShareCounts,
    CountProbes,
    TrainingSetup,
    ShareRows,
    TakeRows,
    ReleaseTree,
    DecideRelease,
    AgreeModel,
    Abort,
)

SEALED: tuple[type[Message], ...] = (
    ShareCounts,
    CountProbes,
    TrainingSetup,
    ShareRows,
    TakeRows,
    ReleaseTree,
    DecideRelease,
    AgreeModel,
)
"""Messages that travel inside a `Relay` only: the hub takes none of them."""

WITH_DATA: frozenset[type[Message]] = frozenset(
    {
        KeepLevels,
        CountCells,
        UseCuts,
        CountBins,
        Described,
        QuantiseGradients,
        SplitNodes,
        CountResiduals,
        SetLeaves,
        Contribution,
        Explain,
        Finish,
        Relay,
        ShareCounts,
        CountProbes,
        TrainingSetup,
        ShareRows,
        ReleaseTree,
        VouchRows,
        ShowRows,
        PassOn,
    }
)
"""Messages whose binary data may be as long as a frame. Views of the frame hold them, but for the model in `Explain` and `Finish`."""

_OF_ALL_MEMBERS = frozenset(
    {Welcome, Resume, CheckpointSigned, KeysCommitted, ExchangeKeys, ConfirmKeys, KeysConfirmed, TellLevels, UseLevels}
    | {OpenLogs, LogsOpened, ShowLog, LogsShown, LogsCountersigned}
)

AnyMessage = (
    OpenLogs
    | LogsOpened
    | ShowLog
    | LogsShown
    | AskLogs
    | CountersignLogs
    | LogsCountersigned
    | Join
    | Welcome
    | Resume
    | SignCheckpoint
    | CheckpointSigned
    | CommitKey
    | KeysCommitted
    | AnnounceKey
    | ExchangeKeys
    | ConfirmKeys
    | KeysConfirmed
    | CountMagnitudes
    | SumLabels
    | TellLevels
    | UseLevels
    | KeepLevels
    | CountCells
    | UseCuts
    | CountBins
    | Described
    | QuantiseGradients
    | SplitNodes
    | CountResiduals
    | SetLeaves
    | Contribution
    | VouchRows
    | ShowRows
    | Collect
    | PassOn
    | Explain
    | Finish
    | Received
    | Relay
    | Done
    | Close
    | ShareCounts
    | CountProbes
    | TrainingSetup
    | ShareRows
    | TakeRows
    | ReleaseTree
    | DecideRelease
    | AgreeModel
    | Abort
)

_encoder = msgspec.msgpack.Encoder()
_DECODERS: dict[type[Message], msgspec.msgpack.Decoder[Any]] = {
    kind: msgspec.msgpack.Decoder(kind, strict=True) for kind in MESSAGES
}
_TAG = b"\xa4type"
"""How the kind's name begins: MessagePack's text of four bytes, the key under which msgspec writes it first."""

_BY_HEAD = {_TAG + bytes([0xA0 + len(kind.__name__)]) + kind.__name__.encode(): kind for kind in MESSAGES}
"""What stands behind a frame's first byte. Names have 31 bytes at most, so that one byte says how many."""

Number = TypeVar("Number", bound=np.generic)


def encode(message: Message) -> bytes:
    """The frame that carries `message`."""
    return _encoder.encode(message)


def abort(member: str, reason: str, retry: bool = False) -> bytes:
    """The frame of an `Abort`; a reason that is too long to be read is cut."""
    cut = reason if len(reason) <= REASON_CHARACTERS else reason[: REASON_CHARACTERS - 4] + " ..."
    return encode(Abort(member, cut, retry))


def kind_of(sender: str, frame: bytes | bytearray | memoryview) -> type[Message]:
    """Which message a frame says that it is, from its first bytes alone.

    Raises:
        ProtocolError: it says none, or not first. Names the sender.
    """
    kind = _BY_HEAD.get(bytes(frame[1 : 7 + (frame[6] & 31)])) if len(frame) > 6 and frame[0] >> 4 == 8 else None
    if kind is None:
        raise _not_a_message(sender, frame, "it does not begin with the name of one")
    return kind


def decode(sender: str, frame: bytes | bytearray | memoryview) -> AnyMessage:
    """The message in a frame. Raises ProtocolError naming the sender where it is not exactly one message, or too large for its kind.

    Tensor data are views into the frame: copy what must outlive it. See `protocol.session.Session.decode` for a role's use.
    """
    return decode_as(kind_of(sender, frame), sender, frame)


def decode_as(kind: type[Message], sender: str, frame: bytes | bytearray | memoryview) -> AnyMessage:
    """`decode` of a frame whose kind is known already."""
    most = ROSTER_BYTES if kind in _OF_ALL_MEMBERS else ENVELOPE_BYTES
    if len(frame) > most and (kind not in WITH_DATA or _beside_data(memoryview(frame), most) > most):
        part = "what is no array in " if kind in WITH_DATA else ""
        raise ProtocolError(
            f"member {sender!r} sent {kind.__name__} as a frame of {len(frame)} bytes; rule: {part}it has {most} bytes at most",
            member=sender,
            rule=f"{part}it has {most} bytes at most",
        )
    try:
        message: AnyMessage = _DECODERS[kind].decode(frame)
    except (
        msgspec.DecodeError,
        msgspec.ValidationError,
        UnicodeDecodeError,
        RecursionError,
        OverflowError,
    ) as error:
        raise _not_a_message(sender, frame, str(error)) from error
    return message


def _not_a_message(sender: str, frame: bytes | bytearray | memoryview, why: str) -> ProtocolError:
    return ProtocolError(
        f"member {sender!r} sent a frame of {len(frame)} bytes that is not a message of protocol version "
        f"{PROTOCOL_VERSION}: {why}; check that all members run the same release of Hansa",
        member=sender,
        rule="a frame is one message of the protocol",
        cure="check that all members run the same release of Hansa",
    )


def _beside_data(frame: memoryview, most: int) -> int:
    """Bytes of a frame that are no binary data, counted until they are more than `most`. Makes no object of them.

    MessagePack's headers follow each other, nested or not; extension types, which no message has, count as too many.
    """
    at = beside = 0
    while at < len(frame) and beside <= most:
        byte = frame[at]
        data = 0
        if byte in _LENGTH_BYTES:
            width = _LENGTH_BYTES[byte]
            content = int.from_bytes(frame[at + 1 : at + 1 + width], "big")
            head = 1 + width + (0 if byte in _BINARY else content)
            data = content if byte in _BINARY else 0
        elif 0xA0 <= byte <= 0xBF:
            head = 1 + (byte & 31)
        elif byte in _EXTENSIONS:
            return most + 1
        else:
            head = _HEADERS.get(byte, 1)
        at += head + data
        beside += head
    return beside


_BINARY = (0xC4, 0xC5, 0xC6)
_LENGTH_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
"""Bytes that tell the length of binary data and texts, by their first byte."""

_EXTENSIONS = (0xC1, 0xC7, 0xC8, 0xC9, 0xD4, 0xD5, 0xD6, 0xD7, 0xD8)
_HEADERS = {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9} | {
    0xDC: 3,
    0xDD: 5,
    0xDE: 3,
    0xDF: 5,
}
"""Bytes of numbers, and of what begins an array or a map, by their first byte; all others take one."""


def to_tensor(array: npt.NDArray[Any]) -> Tensor:
    """The message form of a C-contiguous array whose dtype is one of `DTYPES`; the data are a view of the array."""
    if array.dtype.str not in DTYPES or not array.flags.c_contiguous:
        raise TypeError(f"an array of {array.dtype} cannot be sent; expected C order and one of {', '.join(DTYPES)}")
    return Tensor(array.dtype.str, array.shape, array.data.cast("B") if array.size else _NOTHING)


def to_array(
    sender: str, what: str, tensor: Tensor, dtype: type[Number], shape: tuple[int | None, ...]
) -> npt.NDArray[Number]:
    """The array in a tensor, read-only, as a view of the frame.

    Args:
        sender, what: for the error's text.
        dtype: the only dtype accepted.
        shape: the shape expected; None where any length will do.

    Raises:
        ProtocolError: another dtype or shape, or bytes that do not fit them.
    """
    expected, name, size = _KINDS[dtype]
    got, data = tensor.shape, tensor.data
    fits = tensor.dtype == name and (got == shape or _fits(got, shape))
    if not fits or len(data) != math.prod(got) * size:
        wanted = tuple("any" if n is None else n for n in shape)
        raise ProtocolError(
            f"member {sender!r} sent {what} as {tensor.dtype[:8]!r} of shape {got[:8]} in {len(tensor.data)} bytes; "
            f"expected {name!r} of shape {wanted}",
            member=sender,
            rule=f"expected {name!r} of shape {wanted}",
        )
    array: npt.NDArray[Number] = np.frombuffer(data, expected)
    return array if len(got) == 1 else array.reshape(got)


def _fits(got: tuple[int, ...], shape: tuple[int | None, ...]) -> bool:
    if shape == ANY_LENGTH:  # of most arrays
        return len(got) == 1 and got[0] >= 0
    return len(got) == len(shape) and all(n >= 0 and want in (None, n) for want, n in zip(shape, got, strict=True))
