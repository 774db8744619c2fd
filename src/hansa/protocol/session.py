"""The conversation as a table: which message is legal in which state of a role, and where it may lead.

`PARTY` says what the aggregator may send to a party, `AGGREGATOR` what a party may send to it; a run that describes the pooled table
in place of training has tables of its own, which no message leads out of or into. In coopetitive mode `MEMBER` says what
the hub may send to any other member and `HUB` what they may send to it. `Session` walks a table and refuses
what is not in it, by name. The state diagrams of docs/reference/messages.md are drawn from these tables (`docs/generated.py`).
"""

from __future__ import annotations

from collections.abc import Mapping

from hansa.errors import ProtocolError
from hansa.protocol.messages import (
    Abort,
    AnnounceKey,
    AnyMessage,
    AskLogs,
    CheckpointSigned,
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
    LogsCountersigned,
    LogsOpened,
    LogsShown,
    Message,
    OpenLogs,
    PassOn,
    QuantiseGradients,
    Received,
    Relay,
    Resume,
    SetLeaves,
    ShowLog,
    ShowRows,
    SignCheckpoint,
    SplitNodes,
    SumLabels,
    TellLevels,
    UseCuts,
    UseLevels,
    VouchRows,
    Welcome,
    decode_as,
    kind_of,
)

Transitions = Mapping[str, Mapping[type[Message], tuple[str, ...]]]

PARTY: Transitions = {
    "joining": {Welcome: ("welcomed",), Abort: ("aborted",)},
    "welcomed": {CountMagnitudes: ("measured",), Abort: ("aborted",)},
    "measured": {UseLevels: ("measured",), SumLabels: ("labelled",), Abort: ("aborted",)},
    "labelled": {KeepLevels: ("labelled",), CountCells: ("cutting",), UseCuts: ("scaling",), Abort: ("aborted",)},
    "cutting": {
        CountCells: ("cutting",),
        CountResiduals: ("locating",),
        UseCuts: ("scaling",),
        Abort: ("aborted",),
    },
    "locating": {CountResiduals: ("locating",), UseCuts: ("scaling",), Abort: ("aborted",)},
    "scaling": {
        QuantiseGradients: ("growing",),
        Explain: ("explaining",),
        Finish: ("finished",),
        Abort: ("aborted",),
    },
    "growing": {
        SplitNodes: ("growing", "scaling", "refitting"),
        Explain: ("explaining",),
        Finish: ("finished",),
        Abort: ("aborted",),
    },
    "refitting": {CountResiduals: ("refitting",), SetLeaves: ("growing", "scaling"), Abort: ("aborted",)},
    "explaining": {Finish: ("finished",), Abort: ("aborted",)},
    "finished": {},
    "aborted": {},
}
"""What a party accepts from the aggregator. From "labelled" it may go straight to "scaling" where the plan gives the cuts."""

AGGREGATOR: Transitions = {
    "registering": {Join: ("registering", "measuring"), Abort: ("aborted",)},
    "measuring": {TellLevels: ("measuring",), Contribution: ("measuring", "labelling"), Abort: ("aborted",)},
    "labelling": {Contribution: ("labelling", "cutting", "totalling"), Abort: ("aborted",)},
    "cutting": {Contribution: ("cutting", "locating", "totalling"), Abort: ("aborted",)},
    "locating": {Contribution: ("locating", "totalling"), Abort: ("aborted",)},
    "totalling": {Contribution: ("totalling", "growing", "explaining", "finishing"), Abort: ("aborted",)},
    "growing": {
        Contribution: ("growing", "refitting", "totalling", "explaining", "finishing"),
        Abort: ("aborted",),
    },
    "refitting": {Contribution: ("refitting", "growing", "totalling"), Abort: ("aborted",)},
    "explaining": {Contribution: ("explaining", "finishing"), Abort: ("aborted",)},
    "finishing": {Received: ("finishing", "finished"), Abort: ("aborted",)},
    "finished": {},
    "aborted": {},
}
"""What the aggregator accepts from parties; it leaves a state when the last party's part has come."""


PARTY_MASKED: Transitions = {
    **PARTY,
    "welcomed": {ExchangeKeys: ("keyed",), KeysCommitted: ("committed",), Abort: ("aborted",)},
    "committed": {ExchangeKeys: ("keyed",), Abort: ("aborted",)},
    "keyed": {KeysConfirmed: ("confirmed",), Abort: ("aborted",)},
    "confirmed": {CountMagnitudes: ("measured",), Abort: ("aborted",)},
}
"""`PARTY` in secure-aggregation mode: no sum is asked for before all keys are confirmed. Where the graph of masks is drawn, keys are
committed to first; a role refuses `ExchangeKeys` there without, and `KeysCommitted` elsewhere."""

AGGREGATOR_MASKED: Transitions = {
    **AGGREGATOR,
    "registering": {Join: ("registering", "committing", "keying"), Abort: ("aborted",)},
    "committing": {CommitKey: ("committing", "keying"), Abort: ("aborted",)},
    "keying": {AnnounceKey: ("keying", "confirming"), Abort: ("aborted",)},
    "confirming": {ConfirmKeys: ("confirming", "measuring"), Abort: ("aborted",)},
}
"""`AGGREGATOR` in secure-aggregation mode."""

VERIFYING = ("cutting", "locating", "growing", "refitting")
"""States in which row counts are vouched for and shown, beside those in which the sums of a round begin."""

PARTY_VERIFYING: Transitions = {
    **PARTY_MASKED,
    **{state: {ShowRows: (state,), **PARTY_MASKED[state]} for state in (*VERIFYING, "scaling")},
}
"""`PARTY_MASKED` where parties verify row counts. The broadcast that a `ShowRows` carries is checked as if it had come alone."""

AGGREGATOR_VERIFYING: Transitions = {
    **AGGREGATOR_MASKED,
    **{state: {VouchRows: (state,), **AGGREGATOR_MASKED[state]} for state in (*VERIFYING, "totalling")},
}
"""`AGGREGATOR_MASKED` where parties verify row counts. What a `VouchRows` carries is checked as if it had come alone."""


def _describing(table: Transitions) -> Transitions:
    """A party's table of a run that describes: it ends with `Described` where training would begin."""
    begun = {
        state: legal
        for state, legal in table.items()
        if state not in ("locating", "scaling", "growing", "refitting", "explaining")
    }
    shown = [kind for kind in table["cutting"] if kind is ShowRows]
    return {
        **begun,
        "measured": {SumLabels: ("labelled",), Abort: ("aborted",)},
        "labelled": {CountCells: ("cutting",), Abort: ("aborted",)},
        "cutting": {
            **dict.fromkeys(shown, ("cutting",)),
            CountCells: ("cutting",),
            CountBins: ("describing",),
            Abort: ("aborted",),
        },
        "describing": {
            **dict.fromkeys(shown, ("describing",)),
            Described: ("finished",),
            Abort: ("aborted",),
        },
    }


def _describing_aggregator(table: Transitions) -> Transitions:
    """The aggregator's table of a run that describes."""
    begun = {
        state: legal
        for state, legal in table.items()
        if state not in ("locating", "totalling", "growing", "refitting", "explaining")
    }
    vouched = [kind for kind in table["cutting"] if kind is VouchRows]
    return {
        **begun,
        "measuring": {Contribution: ("measuring", "labelling"), Abort: ("aborted",)},
        "labelling": {Contribution: ("labelling", "cutting"), Abort: ("aborted",)},
        "cutting": {
            **dict.fromkeys(vouched, ("cutting",)),
            Contribution: ("cutting", "describing"),
            Abort: ("aborted",),
        },
        "describing": {
            **dict.fromkeys(vouched, ("describing",)),
            Contribution: ("describing", "finishing"),
            Abort: ("aborted",),
        },
    }


DESCRIBING_PARTY: Transitions = _describing(PARTY)
"""`PARTY` of a run that describes the pooled table and trains nothing."""

DESCRIBING_AGGREGATOR: Transitions = _describing_aggregator(AGGREGATOR)
"""`AGGREGATOR` of such a run."""

DESCRIBING_PARTY_MASKED: Transitions = _describing(PARTY_MASKED)
"""`PARTY_MASKED` of such a run."""

DESCRIBING_AGGREGATOR_MASKED: Transitions = _describing_aggregator(AGGREGATOR_MASKED)
"""`AGGREGATOR_MASKED` of such a run."""

DESCRIBING_PARTY_VERIFYING: Transitions = _describing(PARTY_VERIFYING)
"""`PARTY_VERIFYING` of such a run."""

DESCRIBING_AGGREGATOR_VERIFYING: Transitions = _describing_aggregator(AGGREGATOR_VERIFYING)
"""`AGGREGATOR_VERIFYING` of such a run."""

_ASKED: Mapping[type[Message], tuple[str, ...]] = dict.fromkeys(
    (
        CountMagnitudes,
        SumLabels,
        CountCells,
        CountResiduals,
        UseCuts,
        QuantiseGradients,
        SplitNodes,
        SetLeaves,
        Explain,
    ),
    ("asked",),
)
"""Requests that parties answer with sums."""

COLLECTOR: Transitions = {
    "registering": {PassOn: ("registering",), Welcome: ("passing",), Abort: ("aborted",)},
    "passing": {
        PassOn: ("passing",),
        UseLevels: ("passing",),
        KeepLevels: ("passing",),
        **_ASKED,
        Finish: ("finishing",),
        Abort: ("aborted",),
    },
    "asked": {PassOn: ("asked",), Collect: ("collecting",), Abort: ("aborted",)},
    "collecting": {PassOn: ("collecting",), Abort: ("aborted",)},
    "finishing": {PassOn: ("finishing",), Abort: ("aborted",)},
    "finished": {PassOn: ("finished",), Abort: ("aborted",)},
    "aborted": {PassOn: ("aborted",), Abort: ("aborted",)},
}
"""What a collector accepts from the aggregator. All but `Collect` goes to its parties, which hold it to `PARTY`."""

COLLECTOR_OF_PARTIES: Transitions = {
    "registering": {Join: ("registering",), Abort: ("registering",)},
    "passing": {Abort: ("passing",)},
    "asked": {TellLevels: ("asked",), Contribution: ("asked",), Abort: ("asked",)},
    "collecting": {
        TellLevels: ("collecting",),
        Contribution: ("collecting", "passing"),
        Abort: ("collecting",),
    },
    "finishing": {Received: ("finishing", "finished"), Abort: ("finishing",)},
    "finished": {},
    "aborted": {},
}
"""What a collector accepts from its parties, beside the frames of their audit logs, which it passes on at any time. It is the
aggregator who ends a run because of an `Abort`."""

RESUMING_PARTY: Transitions = {
    "joining": {
        Welcome: ("resumed",),
        Resume: ("resuming",),
        Finish: ("resumed",),
        ShowRows: ("resumed",),
        Abort: ("aborted",),
    },
    "resuming": {CheckpointSigned: ("agreed", "resumed"), Abort: ("aborted",)},
    "agreed": {ExchangeKeys: ("keyed",), KeysCommitted: ("committed",), Abort: ("aborted",)},
    "committed": {ExchangeKeys: ("keyed",), Abort: ("aborted",)},
    "keyed": {KeysConfirmed: ("resumed",), Abort: ("aborted",)},
    "resumed": {},
    "aborted": {},
}
"""What a party with a state folder accepts first. "resumed": from here on the table of its mode holds, where the checkpoint left it.
"""

RESUMING_AGGREGATOR: Transitions = {
    "registering": {Join: ("registering", "signing", "resumed"), Abort: ("aborted",)},
    "signing": {SignCheckpoint: ("signing", "committing", "keying", "resumed"), Abort: ("aborted",)},
    "committing": {CommitKey: ("committing", "keying"), Abort: ("aborted",)},
    "keying": {AnnounceKey: ("keying", "confirming"), Abort: ("aborted",)},
    "confirming": {ConfirmKeys: ("confirming", "resumed"), Abort: ("aborted",)},
    "resumed": {},
    "aborted": {},
}
"""What an aggregator with a state folder accepts first."""

RELEASING_AGGREGATOR: Transitions = {
    "releasing": {Join: ("releasing", "finished"), Received: ("releasing", "finished"), Abort: ("aborted",)},
    "finished": {},
    "aborted": {},
}
"""The same where the model is there, and some party has not said that it has it."""

MEMBER: Transitions = {
    "joining": {Welcome: ("welcomed",), Resume: ("resuming",), Close: ("finished",), Abort: ("aborted",)},
    "resuming": {CheckpointSigned: ("welcomed",), Abort: ("aborted",)},
    "welcomed": {ExchangeKeys: ("keyed",), Abort: ("aborted",)},
    "keyed": {KeysConfirmed: ("relaying", "through"), Abort: ("aborted",)},
    "relaying": {Relay: ("relaying", "through"), Abort: ("aborted",)},
    "through": {Close: ("finished",), Abort: ("aborted",)},
    "finished": {},
    "aborted": {},
}
"""What a member of a coopetitive run accepts from the hub. "through" once all its roles are: an owner that shares its rows at once
is so from the start. From "joining" a member that was away when the run ended goes straight to its end."""

HUB: Transitions = {
    "registering": {Join: ("registering", "keying", "signing"), Abort: ("aborted",)},
    "signing": {SignCheckpoint: ("signing", "keying"), Abort: ("aborted",)},
    "keying": {AnnounceKey: ("keying", "confirming"), Abort: ("aborted",)},
    "confirming": {ConfirmKeys: ("confirming", "relaying"), Abort: ("aborted",)},
    "relaying": {Relay: ("relaying",), Done: ("relaying", "finished"), Join: ("relaying",), Abort: ("aborted",)},
    "finished": {},
    "aborted": {},
}
"""What the hub of a coopetitive run accepts from members; it leaves a state when the last member's part has come."""

LOG_MEMBER: Transitions = {
    "opening": {LogsOpened: ("showing",), Abort: ("aborted",)},
    "showing": {LogsShown: ("open",), Abort: ("aborted",)},
    "open": {AskLogs: ("closing",), Abort: ("aborted",)},
    "closing": {LogsShown: ("countersigning",), Abort: ("aborted",)},
    "countersigning": {LogsCountersigned: ("closed",), Abort: ("aborted",)},
    "closed": {},
    "aborted": {},
}
"""What a member accepts of the exchange of audit logs, before a run and after it; between them, "open", is the run itself."""

LOG_HUB: Transitions = {
    "opening": {OpenLogs: ("opening", "showing"), Abort: ("aborted",)},
    "showing": {ShowLog: ("showing", "open"), Abort: ("aborted",)},
    "open": {},
    "closing": {ShowLog: ("closing", "countersigning"), Abort: ("aborted",)},
    "countersigning": {CountersignLogs: ("countersigning", "closed"), Abort: ("aborted",)},
    "closed": {},
    "aborted": {},
}
"""What the hub accepts of it. It enters "closing" by itself, once the run is over."""


class Session:
    """Where one role stands in its table.

    Args:
        role: the role's name, for errors. table: `PARTY` or `AGGREGATOR`. state: the first one.
    """

    def __init__(self, role: str, table: Transitions, state: str) -> None:
        self._role = role
        self._table = table
        self.state = state

    def decode(self, sender: str, frame: bytes | bytearray | memoryview) -> AnyMessage:
        """The message in a frame, of which only the kind is read where that is not legal now. Raises ProtocolError."""
        kind = kind_of(sender, frame)
        self.check(sender, kind)
        return decode_as(kind, sender, frame)

    def check(self, sender: str, kind: type[Message]) -> None:
        """Raise ProtocolError where a message of this kind is not legal now."""
        legal = self._table[self.state]
        if kind not in legal:
            expected = ", ".join(each.__name__ for each in legal) or "nothing more"
            raise ProtocolError(
                f"member {sender!r} sent {kind.__name__} while the {self._role} was {self.state!r}; expected {expected}",
                member=sender,
                rule=f"expected {expected}",
            )

    def go(self, message: Message, state: str) -> None:
        """Enter the state that `message` leads to."""
        if state not in self._table[self.state][type(message)]:
            raise ProtocolError(
                f"{type(message).__name__} cannot lead the {self._role} from {self.state!r} to {state!r}"
            )
        self.state = state
