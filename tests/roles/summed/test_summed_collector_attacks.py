"""Attacks where a plan has collectors: a party, a collector or an aggregator that sends what does not fit is refused by its name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from hansa.consortium.policy import Policy
from hansa.errors import HansaError, MemberLost, PlanError, ProtocolError, RunStopped
from hansa.exposure import exposure
from hansa.node.consent import roles_of
from hansa.node.in_process import train_in_process
from hansa.plan import parse_plan, write_plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    Abort,
    Awaited,
    Collect,
    Contribution,
    CountMagnitudes,
    Finish,
    Join,
    PassOn,
    Received,
    Welcome,
    decode,
    encode,
    to_tensor,
)
from hansa.roles.run import agreement, run_hub, run_id
from hansa.roles.summed.aggregator import Aggregator
from hansa.roles.summed.branches import BranchedHub
from hansa.roles.summed.collector import Collector
from hansa.roles.summed.describing import check_describable
from hansa.roles.summed.party import Party
from hansa.roles.summed.row_bounds import MOST, fault_of, most_of
from hansa.roles.summed.side_by_side import MOST_TREES
from hansa.roles.summed.statistics import EXPONENTS
from hansa.transport.channel import Frame, Hub, Traffic
from made_tables import NAMES, OPEN, plan, spread, table

WEST = (("west", NAMES[:2]),)
AURORA, BOREALIS, CIRRUS = NAMES[:3]
ROWS = table(240, weighted=True)
TABLES = spread(ROWS, np.arange(240) % 3)
PLAIN = table(300)
FEW = spread(PLAIN, np.where(np.arange(300) < 40, np.arange(300) % 2, 2))
"""Rows of equal weights, few of them behind west: what these can have is well below what fits a sum."""

CLASSED = spread(table(300, "multi:softprob"), np.where(np.arange(300) < 40, np.arange(300) % 2, 2))
"""The same with three classes: three trees a round, which grow side by side."""

Change = Callable[[Contribution], Contribution | list[Contribution]]


def agreed(*, weighted: bool = True, **given):
    """Aurora and Borealis behind the collector west, and Cirrus without one."""
    return replace(plan(NAMES[:3], weighted=weighted, evaluation=0.2, **given), collectors=WEST)


def tables_of(weighted: bool = True, objective: str = "", **_):
    if objective:
        return CLASSED
    return TABLES if weighted else FEW


def arrays(message: Contribution) -> np.ndarray:
    return np.frombuffer(message.values.data, message.values.dtype).reshape(message.values.shape).copy()


def with_values(message: Contribution, values: np.ndarray) -> Contribution:
    return msgspec.structs.replace(message, values=to_tensor(np.ascontiguousarray(values)))


def adding(number: int, place: int = 0) -> Change:
    """A change that adds to one number of a sum."""

    def change(message: Contribution) -> Contribution:
        values = arrays(message)
        flat = values.reshape(-1)
        flat[place] = min(max(int(flat[place]) + number, np.iinfo(flat.dtype).min), np.iinfo(flat.dtype).max)
        return with_values(message, values)

    return change


def changed(frame: Frame, sender: str, quantity: str, change: Change) -> list[bytes]:
    """The frame, or what a liar sends in its place."""
    if messages.kind_of(sender, frame) is not Contribution:
        return [bytes(frame)]
    message = decode(sender, bytes(frame))
    if message.quantity != quantity:
        return [bytes(frame)]
    lies = change(message)
    return [encode(each) for each in (lies if isinstance(lies, list) else [lies])]


class LyingCollector(Hub):
    """The aggregator's hub where west changes the sums that it sends."""

    def __init__(self, hub: Hub, quantity: str, change: Change) -> None:
        self._hub = hub
        self._quantity, self._change = quantity, change
        self._more: list[bytes] = []

    @property
    def traffic(self) -> Mapping[str, Traffic]:
        return self._hub.traffic

    def send(self, member: str, frame: Frame) -> None:
        self._hub.send(member, frame)

    def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
        if not self._more:
            member, frame = self._hub.receive(timeout)
            if member != "west":
                return member, frame
            self._more = changed(frame, member, self._quantity, self._change)
        return "west", memoryview(self._more.pop(0))

    def drop(self, member: str, reason: str) -> None:
        self._hub.drop(member, reason)

    def close(self) -> None:
        self._hub.close()


def refused_of_collector(quantity: str, change: Change, **given) -> ProtocolError:
    with pytest.raises(ProtocolError) as caught:
        train_in_process(
            agreed(**given),
            tables_of(**given),
            wrap=lambda hub: LyingCollector(hub, quantity, change),
            nodes_per_frame=1,
        )
    assert "'west'" in str(caught.value)
    return caught.value


def refused_of_party(monkeypatch, quantity: str, change: Change, **given) -> ProtocolError:
    """What west says of borealis, which lies to it."""
    take = Collector.from_party

    def lied_to(self: Collector, party: str, frame: memoryview) -> Iterator[tuple[str, Frame]]:
        for each in changed(frame, party, quantity, change) if party == BOREALIS else [frame]:
            yield from take(self, party, memoryview(each))

    monkeypatch.setattr(Collector, "from_party", lied_to)
    with pytest.raises(ProtocolError) as caught:
        train_in_process(agreed(**given), tables_of(**given), nodes_per_frame=1)
    assert (caught.value.member, caught.value.suspects) == (BOREALIS, ())
    assert f"member {BOREALIS!r}" in str(caught.value)
    return caught.value


# --- a party lies to its collector ------------------------------------------------------------------------------------


def cut(message: Contribution) -> Contribution:
    return with_values(message, arrays(message)[..., :-1])


def as_floats(message: Contribution) -> Contribution:
    return with_values(message, arrays(message).astype(np.float64).view(np.uint64))


def twice(message: Contribution) -> list[Contribution]:
    return [message, message]


SHAPES: dict[str, tuple[str, Change, str]] = {
    "magnitudes, cut": ("magnitudes", cut, "expected '<i8' of shape (2, 256)"),
    "cells of another type": ("cells", as_floats, "expected '<u4'"),
    "cells, cut": ("cells", cut, "of shape"),
    "histograms, cut": ("histograms", cut, "expected whole nodes from 0"),
    "no nodes": ("histograms", lambda m: with_values(m, arrays(m)[:0]), "expected whole nodes from 0"),
    "a node twice": ("histograms", twice, "sent"),
    "nodes from further on": (
        "histograms",
        lambda m: msgspec.structs.replace(m, first=m.first + 1),
        "expected whole nodes from 0",
    ),
    "labels twice": ("labels", twice, "sent"),
    "another tree": ("histograms", lambda m: msgspec.structs.replace(m, tree=m.tree + 1), "of tree 0"),
    "another step": ("labels", lambda m: msgspec.structs.replace(m, step=7), "of step 1"),
    "another sum": ("labels", lambda m: msgspec.structs.replace(m, quantity="bins"), "expected 'labels'"),
    "a zero word": ("labels", lambda m: msgspec.structs.replace(m, zero=1), "zero word"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_a_party_that_sends_what_does_not_fit_is_named_by_its_collector(monkeypatch, name):
    quantity, change, words = SHAPES[name]
    error = refused_of_party(monkeypatch, quantity, change)
    assert words in str(error)


BOUNDS: dict[str, tuple[str, int, int]] = {
    # What is added to which number: to counts more rows than there are, to sums more than these rows can have, and below 0.
    "magnitudes": ("magnitudes", 10**6, 200),
    "magnitudes below 0": ("magnitudes", -(10**6), 200),
    "cells": ("cells", 10**6, 3),
    "weights": ("weights", 2**62, 3),
    "weights below 0": ("weights", -(2**61), 3),
    "totals": ("totals", 2**62, 0),
    "hessians in totals": ("totals", 2**62, 1),
    "totals below 0": ("totals", -(2**62), 1),
}
NARROW, WIDE = {"weighted": False, "histogram_bits": 32}, {"weighted": False, "histogram_bits": 64}
GROWING: dict[str, tuple[str, int, int, dict[str, int]]] = {
    "gradients, narrow": ("histograms", 2**62, 5, NARROW),
    "gradients below, narrow": ("histograms", -(2**62), 5, NARROW),
    "hessians, narrow": ("histograms", 2**31 + 2**30, 5, NARROW),
    "gradients, wide": ("histograms", 2**61, 5, WIDE),
    "gradients below, wide": ("histograms", -(2**61), 5, WIDE),
    "hessians, wide": ("histograms", 2**61, -1, WIDE),
    "hessians below 0, wide": ("histograms", -(2**61), -1, WIDE),
    "gradients of a root": ("root", 2**61, 5, WIDE),
    "totals behind a root": ("root", 2**61, -1, WIDE),
}
LIES = {name: (*own, {}) for name, own in BOUNDS.items()} | GROWING


@pytest.mark.parametrize("name", LIES)
def test_a_party_whose_sums_are_of_more_than_its_rows_is_named_by_its_collector(monkeypatch, name):
    quantity, number, place, given = LIES[name]
    error = refused_of_party(monkeypatch, quantity, adding(number, place), **given)
    assert "a party's sums are of its own rows" in str(error)


def test_histograms_come_after_the_other_sums_of_a_round(monkeypatch):
    """Else the collector itself would break the aggregator's order."""
    held: list[Contribution] = []

    def later(message: Contribution) -> list[Contribution]:
        held.append(message)
        return []

    error = refused_of_party(monkeypatch, "metric/logloss", lambda m: later(m) if m.tree else m)
    assert "after all other sums" in str(error)
    assert held


CLASSES = {"weighted": False, "objective": "multi:softprob", "max_depth": 3}
BESIDE: dict[str, tuple[int, int, int]] = {
    # A number that is added, its place in the root's histogram, and bits of sums.
    "gradients, narrow": (2**62, 5, 32),
    "hessians, narrow": (2**31 + 2**30, 5, 32),
    "gradients below, wide": (-(2**61), 5, 64),
    "hessians, wide": (2**61, -1, 64),
}


def at_root(of: int, change: Change) -> Change:
    """A change of the root's histogram of one of the trees that grow side by side."""
    return lambda message: change(message) if (message.step, message.first) == (1, of) else message


@pytest.mark.parametrize("tree", [0, 1, 2])
@pytest.mark.parametrize("name", BESIDE)
def test_each_tree_side_by_side_is_held_to_the_rows(monkeypatch, name, tree):
    number, place, bits = BESIDE[name]
    lie = at_root(tree, adding(number, place))
    error = refused_of_collector("histograms", lie, **CLASSES, histogram_bits=bits)
    assert error.member == "west"
    assert "the sums of a collector are of its parties' rows" in str(error)
    error = refused_of_party(monkeypatch, "histograms", lie, **CLASSES, histogram_bits=bits)
    assert "a party's sums are of its own rows" in str(error)


@pytest.mark.parametrize("tree", [0, 2])
def test_a_node_of_any_tree_comes_whole_and_once(monkeypatch, tree):
    for change in (cut, twice):
        refused_of_collector("histograms", at_root(tree, change), **CLASSES)
        refused_of_party(monkeypatch, "histograms", at_root(tree, change), **CLASSES)


# --- a collector lies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LIES)
def test_a_collector_whose_sums_are_of_more_than_its_parties_rows_is_refused(name):
    quantity, number, place, given = LIES[name]
    error = refused_of_collector(quantity, adding(number, place), **given)
    assert error.member == "west"
    assert "the sums of a collector are of its parties' rows" in str(error)


@pytest.mark.parametrize("name", SHAPES)
def test_a_collector_that_sends_what_does_not_fit_is_named(name):
    quantity, change, _ = SHAPES[name]
    assert refused_of_collector(quantity, change).member == "west"


def test_a_collectors_sums_within_the_bound_are_taken_as_they_are():
    """What is within the bound nobody can tell from the truth: SECURITY.md says so."""
    lied = train_in_process(agreed(), TABLES, wrap=lambda hub: LyingCollector(hub, "labels", adding(1, 2)))
    assert lied.outcome.model


def registering() -> tuple[Aggregator, BranchedHub, list[tuple[str, bytes]]]:
    frames: list[tuple[str, bytes]] = []

    class Given(LyingCollector):
        def __init__(self) -> None:
            pass

        def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
            member, frame = frames.pop(0)
            return member, memoryview(frame)

        def send(self, member: str, frame: Frame) -> None:
            pass

    return Aggregator(agreed()), BranchedHub(Given(), agreed()), frames


A_PART = encode(Contribution(-1, 0, "magnitudes", 0, to_tensor(np.zeros((2, EXPONENTS), np.int64))))
SPOKEN: dict[str, tuple[str, bytes, str, str]] = {
    "another's party": ("west", encode(PassOn(CIRRUS, memoryview(encode(Received(b""))))), "west", "no party of it"),
    "a party's sum": ("west", encode(PassOn(AURORA, memoryview(A_PART))), "west", "passes on Contribution"),
    "a collector that joins": (
        "west",
        encode(Join(1, bytes(32), bytes(32), 1, 1, b"")),
        "west",
        "Join in its own name",
    ),
    "a collector that acknowledges": ("west", encode(Received(b"")), "west", "Received in its own name"),
    "no message of a party": ("west", encode(PassOn(AURORA, memoryview(b"what"))), AURORA, "not a message"),
    "a party that passes on": ("cirrus", encode(PassOn(AURORA, memoryview(A_PART))), CIRRUS, "PassOn"),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_what_nobody_may_say_in_anothers_name_is_refused(name):
    sender, frame, blamed, words = SPOKEN[name]
    aggregator, hub, frames = registering()
    frames.append((sender, frame))
    with pytest.raises(ProtocolError, match=words) as caught:
        run_hub(aggregator, hub)
    assert caught.value.member == blamed


def test_a_party_with_a_collector_sends_the_aggregator_no_sums():
    aggregator = Aggregator(agreed())
    with pytest.raises(ProtocolError, match="its collector 'west' adds up") as caught:
        list(aggregator.handle(AURORA, memoryview(A_PART)))
    assert caught.value.member == AURORA


@pytest.mark.parametrize(("named", "blamed"), [(AURORA, AURORA), ("", "west"), (CIRRUS, "west")])
def test_a_collector_that_stops_names_a_party_of_its_own_or_itself(named, blamed):
    aggregator = Aggregator(agreed())
    with pytest.raises(RunStopped, match="collector 'west' stopped the run") as caught:
        list(aggregator.handle("west", memoryview(encode(Abort(named, "a part was cut")))))
    assert (caught.value.member, caught.value.told_by) == (blamed, "west")


def test_a_collector_that_is_lost_takes_its_parties_with_it():
    class Lost(LyingCollector):
        def __init__(self) -> None:
            pass

        def receive(self, timeout: float | None = None) -> tuple[str, memoryview]:
            raise MemberLost("west", "the connection ended")

    hub = BranchedHub(Lost(), agreed())
    lost = []
    for _ in range(3):
        with pytest.raises(MemberLost) as caught:
            hub.receive()
        lost.append(caught.value.member)
    assert lost == ["west", AURORA, BOREALIS]


# --- an aggregator lies to a collector --------------------------------------------------------------------------------


def told(collector: Collector, message: messages.Message) -> list[tuple[str, bytes]]:
    return [(to, bytes(frame)) for to, frame in collector.from_above(memoryview(encode(message)))]


def roster(rows: int = 10):
    return tuple((name, bytes(32), rows, 0, b"") for name in NAMES[:3])


def welcomed(**given) -> Collector:
    collector = Collector(agreed(**given), "west")
    own = roster()
    assert [to for to, _ in told(collector, Welcome(run_id(agreement(agreed(**given), {}), own), own))] == [*NAMES[:2]]
    return collector


def awaited(shape=(2, EXPONENTS), **fields) -> Awaited:
    given = {"quantity": "magnitudes", "step": 0, "dtype": "<i8", "planes": 0, "most": (1,)} | fields
    return Awaited(shape=shape, **given)


def nodes(shape=(3, 2, 5), **fields) -> Awaited:
    """The histograms of a tree."""
    return awaited(shape, **({"quantity": "histograms", "step": 1, "planes": 2, "most": (9, 9)} | fields))


COLLECTS: dict[str, tuple[Awaited, ...]] = {
    "nothing": (),
    "the same twice": (awaited(), awaited()),
    "an unknown type": (awaited(dtype="<f8"),),
    "a length below 0": (awaited((-1, 4)),),
    "no axis": (awaited(()),),
    "more than memory": (awaited((2**20, 2**20)),),
    "histograms without planes": (awaited((1, 2), quantity="histograms"),),
    "histograms of other planes": (nodes(planes=1),),
    "histograms of no cells": (nodes((1, 2, 0)),),
    "histograms of two steps": (nodes(), nodes(step=2)),
    "histograms of two types": (nodes(), nodes(dtype="<u4")),
    "histograms of one and two planes": (nodes(), nodes((1, 1, 3), planes=1)),
    "histograms of too many trees": (nodes(),) * (MOST_TREES + 1),
    "histograms of many trees that take more than memory": (nodes((2**14, 2, 2**10)),) * 9,
}


@pytest.mark.parametrize("name", COLLECTS)
def test_a_collector_makes_no_room_for_what_cannot_be(name):
    collector = welcomed()
    told(collector, CountMagnitudes())
    with pytest.raises(ProtocolError) as caught:
        told(collector, Collect(-1, COLLECTS[name]))
    assert caught.value.member == "hub"


def test_a_collector_refuses_a_run_of_another_plan_or_without_its_parties():
    own = roster()
    for message in (
        Welcome(run_id(agreement(agreed(rounds=9), {}), own), own),
        Welcome(run_id(agreement(agreed(), {}), own[1:]), own[1:]),
        Welcome(run_id(agreement(agreed(), {}), roster(-1)), roster(-1)),
    ):
        with pytest.raises(ProtocolError, match="'west'") as caught:
            told(Collector(agreed(), "west"), message)
        assert caught.value.member == "hub"


def test_a_collector_passes_on_to_its_own_parties_alone_and_sums_when_asked_alone():
    collector = welcomed()
    with pytest.raises(ProtocolError, match="no party of this collector"):
        told(collector, PassOn(CIRRUS, memoryview(b"x")))
    with pytest.raises(ProtocolError, match="'passing'"):
        told(collector, Collect(-1, (awaited(),)))
    with pytest.raises(ProtocolError, match="no party of collector 'west'") as caught:
        list(collector.from_party(CIRRUS, memoryview(A_PART)))
    assert caught.value.member == CIRRUS


def test_what_a_party_answers_before_the_collector_knows_what_is_awaited_is_kept():
    collector = welcomed()
    told(collector, CountMagnitudes())
    assert list(collector.from_party(AURORA, memoryview(A_PART))) == []
    assert told(collector, Collect(-1, (awaited(),))) == []
    assert collector.waiting_for() == [BOREALIS]
    ((to, frame),) = collector.from_party(BOREALIS, memoryview(A_PART))
    assert (to, decode("west", bytes(frame)).quantity) == ("hub", "magnitudes")
    with pytest.raises(ProtocolError, match="'passing'"):
        list(collector.from_party(AURORA, memoryview(A_PART)))


def test_a_party_cannot_fill_a_collectors_memory_before_it_is_asked(monkeypatch):
    monkeypatch.setattr("hansa.roles.summed.collector.COLLECTED_BYTES", 5 * len(A_PART))
    collector = welcomed()
    told(collector, CountMagnitudes())
    for _ in range(2):
        assert list(collector.from_party(AURORA, memoryview(A_PART))) == []
    with pytest.raises(ProtocolError, match=f"'{AURORA}' sent .* before it was asked for sums") as refused:
        list(collector.from_party(AURORA, memoryview(A_PART)))
    assert refused.value.member == AURORA
    assert list(collector.from_party(BOREALIS, memoryview(A_PART))) == []


def test_only_receivers_get_the_model_from_a_collector():
    collector = Collector(replace(agreed(), receivers=(AURORA, CIRRUS)), "west")
    collector._above.state = collector._below.state = "passing"
    end = Finish(3, bytes(32), b"the model")
    found = {to: decode("hub", frame) for to, frame in told(collector, end)}
    assert found == {AURORA: end, BOREALIS: msgspec.structs.replace(end, model=b"")}
    for party in NAMES[:2]:
        assert not collector.done
        ((to, frame),) = collector.from_party(party, memoryview(encode(Received(bytes(32)))))
        passed = decode("west", bytes(frame))
        assert (to, passed.member, decode(party, passed.frame)) == ("hub", party, Received(bytes(32)))
    assert collector.done
    assert collector.has_left(AURORA)


def test_nobody_but_receivers_has_the_model_where_there_are_collectors():
    chosen = replace(agreed(), receivers=(BOREALIS,))
    run = train_in_process(chosen, TABLES)
    assert {name: party.model for name, party in run.parties.items()} == {
        AURORA: None,
        BOREALIS: run.outcome.model,
        CIRRUS: None,
    }


def test_a_party_that_is_told_what_cannot_be_suspects_its_collector_too():
    """Which of the two lies the party cannot tell."""
    run: dict[str, HansaError] = {}
    for name in (AURORA, CIRRUS):
        party = Party(agreed(), name, TABLES[name], nonce=bytes(32), policy=OPEN)
        with pytest.raises(ProtocolError) as caught:
            list(party.handle(memoryview(encode(Welcome(bytes(32), roster())))))
        run[name] = caught.value
    assert (run[AURORA].member, run[AURORA].suspects) == ("", ("hub", "west"))
    assert "through collector 'west'" in str(run[AURORA])
    assert (run[CIRRUS].member, run[CIRRUS].suspects) == ("hub", ())


# --- bounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("planes", [1, 2])
def test_bounds_hold_just_so_far(planes):
    """The largest sums that rows can have pass, and one more does not."""
    rows, gradient, hessian = 7, 1000, 300

    def cell(g: int, h: int) -> np.ndarray:
        return np.array([[[(g << 32) + h]]] if planes == 1 else [[[g], [h]]], np.int64)

    most = (gradient, hessian)
    for g in (rows * gradient, -rows * gradient, 0):
        for h in (rows * hessian, 0):
            assert fault_of(cell(g, h), planes, most, rows) == ""
    assert "gradients" in fault_of(cell(rows * gradient + 1, 0), planes, most, rows)
    assert "gradients" in fault_of(cell(-rows * gradient - 1, 0), planes, most, rows)
    assert "sums over 7 rows" in fault_of(cell(0, rows * hessian + 1), planes, most, rows)
    behind = np.concatenate([cell(0, 0).ravel(), [rows * 5, rows * 6 + 1]])
    assert "sums over 7 rows" in fault_of(behind, planes, (*most, 5, 6), rows)
    behind[-1] -= 1
    assert fault_of(behind, planes, (*most, 5, 6), rows) == ""
    assert fault_of(cell(0, 0)[:0], planes, most, rows) == ""
    assert fault_of(cell(2**30, 0), planes, (), rows) == ""


def test_a_bound_too_large_for_a_message_says_nothing():
    assert most_of(2.0**300, 2.0**300) == MOST
    assert most_of(0.25, 2.0) == 2


# --- the plan, the policy and what is said ----------------------------------------------------------------------------

WRITTEN = """
mode = "federated"
[members]
aggregator = "hub"
parties = ["a", "b", "c"]
collectors = { west = ["a", "b"] }
[schema]
features = ["x"]
label = "y"
"""

REFUSED = {
    'mode = "secure-aggregation"': ('mode = "federated"', "goes with mode 'federated' only"),
    'west = ["a", "d"]': ('west = ["a", "b"]', "'d', which is no party"),
    "west = []": ('west = ["a", "b"]', "west is empty"),
    'west = ["a", "a"]': ('west = ["a", "b"]', "'a' twice"),
    'west = ["a"], east = ["a"]': ('west = ["a", "b"]', "'a' twice"),
    'hub = ["a"]': ('west = ["a", "b"]', "both a collector and the aggregator"),
    'c = ["a"]': ('west = ["a", "b"]', "both a collector and a party"),
    'West = ["a"]': ('west = ["a", "b"]', "member name 'West'"),
    'aggregator = "hub"\non_dropout = "wait"': ('aggregator = "hub"', "with collectors.*begins anew.*'abort'"),
    'aggregator = "hub"\non_dropout = "continue"': ('aggregator = "hub"', "with collectors.*begins anew.*'abort'"),
    "[privacy]\ndominance = true\n[schema]": ("[schema]", "privacy.dominance needs each party's own part"),
    "[evaluation]\nfolds = 3\n[schema]": ("[schema]", "evaluation.folds trains several"),
    "[evaluation]\nfraction = 0.2\n[search]\ntrials = 2\n[search.space]\neta = [0.1, 0.3]\n[schema]": (
        "[schema]",
        r"\[search\] trains several",
    ),
}


@pytest.mark.parametrize("new", REFUSED)
def test_a_plan_says_what_does_not_go_with_collectors(new):
    old, words = REFUSED[new]
    assert old in WRITTEN
    with pytest.raises(PlanError, match=words):
        parse_plan(WRITTEN.replace(old, new))


def test_a_collector_named_twice_is_refused():
    with pytest.raises(PlanError, match="names a collector twice"):
        replace(plan(NAMES[:3]), collectors=(("west", NAMES[:1]), ("west", NAMES[1:2])))


def test_a_plan_with_collectors_is_read_as_it_is_written():
    read = parse_plan(WRITTEN)
    assert read.collectors == (("west", ("a", "b")),)
    assert (read.members, read.branches) == (("a", "b", "c", "hub", "west"), ("c", "west"))
    assert [read.above(name) for name in ("a", "c", "west")] == ["west", "hub", "hub"]
    assert read.on_dropout == "abort"
    assert parse_plan(write_plan(read)) == read
    without = parse_plan(WRITTEN.replace('collectors = { west = ["a", "b"] }', 'on_dropout = "abort"'))
    assert without.digest() != read.digest()
    assert read.by_key()["members.collectors"] == ("west: a, b",)
    assert roles_of(read, "west") == ("collector",)


def test_a_party_that_names_its_aggregators_refuses_collectors_that_it_does_not_name():
    """A collector reads what an aggregator reads."""
    read = parse_plan(WRITTEN)
    Policy().check_plan(read)
    Policy(aggregators=("hub", "west")).check_plan(read)
    with pytest.raises(PlanError, match=r"aggregator or collector 'west' \(allowed: hub\).*\(aggregators\)"):
        Policy(aggregators=("hub",)).check_plan(read)


def test_the_exposure_of_a_plan_names_the_collectors():
    said = " ".join(exposure(parse_plan(WRITTEN)))
    assert "A collector can read every sum that one of its parties sends" in said
    assert "(west: a, b)" in said
    assert "No other party gets it" not in said


def test_a_description_goes_without_collectors():
    with pytest.raises(PlanError, match=r"members\.collectors"):
        check_describable(parse_plan(WRITTEN))


def test_a_tensor_of_a_collect_takes_no_room_before_it_is_checked():
    """The frame is small; what it asks for is not."""
    frame = encode(Collect(0, (awaited((2**40,)),)))
    assert len(frame) < 200
    assert isinstance(decode("hub", frame), Collect)
