"""The tables say the whole conversation, and a session lets nothing else pass."""

from __future__ import annotations

import re
import runpy
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hansa.errors import ProtocolError
from hansa.protocol.messages import (
    MESSAGES,
    SEALED,
    Abort,
    AnnounceKey,
    CheckpointSigned,
    Close,
    Collect,
    CommitKey,
    ConfirmKeys,
    Contribution,
    CountBins,
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
    Message,
    PassOn,
    QuantiseGradients,
    Received,
    Relay,
    Resume,
    SetLeaves,
    ShowRows,
    SignCheckpoint,
    SplitNodes,
    TellLevels,
    Tensor,
    UseCuts,
    UseLevels,
    VouchRows,
    Welcome,
    to_tensor,
)
from hansa.protocol.session import (
    AGGREGATOR,
    AGGREGATOR_MASKED,
    AGGREGATOR_VERIFYING,
    COLLECTOR,
    COLLECTOR_OF_PARTIES,
    DESCRIBING_AGGREGATOR,
    DESCRIBING_AGGREGATOR_MASKED,
    DESCRIBING_AGGREGATOR_VERIFYING,
    DESCRIBING_PARTY,
    DESCRIBING_PARTY_MASKED,
    DESCRIBING_PARTY_VERIFYING,
    HUB,
    LOG_HUB,
    LOG_MEMBER,
    MEMBER,
    PARTY,
    PARTY_MASKED,
    PARTY_VERIFYING,
    RELEASING_AGGREGATOR,
    RESUMING_AGGREGATOR,
    RESUMING_PARTY,
    Session,
    Transitions,
)

TABLES = {
    "party": (PARTY, "joining"),
    "aggregator": (AGGREGATOR, "registering"),
    "masked party": (PARTY_MASKED, "joining"),
    "verifying party": (PARTY_VERIFYING, "joining"),
    "verifying aggregator": (AGGREGATOR_VERIFYING, "registering"),
    "masked aggregator": (AGGREGATOR_MASKED, "registering"),
    "describing party": (DESCRIBING_PARTY, "joining"),
    "describing aggregator": (DESCRIBING_AGGREGATOR, "registering"),
    "describing masked party": (DESCRIBING_PARTY_MASKED, "joining"),
    "describing masked aggregator": (DESCRIBING_AGGREGATOR_MASKED, "registering"),
    "describing verifying party": (DESCRIBING_PARTY_VERIFYING, "joining"),
    "describing verifying aggregator": (DESCRIBING_AGGREGATOR_VERIFYING, "registering"),
    "resuming party": (RESUMING_PARTY, "joining"),
    "resuming aggregator": (RESUMING_AGGREGATOR, "registering"),
    "releasing aggregator": (RELEASING_AGGREGATOR, "releasing"),
    "member": (MEMBER, "joining"),
    "hub": (HUB, "registering"),
}
ENDS = {"finished", "aborted", "resumed"}

both = pytest.mark.parametrize(("table", "first"), TABLES.values(), ids=TABLES)


def reachable(table: Transitions, first: str) -> set[str]:
    seen, waiting = {first}, [first]
    while waiting:
        for targets in table[waiting.pop()].values():
            waiting += [target for target in targets if target not in seen]
            seen.update(targets)
    return seen


def example(kind: type[Message]) -> Message:
    values = {
        int: 0,
        bool: False,
        float: 0.0,
        bytes: b"",
        str: "",
        dict[str, bytes]: {},
        Tensor: to_tensor(np.zeros(0, np.int64)),
    }
    return kind(*(values.get(field.type, ()) for field in msgspec.structs.fields(kind)))


def steps(table: Transitions) -> Iterator[tuple[str, type[Message], str]]:
    for state, legal in table.items():
        for kind, targets in legal.items():
            for target in targets:
                yield state, kind, target


@both
def test_every_state_can_be_reached_and_left(table, first):
    assert reachable(table, first) == set(table)
    for state, legal in table.items():
        assert bool(legal) == (state not in ENDS)
        assert ENDS & reachable(table, state)


@both
def test_every_state_but_the_last_hears_of_an_abort(table, first):
    for state, legal in table.items():
        if state not in ENDS:
            assert legal[Abort] == ("aborted",)


def test_a_collector_takes_what_its_parties_and_the_aggregator_take():
    """It stands between them: towards each it is the other, and no message is lost on the way."""
    kinds = [{kind for legal in table.values() for kind in legal} for table in (COLLECTOR, COLLECTOR_OF_PARTIES)]
    party, aggregator = ({kind for legal in table.values() for kind in legal} for table in (PARTY, AGGREGATOR))
    assert kinds == [party | {Collect, PassOn}, aggregator]
    assert reachable(COLLECTOR, "registering") | {"passing", "finished"} == set(COLLECTOR) == set(COLLECTOR_OF_PARTIES)
    assert all(legal[Abort] == ("aborted",) for legal in COLLECTOR.values())
    assert not COLLECTOR_OF_PARTIES["aborted"]


def test_every_message_has_a_place_and_a_direction():
    keys_down, keys_up = {ExchangeKeys, KeysConfirmed}, {AnnounceKey, ConfirmKeys}
    down, up = ({kind for legal in table.values() for kind in legal} for table in (PARTY, AGGREGATOR))
    coopetitive = {Relay, Done, Close}
    describing = {CountBins, Described}
    resuming = {Resume, SignCheckpoint, CheckpointSigned}
    logs_down, logs_up = ({kind for legal in table.values() for kind in legal} for table in (LOG_MEMBER, LOG_HUB))
    assert logs_down & logs_up == {Abort}
    logs = (logs_down | logs_up) - {Abort}
    others = {*keys_down, *keys_up, *coopetitive, *SEALED, *describing, *resuming, *logs, ShowRows, VouchRows}
    others |= {CommitKey, KeysCommitted}  # of masks over a drawn graph
    others |= {Collect, PassOn}  # of collectors
    assert down | up == set(MESSAGES) - others
    assert down & up == {Abort}
    assert up == {Join, TellLevels, Contribution, Received, Abort}
    masked_down, masked_up = (
        {kind for legal in table.values() for kind in legal} for table in (PARTY_MASKED, AGGREGATOR_MASKED)
    )
    assert (masked_down, masked_up) == (down | keys_down | {KeysCommitted}, up | keys_up | {CommitKey})
    described_down = {kind for legal in DESCRIBING_PARTY.values() for kind in legal}
    assert described_down - down == describing
    assert down - described_down == {
        UseLevels,
        KeepLevels,
        UseCuts,
        QuantiseGradients,
        SplitNodes,
        CountResiduals,
        SetLeaves,
        Explain,
        Finish,
    }
    counted_down, counted_up = (
        {kind for legal in table.values() for kind in legal} for table in (PARTY_VERIFYING, AGGREGATOR_VERIFYING)
    )
    assert (counted_down, counted_up) == (masked_down | {ShowRows}, masked_up | {VouchRows})
    masked_down, masked_up = masked_down - {*down}, masked_up - {*up}
    again_down, again_up = (
        {kind for legal in table.values() for kind in legal} for table in (RESUMING_PARTY, RESUMING_AGGREGATOR)
    )
    assert again_down == {Welcome, Resume, CheckpointSigned, Finish, ShowRows, Abort} | masked_down
    assert again_up == {Join, SignCheckpoint, Abort} | masked_up
    to_member, to_hub = ({kind for legal in table.values() for kind in legal} for table in (MEMBER, HUB))
    assert to_member == {Welcome, Resume, CheckpointSigned, Relay, Close, Abort} | keys_down
    assert to_hub == {Join, SignCheckpoint, Relay, Done, Abort} | keys_up


def test_nothing_sealed_is_taken_in_the_open():
    for table, _ in TABLES.values():
        assert not {kind for legal in table.values() for kind in legal} & set(SEALED)


def test_no_sealed_message_passes_before_the_keys_are_confirmed():
    for table, first, needed in (
        (MEMBER, "joining", ExchangeKeys),
        (MEMBER, "joining", KeysConfirmed),
        (HUB, "registering", AnnounceKey),
        (HUB, "registering", ConfirmKeys),
    ):
        assert any(Relay in table[state] for state in reachable(table, first))
        without = {state: {k: to for k, to in legal.items() if k is not needed} for state, legal in table.items()}
        assert not any(Relay in without[state] for state in reachable(without, first))


def test_masked_no_sum_is_asked_for_or_taken_before_the_keys_are_confirmed():
    """Without its confirming step, no state in which sums pass can be reached."""
    for table, first, needed, sums in (
        (PARTY_MASKED, "joining", ExchangeKeys, CountMagnitudes),
        (PARTY_MASKED, "joining", KeysConfirmed, CountMagnitudes),
        (AGGREGATOR_MASKED, "registering", AnnounceKey, Contribution),
        (AGGREGATOR_MASKED, "registering", ConfirmKeys, Contribution),
    ):
        assert any(sums in table[state] for state in reachable(table, first))
        without = {state: {k: to for k, to in legal.items() if k is not needed} for state, legal in table.items()}
        assert not any(sums in without[state] for state in reachable(without, first))


@both
def test_a_session_lets_pass_what_the_table_lists_and_nothing_else(table, first):
    for state, legal in table.items():
        for kind in MESSAGES:
            session = Session("party", table, state)
            if kind in legal:
                session.check("hub", kind)
                continue
            with pytest.raises(ProtocolError) as caught:
                session.check("hub", kind)
            text = str(caught.value)
            assert "'hub'" in text
            assert kind.__name__ in text
            assert repr(state) in text
            assert session.state == state


@both
def test_a_session_goes_only_where_the_table_leads(table, first):
    legal = set(steps(table))
    for state, kinds in table.items():
        for kind in kinds:
            for target in table:
                session = Session("party", table, state)
                if (state, kind, target) in legal:
                    session.go(example(kind), target)
                    assert session.state == target
                else:
                    with pytest.raises(ProtocolError, match=kind.__name__):
                        session.go(example(kind), target)
                    assert session.state == state


def test_after_the_end_nothing_is_expected():
    with pytest.raises(ProtocolError, match="expected nothing more"):
        Session("party", PARTY, "finished").check("hub", Abort)


@both
def test_the_diagram_shows_every_step(table, first):
    page = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "generated.py"))
    lines = page["diagram"](table).splitlines()
    assert lines[0] == "stateDiagram-v2"
    drawn = {re.fullmatch(r"    (\w+) --> (\w+): (\w+)", line).groups() for line in lines[1:]}
    assert drawn == {(a, b, kind.__name__) for a, kind, b in steps(table) if kind is not Abort}
    assert len(drawn) == len(lines) - 1
    assert {state for a, b, _ in drawn for state in (a, b)} == set(table) - {"aborted"}


@both
def test_attack_of_a_message_that_is_not_legal_now_only_the_kind_is_read(table, first):
    """A frame of 1 MB that would be 12 MB of objects, in every state, of every kind that is not legal there."""
    rest = b"\xa4keys\xdd" + (2**17).to_bytes(4, "big") + b"\x94\xa0\xc4\x00\xa0\xc4\x00" * 2**17
    for state, legal in table.items():
        for kind in set(MESSAGES) - set(legal):
            name = kind.__name__.encode()
            frame = b"\x82\xa4type" + bytes([0xA0 | len(name)]) + name + rest
            tracemalloc.start()
            with pytest.raises(ProtocolError, match=f"'hub' sent {kind.__name__} while the role was '{state}'"):
                Session("role", table, state).decode("hub", frame)
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert most < 2**16
