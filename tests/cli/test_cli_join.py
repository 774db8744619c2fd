"""A member of a run over the network is a function call too, with the processes of others at the other ends."""

from __future__ import annotations

import threading

import msgspec
import pytest

import hansa as library
from hansa.errors import PlanError
from hansa.node.events import Event, Listening, Noticed
from hansa.node.record import Record
from hansa.roles.run import Binned, Registered, Trained
from made_consortium import HUB, PARTIES, Consortium, hansa, write_member
from waiting import HANG_S


def test_a_party_joins_from_python_and_gets_the_model_and_the_record(consortium: Consortium):
    hub, port = consortium.start_hub()
    other = consortium.start_party(PARTIES[1], port)
    events: list[Event] = []
    record = library.join(write_member(consortium.folder, PARTIES[0], port), events.append)
    assert hub.end()[0] == 0
    assert other.end()[0] == 0
    assert record.state == "finished"
    written = (consortium.folder / f"{PARTIES[0]}-record.json").read_bytes()
    assert record == msgspec.json.decode(written, type=Record)
    first, second = consortium.models()
    assert first.read_bytes() == second.read_bytes()
    kinds = [type(event) for event in events if isinstance(event, Registered | Binned | Trained)]
    assert kinds == [Registered, Binned, Trained]
    assert any(isinstance(event, Noticed) and event.sentence for event in events)
    assert library.Model.load(first).rounds == 3


def test_the_aggregator_is_run_by_the_same_function(consortium: Consortium):
    port: list[object] = []
    listening = threading.Event()
    records: list[Record] = []

    def note(event: Event) -> None:
        if isinstance(event, Listening):
            port.append(event.port)
            listening.set()

    path = write_member(consortium.folder, HUB, 0)
    aggregator = threading.Thread(target=lambda: records.append(library.join(path, note)), daemon=True)
    aggregator.start()
    assert listening.wait(HANG_S)
    parties = [consortium.start_party(name, port[0]) for name in PARTIES]
    assert [party.end()[0] for party in parties] == [0, 0]
    aggregator.join(HANG_S)
    assert records[0].state == "finished"


def test_a_member_without_a_role_is_told_so(consortium: Consortium):
    folder = consortium.folder
    assert hansa("init", "--no-passphrase", "stranger", "--folder", folder / "stranger.identity").exit_code == 0
    cards = [folder / f"{name}.identity" / "card.toml" for name in (HUB, *PARTIES, "stranger")]
    assert hansa("members", *cards, "--save", folder / "members.toml").exit_code == 0
    path = write_member(folder, "stranger", 1, table=None, model=None)
    with pytest.raises(PlanError, match=r"the plan gives 'stranger' no role; its members are"):
        library.join(path)
