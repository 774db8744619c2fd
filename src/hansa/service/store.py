"""What a service knows of its runs, in SQLite or PostgreSQL: which there are, how far each is, and what its operator wants of it.

Commands (`hansa runs`, `hansa stop`) and the service speak to each other by this database alone, so there is no port and no socket
between them, and the answer is there while the service is down. It holds no key, no row of a table and no model.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from hansa.errors import HansaError, OutputError, PlanError
from hansa.files import make_folder

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine, Table

State = Literal["waiting", "running", "paused", "finished", "withheld", "failed", "stopped", "refused", "lost"]
OVER: tuple[State, ...] = ("finished", "withheld", "failed", "stopped", "refused", "lost")
"""States that a run never leaves."""

SHOWN_DIGITS = 16
"""Of a proposal's digest, as people name a run."""


class ServiceRun(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A run of a service.

    Attributes:
        run: the first digits of the approved proposal's digest, or of its file's where that could not be read.
        proposal, plan, mode, consortium, command: the proposal's digest in hex, the plan's name and mode, the consortium's name, and
            the command that plays this member's part. folder: where its files are.
        state: "waiting" for its turn or after a failure that may pass; "running"; "paused" by its operator or by the end of the
            service; "finished";
            "withheld", where it went to its end and the plan lets nobody have the model; "failed", which needs a change and a new
            proposal; "stopped" by this member's operator; "refused" before it began; "lost", where a back-up was restored that did not
            have its state.
        wanted: "stop" or "pause" where its operator wants that, else empty. attempts: how often its process was started.
        text: what happened last, for people. waiting_for: members who are waited for.
        members_version: of the consortium's file that the run began with, once all have joined; 0 before, and where nobody signs it.
        id: the run's id in hex, once all have joined. trees, rounds: how far it is, and how far at most. epoch: how often it went on.
        model_sha256: of the model, where this member got it. created, updated: times in UTC. due: seconds since 1970, not before which
            it is started again.
    """

    run: str
    proposal: str = ""
    plan: str = ""
    mode: str = ""
    consortium: str = ""
    command: str = ""
    folder: str = ""
    state: State = "waiting"
    wanted: str = ""
    attempts: int = 0
    text: str = ""
    waiting_for: tuple[str, ...] = ()
    members_version: int = 0
    id: str = ""
    trees: int = 0
    rounds: int = 0
    epoch: int = 0
    model_sha256: str = ""
    created: str = ""
    updated: str = ""
    due: float = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.state in OVER


class Store:
    """The runs of one service. Its methods may be called by several processes at once; each is one transaction.

    Args:
        service: whose runs. folder: where the file of SQLite is. url: of another database; empty for SQLite.

    Raises:
        OutputError: it cannot be opened or made. HansaError: packages are missing.
    """

    def __init__(self, service: str, folder: Path, url: str = "") -> None:
        try:
            import sqlalchemy
        except ImportError:
            raise HansaError(
                "a service needs SQLAlchemy: pip install 'hansa[service]'", cure="pip install 'hansa[service]'"
            ) from None
        self._service = service
        self._shown = _without_password(url) or str(folder / "service.sqlite")
        if not url:
            make_folder(folder)
            file = folder / "service.sqlite"
            file.touch(mode=0o600)
            self._engine: Engine = sqlalchemy.create_engine(f"sqlite:///{file}")
            sqlalchemy.event.listen(self._engine, "connect", _tune_sqlite)
        else:
            kind, _, rest = url.partition("://")
            driver = "postgresql+psycopg" if kind in ("postgresql", "postgres") else kind
            try:
                self._engine = sqlalchemy.create_engine(f"{driver}://{rest}", pool_pre_ping=True)
            except (sqlalchemy.exc.ArgumentError, ImportError) as error:
                raise PlanError(
                    f"database {self._shown!r}: cannot be opened ({_first_line(error)}); is it a URL such as "
                    "postgresql://user@host/database, and its driver installed (pip install 'hansa[service]')?"
                ) from None
        self._runs: Table = _table(sqlalchemy)
        with self._transaction() as connection:
            self._runs.metadata.create_all(connection)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        """Raises OutputError, which may pass, where the database is away."""
        from sqlalchemy.exc import SQLAlchemyError

        try:
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            why = _first_line(getattr(error, "orig", None) or error)
            raise OutputError(f"the database of runs {self._shown}: {why}; is it there?", retry=True) from None

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def runs(self, *, every: bool = True) -> tuple[ServiceRun, ...]:
        """All, or those that are not over, the oldest first."""
        table = self._runs
        query = table.select().where(table.c.service == self._service).order_by(table.c.created, table.c.run)
        if not every:
            query = query.where(table.c.over == 0)
        with self._transaction() as connection:
            return tuple(_run_of(row.content) for row in connection.execute(query))

    def page(self, first: int, most: int, *, models: bool = False) -> tuple[ServiceRun, ...]:
        """At most so many, the newest first, behind the newest `first` ones; with `models` of those that gave this member one."""
        table = self._runs
        query = table.select().where(self._mine(models)).order_by(table.c.created.desc(), table.c.run)
        with self._transaction() as connection:
            return tuple(_run_of(row.content) for row in connection.execute(query.limit(most).offset(first)))

    def count(self, *, models: bool = False) -> int:
        """How many runs there are; with `models` how many gave this member one."""
        import sqlalchemy

        mine = self._mine(models)
        with self._transaction() as connection:
            return int(connection.execute(sqlalchemy.select(sqlalchemy.func.count()).where(mine)).scalar_one())

    def _mine(self, models: bool) -> Any:
        mine = self._runs.c.service == self._service
        # A quotation mark in a text is escaped in JSON, so only the field itself can look so.
        return mine & self._runs.c.content.not_like('%"model_sha256": ""%') if models else mine

    def named(self, run: str) -> ServiceRun | None:
        """The run of this whole name, if there is one."""
        table = self._runs
        mine = (table.c.service == self._service) & (table.c.run == run)
        with self._transaction() as connection:
            row = connection.execute(table.select().where(mine)).first()
        return None if row is None else _run_of(row.content)

    def find(self, name: str) -> ServiceRun:
        """The one whose name begins so, or whose plan is called so. Raises PlanError where it is none, or several."""
        every = self.runs()
        found = [run for run in every if run.run.startswith(name)] or [run for run in every if run.plan == name]
        if len(found) == 1:
            return found[0]
        known = ", ".join(run.run for run in (found or every)) or "none"
        raise PlanError(
            f"{name!r} names {'no run' if not found else f'{len(found)} runs'} of this service; expected one of {known}"
        )

    def put(self, run: ServiceRun) -> ServiceRun:
        """Keep a run, new or changed, but for what its operator wants, which `want` alone changes; what is kept."""
        table = self._runs
        mine = (table.c.service == self._service) & (table.c.run == run.run)
        with self._transaction() as connection:
            row = connection.execute(table.select().where(mine)).first()
            now = _moment()
            kept = msgspec.structs.replace(
                run,
                wanted=run.wanted if row is None else _run_of(row.content).wanted,
                created=run.created or now,
                updated=now,
            )
            self._write(connection, kept, new=row is None)
        return kept

    def want(self, run: str, what: str) -> ServiceRun:
        """Note what a run's operator wants of it; the run as it is then. Raises PlanError where it is over."""
        table = self._runs
        mine = (table.c.service == self._service) & (table.c.run == run)
        with self._transaction() as connection:
            row = connection.execute(table.select().where(mine).with_for_update()).first()
            if row is None:
                raise PlanError(f"there is no run {run!r}")
            found = _run_of(row.content)
            if found.over:
                raise PlanError(f"run {run} is over: {found.state}")
            if found.wanted == "stop" and what != "stop":
                raise PlanError(f"run {run} is to stop, which is for good")
            kept = msgspec.structs.replace(found, wanted=what)
            self._write(connection, kept, new=False)
        return kept

    def _write(self, connection: Connection, run: ServiceRun, *, new: bool) -> None:
        table = self._runs
        values = {"created": run.created, "over": int(run.over), "content": json.dumps(msgspec.to_builtins(run))}
        if new:
            connection.execute(table.insert().values(service=self._service, run=run.run, **values))
        else:
            mine = (table.c.service == self._service) & (table.c.run == run.run)
            connection.execute(table.update().where(mine).values(**values))


def _table(sqlalchemy: Any) -> Table:
    text = sqlalchemy.Text
    made: Table = sqlalchemy.Table(
        "hansa_runs",
        sqlalchemy.MetaData(),
        sqlalchemy.Column("service", text, primary_key=True),
        sqlalchemy.Column("run", text, primary_key=True),
        sqlalchemy.Column("created", text, nullable=False),
        sqlalchemy.Column("over", sqlalchemy.Integer, nullable=False),
        sqlalchemy.Column("content", text, nullable=False),
    )
    return made


def _run_of(content: str) -> ServiceRun:
    return msgspec.json.decode(content.encode(), type=ServiceRun)


def _tune_sqlite(connection: Any, _: object) -> None:
    """Readers do not wait for the writer, who waits for another."""
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA busy_timeout = 30000")


def _without_password(url: str) -> str:
    kind, _, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    return f"{kind}://{account.partition(':')[0]}{at}{place}" if url else ""


def _first_line(error: object) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _moment() -> str:
    from hansa.node.logs import moment

    return moment(time.time())
