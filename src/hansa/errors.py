"""Every error that Hansa raises on purpose. Each message says what is wrong, where, and the cure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class HansaError(Exception):
    """Base of all errors raised on purpose; the command line prints its text without a traceback.

    The text is for people. Programs read the attributes: nothing is ever decided by what stands in a text.

    Attributes
    ----------
    retry : bool
        Whether the same command may succeed later although nobody changes a file: a peer was lost, a wait ended, a disk was full. False
        where somebody must change a configuration, a table or a release first.
    follows : bool
        Whether an error of this kind only follows from what happened to another member, which can say more.
    member : str
        Who is at fault or lost; empty where nobody is, or where it is one of `suspects`.
    suspects : tuple of str
        The members of whom one is at fault, or who are waited for, where it is not known which.
    run : str
        The run's id in hex; empty before there is one.
    rule, cure : str
        The rule that was broken, in words, and what to do. Each is empty where only the text says it.

    Examples
    --------
    >>> from hansa import HansaError, parse_plan
    >>> try:
    ...     parse_plan("mode = 3")
    ... except HansaError as error:
    ...     print(type(error).__name__, error.retry, error.member == "")
    PlanError False True
    """

    retry: bool = False
    follows: bool = False

    def __init__(
        self,
        text: str = "",
        *,
        member: str = "",
        suspects: tuple[str, ...] = (),
        run: str = "",
        rule: str = "",
        cure: str = "",
    ) -> None:
        super().__init__(text)
        self.member = member
        self.suspects = suspects
        self.run = run
        self.rule = rule
        self.cure = cure

    def blame(self, *members: str) -> None:
        """Name who is at fault, or the several of whom one is, unless somebody is named already."""
        if not self.member and not self.suspects:
            self.member, self.suspects = (members[0], ()) if len(members) == 1 else ("", members)


class DataError(HansaError):
    """A table violates the schema: the text names file, row, column, what was expected and found.

    Examples
    --------
    >>> import pathlib
    >>> from hansa import Schema, read_rows
    >>> read_rows(pathlib.Path("no-such-table.csv"), Schema(("a",), "b"), label_kind="binary")
    Traceback (most recent call last):
        ...
    hansa.errors.DataError: no-such-table.csv: ...
    """


class RowsLost(DataError):
    """Rows that training reads again are not what they were, or cannot be read any more: nobody else's fault."""


class PlanError(HansaError):
    """A plan, a member file or a parameter is wrong: the text names the key and what to write instead.

    Examples
    --------
    >>> from hansa import parse_parameters
    >>> parse_parameters({"max_dept": 3})
    Traceback (most recent call last):
        ...
    hansa.errors.PlanError: ...max_depth...
    """


class IdentityError(HansaError):
    """A key, certificate or members file is missing, expired, unknown or does not match."""


class OutputError(HansaError):
    """A file cannot be written: the text names it and the cure.

    Attributes:
        retry: whether space or a device was missing, and not a permission or a folder.
    """

    def __init__(self, text: str, *, retry: bool = False, cure: str = "") -> None:
        super().__init__(text, cure=cure)
        self.retry = retry


class StateError(HansaError):
    """A state folder cannot be used: it is another run's, in use, open to others, damaged, or older than what others hold."""


class ProtocolError(HansaError):
    """A member broke a rule of the protocol: the text names the member, the rule and the message."""


class ServersDisagree(ProtocolError):
    """What others told this server does not fit: one of them lies, or its machine errs. Nothing was opened after it.

    Attributes:
        servers: numbers of the servers that it may be. owner: or an owner, where it is not empty.
        found: what does not fit. step: of the computation.
    """

    def __init__(self, servers: tuple[int, ...], found: str, step: str, owner: str = "") -> None:
        who = [*(f"server {number}" for number in servers), *([f"owner {owner!r}"] if owner else [])]
        super().__init__(f"{' or '.join(who)}: step {step!r}: {found}", member="" if servers else owner, rule=found)
        self.servers = servers
        self.owner = owner
        self.found = found
        self.step = step


class ModelWithheld(HansaError):
    """The run is over, and the metric that the plan's release depends on was not reached: nobody has the model."""


REFUSED = 1
"""Exit status where somebody must change something first. 2 is `click`'s, for a command that is wrong in itself."""

WITHHELD = 3
"""Exit status of a member's run that went to its end, where the plan's condition on the release lets nobody have the model."""

AGAIN = 75
"""Exit status where the same command may succeed later: EX_TEMPFAIL of `sysexits.h`. A signal gives 128 and its number."""


def exit_status(error: HansaError) -> int:
    """With which status a process ends that an error ended."""
    if isinstance(error, ModelWithheld):
        return WITHHELD
    return AGAIN if error.retry else REFUSED


class RunStopped(HansaError):
    """Another member stopped the run, and said why.

    Attributes:
        told_by: who said so. member: whom it says to be at fault; itself, where it names nobody.
        retry: whether it says that trying again may succeed.
    """

    follows = True

    def __init__(self, told_by: str, text: str, *, retry: bool, member: str = "") -> None:
        super().__init__(text, member=member or told_by)
        self.told_by = told_by
        self.retry = retry


class TransportError(HansaError):
    """A connection could not be made or was refused."""

    retry = True
    follows = True


class LinkLost(TransportError):
    """The connection to the hub broke, and nobody is known to have broken a rule: it may be made anew."""


class SessionRefused(TransportError):
    """The hub itself refuses this member, and said why: dialling again is of no use."""

    retry = False
    follows = False


class RunUnknown(TransportError):
    """The hub's service takes no part in this run, or not yet: nobody there has given it the plan."""


class OtherVersion(TransportError):
    """The two ends speak no common version of the protocol: one of them is to be brought up to date, then the run can begin."""

    follows = False


class NotTrusted(TransportError):
    """The other end is not who the members file says, or does not take this member for who it is: trying again is of no use."""

    retry = False
    follows = False


class MemberLost(TransportError):
    """One member's connection ended or was refused; other members' connections go on.

    Attributes:
        member: name of the member whose connection ended.
        reason: what happened, in plain words.
        broken: whether it is the connection that broke, so that it may be made anew, and not the member a rule.
        unread: whole frames that had come before the connection was found to have ended, by sending; as a rule none.
    """

    def __init__(self, member: str, reason: str, *, broken: bool = False, unread: tuple[bytes, ...] = ()) -> None:
        super().__init__(f"member {member!r}: {reason}", member=member)
        self.reason = reason
        self.broken = broken
        self.unread = unread


@contextmanager
def blaming(*members: str) -> Iterator[None]:
    """Whoever breaks a rule inside is the one of `members`, or one of several, unless the error names somebody itself."""
    try:
        yield
    except ProtocolError as error:
        error.blame(*members)
        raise


@contextmanager
def own_fault(member: str) -> Iterator[None]:
    """What is wrong inside with a member's own files and rows is that member's fault, unless the error names somebody itself."""
    try:
        yield
    except (DataError, PlanError, IdentityError, OutputError, StateError) as error:
        error.blame(member)
        raise


def error_kinds() -> dict[str, type[HansaError]]:
    """Every kind of error by its name, as records and lines of JSON give it."""
    found: dict[str, type[HansaError]] = {}
    waiting: list[type[HansaError]] = [HansaError]
    while waiting:
        kind = waiting.pop()
        found[kind.__name__] = kind
        waiting += kind.__subclasses__()
    return found


def no_memory(fault: MemoryError) -> HansaError:
    """The error for a process that was given no more memory, and the cure."""
    asked = f" ({fault})" if str(fault) else ""
    cure = 'for a party whose rows are many, by_column = true or [engine] kind = "disk" in its file takes less'
    return HansaError(
        f"this process was given no more memory{asked}; free some, or let it have more; {cure} (hansa check says how much)",
        cure=cure,
    )


def in_words(error: Exception) -> str:
    """What an error says for a sentence: of one of the system its words, without its number."""
    return (isinstance(error, OSError) and error.strerror) or str(error)
