"""A member of a coopetitive run: the set-up of keys, then whichever roles the plan gives it. No I/O: frames in, frames out.

One member may own rows, be one of the three servers, and receive the model; what its roles tell each other stays here. All else
leaves as sealed messages (`roles.secure_channel`) through the hub, which learns who writes to whom, when, and how much.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from hansa.consortium.policy import Policy
from hansa.data.holdout import held_out
from hansa.data.rows import check_arrays
from hansa.data.source import Rows
from hansa.errors import IdentityError, PlanError, ProtocolError, RunStopped, blaming
from hansa.oblivious.training import growth_of
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import (
    PROTOCOL_VERSION,
    SEALED,
    Abort,
    AgreeModel,
    CheckpointSigned,
    Close,
    CountProbes,
    DecideRelease,
    Done,
    ExchangeKeys,
    Join,
    KeysConfirmed,
    Message,
    Relay,
    ReleaseTree,
    Resume,
    ShareCounts,
    ShareRows,
    SignCheckpoint,
    TakeRows,
    TrainingSetup,
    Welcome,
)
from hansa.protocol.session import MEMBER, Session
from hansa.roles.batches import Admit, admit_all, check_roster, enough_rows, hold_out, label_counts
from hansa.roles.key_setup import KeySetup, Signer
from hansa.roles.run import (
    Binned,
    Progress,
    Registered,
    Roster,
    Trained,
    TreeGrown,
    Withheld,
    agreement,
    agreement_parts,
    run_id,
)
from hansa.roles.secure_channel import SealedMessage, SecureChannel
from hansa.roles.shared.checkpoints import JOINED, STARTED, last_checkpoint
from hansa.roles.shared.compute_server import ComputeServer, RoundMessage, no_time
from hansa.roles.shared.evaluation import History
from hansa.roles.shared.journal import SharedJournal
from hansa.roles.shared.owner import Owner, check_labels, check_numbers, naming
from hansa.roles.shared.receiver import Receiver
from hansa.roles.shared.resumption import Resumption
from hansa.roles.shared.sharing import Counts, given_values, memory_needed, settings_of, widest_candidates
from hansa.secure.keys import RunNames
from hansa.trees.worker_pool import ALONE, WorkerPool

DEFAULT_POLICY = Policy()

OWNER_MESSAGES = (CountProbes, TrainingSetup, TakeRows)
SERVER_MESSAGES = (ShareCounts, ShareRows)
RECEIVER_MESSAGES = (TrainingSetup, DecideRelease, ReleaseTree, AgreeModel)

Outgoing = Iterator[tuple[str, Message | RoundMessage]]


class SharedMember:
    """One member's side of a coopetitive run.

    Args:
        plan: as every member holds it. name: this member; the hub too, where the plan gives it another role.
        rows: its table, where the plan names it a party; None otherwise.
        nonce: 32 bytes nobody else can foresee.
        signer: this member's signature and everybody's pinned identity.
        policy: this member's own conditions. admit: as for `Party`, where it has rows.
        memory_limit: bytes that this member has for shares, if it is a server; None does not ask.
        report: called with the run's progress, as far as this member knows it: which tree is being grown, where it is a server.
        observe, clock, pool: see `ComputeServer`.
        journal: what was kept of the run, where it survives its processes; `nonce` is then the journal's.

    Attributes:
        done: whether the run is over. model: the XGBoost JSON, at a receiver. run: the run's id, once known.
        withheld: whether the run is over and nobody gets the model, at a server and a receiver; others are not told.
        began: whether an epoch began in this process: all keys were confirmed.
        roles: what this member is: "owner", "server", "receiver".
        trees: rounds of boosting that are over, at a server. without_value: metric -> why it has no value.
    """

    def __init__(
        self,
        plan: Plan,
        name: str,
        rows: Rows | None,
        *,
        nonce: bytes,
        signer: Signer,
        policy: Policy = DEFAULT_POLICY,
        admit: Admit = admit_all,
        memory_limit: int | None = None,
        report: Callable[[Progress], None] = lambda _: None,
        observe: Callable[[str, int], None] = lambda _, __: None,
        journal: SharedJournal | None = None,
        clock: Callable[[], float] = no_time,
        pool: WorkerPool = ALONE,
    ) -> None:
        policy.check_plan(plan, has_rows=rows is not None)
        if name not in plan.participants:
            raise IdentityError(f"member {name!r} is none of the plan's parties, servers and receivers")
        if (rows is not None) != (name in plan.parties):
            raise PlanError(f"member {name!r}: a table goes with a party of the plan, and every party has one")
        if rows is not None:
            check_arrays(rows, plan.schema, plan.parameters.label_kind, name)
        self.done = self.began = False
        self.run = b""
        self.trees = 0
        self.without_value: dict[str, str] = {}
        held = {"owner": plan.parties, "server": plan.servers, "receiver": plan.receivers}
        self.roles = tuple(role for role, names in held.items() if name in names)
        self._plan = plan
        self._name = name
        self._rows = rows
        self._signer = signer
        self._memory_limit = memory_limit
        self._report = report
        self._observe = observe
        self._pool = pool
        self._clock = clock
        self._session = Session("member", MEMBER, "joining")
        self._held = np.zeros(0 if rows is None else rows.n_rows, np.bool_)
        if rows is not None:
            self._held = held_out(rows.features, rows.label, hold_out(plan), rows.subject)
        held_rows = int(self._held.sum())
        training_rows = len(self._held) - held_rows
        self._policy = policy
        self._admit = admit
        enough = b"" if rows is None else enough_rows(plan, *label_counts(rows.label, self._held))
        agreed, parts = agreement(plan, signer.identities), agreement_parts(plan, signer.identities)
        self._journal = journal
        self.withheld = journal is not None and journal.withheld
        self._resumption = None if journal is None else Resumption(plan, name, agreed, signer, journal)
        claim = None if journal is None else journal.claim
        self._join = Join(PROTOCOL_VERSION, agreed, nonce, training_rows, held_rows, enough, parts, claim)
        if rows is not None:
            check_labels(rows, plan)
        self._keys: KeySetup | None = None
        self._secure_channel: SecureChannel | None = None
        self._owner: Owner | None = None
        self._server: ComputeServer | None = None
        self._receiver: Receiver | None = None
        self._counts = Counts({}, {})

    # --- what others may ask ------------------------------------------------------------------------------------------

    @property
    def history(self) -> History:
        """Metric -> (rounds, value) wherever it was opened to this server."""
        return {} if self._server is None else self._server.history

    @property
    def model(self) -> bytes | None:
        """The model file, at a receiver whose copy agrees with all others."""
        return None if self._receiver is None else self._receiver.model

    def _check_over(self) -> None:
        """Raise ProtocolError where the hub says that a run is over which is not for this member."""
        if self._session.state == "through":
            return
        journal = self._journal
        lacks = "receiver" in self.roles and journal is not None and journal.model is None and not journal.withheld
        if journal is None or journal.claim is None or lacks:
            raise self._broken("Close says that the run is over, of which this member has not all")

    @property
    def sealed_bytes(self) -> int:
        """Bytes that left sealed for another member so far."""
        return 0 if self._secure_channel is None else self._secure_channel.sealed_bytes

    @property
    def openings(self) -> list[str]:
        """What was opened to this member, in words."""
        found = [] if self._server is None else list(self._server.openings)
        if self.model is not None:
            found.append("release.open_tree: splits and rounded leaf values of every tree, the model")
        return found

    @property
    def cut(self) -> str:
        """See `ComputeServer`."""
        return "" if self._server is None else self._server.cut

    @property
    def rounds(self) -> int:
        """Rounds of messages among servers that this member took part in."""
        return 0 if self._server is None else self._server.rounds

    def waiting_for(self) -> list[str]:
        """The members whose next word is owed; the hub where it is its turn."""
        roles = [r for r in (self._owner, self._server, self._receiver) if r is not None and not r.through]
        return sorted({name for r in roles for name in r.waiting_for()} - {self._name}) or [self._plan.hub]

    # --- frames -------------------------------------------------------------------------------------------------------

    def opening(self) -> Iterator[bytes]:
        """The frame that a member sends before it is asked anything."""
        yield messages.encode(self._join)

    def handle(self, frame: memoryview) -> Iterator[bytes]:
        """Answer one frame of the hub. A member that refused once is done: its keys are erased.

        Raises:
            ProtocolError: the hub or another member broke a rule. HansaError: the run was stopped.
        """
        try:
            yield from self._answer(frame)
        except Exception:
            self.erase()
            raise

    def erase(self) -> None:
        """Zero all keys: nothing is answered after this. Safe to call twice, at whatever end."""
        if not self.done:
            self._session.state = "aborted"
        if self._secure_channel is not None:
            self._secure_channel.erase()
        if self._server is not None:
            self._server.erase()
        if self._keys is not None:
            self._keys.erase()

    def _answer(self, frame: memoryview) -> Iterator[bytes]:
        hub = self._plan.hub
        message = self._decode(frame)
        match message:
            case Relay():
                sealed = self._opened(message)
                if sealed is not None:
                    yield from self._run(self._dispatch(sealed))
                    yield from self._settle(message)
            case Welcome():
                yield messages.encode(self._welcome(message).announcement())
            case Resume():
                yield self._resume(message)
            case CheckpointSigned():
                yield messages.encode(self._signed(message).announcement())
            case ExchangeKeys():
                self._session.go(message, "keyed")
                with blaming(hub):
                    answer = self._key_setup().exchange(message)
                yield messages.encode(answer)
            case KeysConfirmed():
                self._key_setup().confirm(message)
                yield from self._run(self._begin())
                yield from self._settle(message)
            case Close():
                self._check_over()
                self._session.go(message, "finished")
                self.done = True
                self.erase()
            case Abort():
                self._session.go(message, "aborted")
                who = f" because of member {message.member!r}" if message.member else ""
                raise RunStopped(
                    hub,
                    f"member {hub!r} stopped the run{who}: {message.reason}",
                    retry=message.retry,
                    member=message.member,
                )
            case _:
                raise ProtocolError(
                    f"member {hub!r} sent {type(message).__name__}, which no member of this mode takes", member=hub
                )

    def _decode(self, frame: memoryview) -> Message:
        """A frame of the hub. A sealed message that is none of its rules' may be its sender's work as well."""
        hub = self._plan.hub
        try:
            return self._session.decode(hub, frame)
        except ProtocolError as error:
            if error.rule and messages.kind_of(hub, frame) is Relay:
                sent = messages.decode(hub, frame)
                if isinstance(sent, Relay) and sent.sender in self._plan.participants:
                    error.member, error.suspects = "", tuple(sorted({sent.sender, hub}))
            raise

    def _key_setup(self) -> KeySetup:
        if self._keys is None:
            raise ProtocolError(
                f"member {self._plan.hub!r} spoke of keys before the run had a name", member=self._plan.hub
            )
        return self._keys

    def _open_secure_channel(self) -> SecureChannel:
        if self._secure_channel is None:
            raise ProtocolError(
                f"member {self._plan.hub!r} relayed a sealed message before the keys were confirmed",
                member=self._plan.hub,
            )
        return self._secure_channel

    def _opened(self, message: Relay) -> SealedMessage | None:
        """The sealed message that a fragment completes. A fragment that is not its sender's may be the hub's work as well."""
        channel = self._open_secure_channel()
        try:
            return channel.take(message)
        except ProtocolError as error:
            if not error.member:
                error.suspects = (*error.suspects, self._plan.hub)
            raise

    def _settle(self, message: Message) -> Iterator[bytes]:
        """Say that this member is through, once all its roles are."""
        roles = [role for role in (self._owner, self._server, self._receiver) if role is not None]
        through = all(role.through for role in roles)
        self._session.go(message, "through" if through else "relaying")
        if through:
            if self._journal is not None and self.model is not None:
                self._journal.finish(self.model)
            if any(role.withheld for role in (self._server, self._receiver) if role is not None):
                self._withhold()
            elif self._server is not None:
                rounds = self._plan.parameters.rounds
                self._report(Trained(trees=self.trees, rounds=rounds, without_value=self.without_value))
            yield messages.encode(Done())

    def _withhold(self) -> None:
        """Nobody gets the model: keep that, and tell it."""
        self.withheld = True
        if self._journal is not None:
            self._journal.withhold()
        told = [role.metric for role in (self._server, self._receiver) if role is not None]
        metrics: dict[str, float | None] = {self._plan.release.metric: told[0]} if told[0] is not None else {}
        self._report(Withheld(trees=self.trees, rounds=self._plan.parameters.rounds, metrics=metrics))

    # --- set-up -------------------------------------------------------------------------------------------------------

    def _broken(self, rule: str) -> ProtocolError:
        return ProtocolError(
            f"member {self._plan.hub!r} (hub) to {self._name!r}: {rule}", member=self._plan.hub, rule=rule
        )

    def _welcome(self, message: Welcome) -> KeySetup:
        """The run begins."""
        if self._join.claim is not None:
            raise self._broken("it begins a run, and this member's state folder has one that is not over")
        self._take_roster(message.run, message.roster)
        self._session.go(message, "welcomed")
        return self._set_up_keys(RunNames(self._join.plan, message.run))

    def _resume(self, message: Resume) -> bytes:
        """The run goes on in a new epoch: check everybody's claims, and sign what follows from them."""
        resumption = self._resumption
        if resumption is None:
            raise self._broken("a run is to go on that the plan has end with the first process that does")
        self._take_roster(message.run, message.roster)
        self._session.go(message, "resuming")
        with blaming(self._plan.hub):
            signature = resumption.sign(message, self._join.claim)
        return messages.encode(SignCheckpoint(signature))

    def _signed(self, message: CheckpointSigned) -> KeySetup:
        """All signed: the epoch begins, with keys of its own."""
        assert self._resumption is not None  # the session's table
        self._session.go(message, "welcomed")
        with blaming(self._plan.hub):
            names = self._resumption.begin(message.signatures)
        return self._set_up_keys(names)

    def _set_up_keys(self, names: RunNames) -> KeySetup:
        self._report(Registered(trees=0, rounds=self._plan.parameters.rounds))
        self._keys = KeySetup(self._name, names, self._signer, self._plan.participants)
        return self._keys

    def _take_roster(self, run: bytes, roster: Roster) -> None:
        """Check who takes part. What this member counts on follows from it."""
        plan = self._plan
        names = tuple(name for name, *_ in roster)
        if names != plan.participants:
            raise self._broken(
                f"the roster is {names}; expected every party, server and receiver, sorted: {plan.participants}"
            )
        own = self._join
        if (self._name, own.nonce, own.rows, own.evaluation_rows, own.enough) not in roster:
            raise self._broken("the roster gives this member another nonce or other numbers of rows than it sent")
        for name, _, rows, held, _ in roster:
            if (
                min(rows, held) < 0
                or (rows + held > 0) != (name in plan.parties)
                or (held and not plan.evaluation_fraction)
            ):
                raise self._broken(
                    f"the roster gives member {name!r} {rows} rows and {held} held out; parties have rows"
                )
        if run != run_id(self._join.plan, roster):
            raise self._broken("the run's id is not the hash of plan and roster")
        if self._rows is not None:
            check_roster(self._policy, plan, self._name, roster)
            self._admit(run, roster)
        self.run = run
        self._counts = Counts(
            {name: rows for name, _, rows, _, _ in roster if name in plan.parties},
            {name: held for name, _, _, held, _ in roster if name in plan.parties},
        )
        if not self._counts.total:
            raise self._broken("all rows of all owners are held out; lower evaluation.fraction in the plan")
        self._check_size()
        if self._rows is not None:
            with naming(self._name):
                check_numbers(self._rows, self._held, plan, self._counts)
        if self._journal is not None and self._join.claim is None:
            self._journal.begin(run, roster)

    def _check_size(self) -> None:
        """Refuse a run that shares cannot hold, or that would not fit here, before anything of it is made. Raises PlanError."""
        plan, rows = self._plan, self._counts.total
        given = given_values(plan)
        if given is not None:
            for output in range(plan.parameters.outputs):
                growth_of(settings_of(plan, given, output, rows), widest_candidates(plan), rows)
        needed = self.memory_needed()
        if self._memory_limit is not None and needed > self._memory_limit:
            raise PlanError(
                f"member {self._name!r}: as a server this run takes about {needed / 1e6:.0f} MB, and it has "
                f"{self._memory_limit / 1e6:.0f} MB; take fewer rows, features, max_bin or max_depth, or give it more (memory_mb)",
                member=self._name,
                run=self.run.hex(),
                cure="take fewer rows, features, max_bin or max_depth, or give it more memory",
            )

    def memory_needed(self) -> int:
        """Bytes that a server holds at most, roughly; 0 for others. From the plan and the roster alone."""
        return memory_needed(self._plan, self._counts, self._name) if self._name in self._plan.servers else 0

    def _begin(self) -> Outgoing:
        """Keys are confirmed: make this member's roles, and let them start."""
        plan, keys, resumption = self._plan, self._key_setup(), self._resumption
        self._secure_channel = SecureChannel(self._name, keys.keys, keys.run, keys.algorithm)
        self.began = True
        checkpoint = JOINED if resumption is None else resumption.checkpoint
        # Once training is over nobody needs rows.
        if self._rows is not None and checkpoint < last_checkpoint(plan):
            memory, started = None if resumption is None else resumption.memory(self.run), checkpoint >= STARTED
            self._owner = Owner(plan, self._name, self._rows, self._held, self._counts, keys.algorithm, memory, started)
        if self._name in plan.servers:
            others = {peer: keys.keys[peer] for peer in plan.servers if peer != self._name}
            keep = None if resumption is None else partial(resumption.keeper, self.run)
            self._server = ComputeServer(
                plan,
                self._name,
                self._counts,
                others,
                keys.algorithm,
                self._grown,
                self._observe,
                keep,
                self._clock,
                self._pool,
            )
        if self._name in plan.receivers:
            self._receiver = Receiver(plan, self._name, self._counts)
        if resumption is not None and resumption.epoch:
            self._report(resumption.resumed())
        if self._server is not None:
            yield from self._server.begin()
        if self._owner is not None:
            yield from self._owner.begin()

    def _grown(self, trees: int, metrics: dict[str, float | None], without_value: dict[str, str]) -> None:
        self.without_value = without_value
        self.trees = trees
        kind, rounds = TreeGrown if trees else Binned, self._plan.parameters.rounds
        self._report(kind(trees=trees, rounds=rounds, metrics=metrics, without_value=without_value))

    # --- sealed messages ------------------------------------------------------------------------------------------------------

    def _run(self, outgoing: Outgoing) -> Iterator[bytes]:
        """Seal what goes to others; hand over, in order, what goes to this member's own roles."""
        waiting: deque[Outgoing] = deque([outgoing])
        while waiting:
            for to, message in waiting.popleft():
                if to != self._name:
                    yield from self._post(to, message)
                elif isinstance(message, Message):
                    waiting.append(self._hand_over(self._name, message))

    def _post(self, to: str, outgoing: Message | RoundMessage) -> Iterator[bytes]:
        if isinstance(outgoing, RoundMessage):
            return self._open_secure_channel().post(to, "round", outgoing.body, outgoing.name)
        return self._open_secure_channel().post(to, "message", [memoryview(messages.encode(outgoing))])

    def _dispatch(self, sealed: SealedMessage) -> Outgoing:
        if sealed.kind == "round":
            if self._server is None:
                raise ProtocolError(
                    f"member {sealed.sender!r} sent numbers of a round to {self._name!r}, which is no server",
                    member=sealed.sender,
                )
            return self._server.handle_round(sealed)
        self._check_sealed_message(sealed.sender, messages.kind_of(sealed.sender, sealed.body))
        return self._hand_over(sealed.sender, messages.decode(sealed.sender, sealed.body))

    def _check_sealed_message(self, sender: str, kind: type[Message]) -> None:
        """Raise ProtocolError where none of this member's roles takes messages of this kind sealed."""
        if kind not in SEALED:
            raise ProtocolError(
                f"member {sender!r} sealed a {kind.__name__}, which travels in the open or not at all", member=sender
            )
        by_role = {"owner": OWNER_MESSAGES, "server": SERVER_MESSAGES, "receiver": RECEIVER_MESSAGES}
        if not any(kind in by_role[role] for role in self.roles):
            raise ProtocolError(
                f"member {sender!r} sent {kind.__name__} to {self._name!r}, whose roles are {', '.join(self.roles)}",
                member=sender,
            )

    def _hand_over(self, sender: str, message: Message) -> Outgoing:
        """Give a sealed message to the role that it is for."""
        self._check_sealed_message(sender, type(message))
        taken: list[Outgoing] = []
        if isinstance(message, SERVER_MESSAGES) and self._server is not None:
            codes = self._owner.codes if self._owner is not None and sender == self._name else None
            taken.append(self._server.handle(sender, message, codes))
        if isinstance(message, OWNER_MESSAGES) and self._owner is not None:
            taken.append(self._owner.handle(sender, message))
        if isinstance(message, RECEIVER_MESSAGES) and self._receiver is not None:
            taken.append(self._receiver.handle(sender, message))
        return itertools.chain.from_iterable(taken)
