"""Who is signed in: passwords by Argon2, sessions that this process alone keeps, and how often somebody may try.

A session is a random token in a cookie. The console keeps its SHA-256, so that a copy of its memory opens nothing; a session that ended
is forgotten, and its cookie is worth nothing then. A console that is started again has forgotten all.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from hansa.console.book import ROLES, Account, Book, Role
from hansa.errors import IdentityError
from hansa.node.logs import moment

LEAST_PASSWORD, MOST_PASSWORD = 12, 1000
"""Characters."""

IDLE_S, LONGEST_S = 1800.0, 12 * 3600.0
"""Seconds after which a session ends: without a request, and in any case."""

MOST_SESSIONS = 1000
HASHER = PasswordHasher()
"""Argon2id, 64 MiB and three passes (RFC 9106, its second recommendation)."""

LINK = "link"
"""Who is signed in by the link of the start: an operator."""

TRIES, TRIES_S = 5, 60.0
"""Wrong passwords of one account, and of one address, in so many seconds; more are refused without a look."""

LOOK_S = 2.0
"""Seconds that a sign-in waits for those before it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_NOBODY = "$argon2id$v=19$m=65536,t=3,p=4$c29tZXNhbHRzb21lc2FsdA$eZ1Lm3hcVvWYLz2MIlqVcLHKEm1FMHzMjl1SkqGm5Zc"
"""A hash that no password has: a name that is not there takes as long as a wrong password."""


class TooManyTries(IdentityError):
    """Somebody tries too often, and was not looked at. Nothing is written down of it: it would fill the disk for whoever wants to."""


@dataclass
class Session:
    """Somebody who is signed in.

    Attributes:
        who: the account, or `LINK`. role: what it may do. account: as it was at sign-in; None for the link. csrf: stands in every form.
        began, used: by the clock. told: a sentence for the next page.
    """

    who: str
    role: Role
    account: Account | None
    csrf: str
    began: float
    used: float
    told: str = ""

    @property
    def confirms(self) -> bool:
        """Whether its account has a passkey, by which what needs an officer is confirmed each time."""
        return self.account is not None and bool(self.account.passkeys)

    def may(self, role: Role) -> bool:
        """Whether it may do what needs this role."""
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass
class Tries:
    """How often something failed of late, by name. At most `most` names are kept, the newest."""

    clock: Callable[[], float]
    most: int = 10_000
    _failed: dict[str, list[float]] = field(default_factory=dict)

    def blocked(self, name: str) -> bool:
        """Whether it failed too often."""
        recent = [at for at in self._failed.get(name, ()) if self.clock() - at < TRIES_S]
        return len(recent) >= TRIES

    def failed(self, name: str) -> None:
        """It failed once more."""
        recent = [at for at in self._failed.pop(name, ()) if self.clock() - at < TRIES_S]
        self._failed[name] = [*recent[-TRIES:], self.clock()]
        while len(self._failed) > self.most:
            del self._failed[next(iter(self._failed))]


class Sessions:
    """Everybody who is signed in at one console.

    Args:
        book: the accounts. clock: seconds that only grow.
    """

    def __init__(self, book: Book, clock: Callable[[], float] = time.monotonic) -> None:
        self._book = book
        self.clock = clock
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._link = ""
        self._looking = threading.Lock()
        self.tries = Tries(clock)

    def new_link(self) -> str:
        """The token of a link that signs in an operator, once."""
        token = secrets.token_urlsafe(32)
        self._link = _digest(token)
        return token

    def enter(self, token: str, address: str) -> str:
        """The cookie of a new session, for the link's token.

        Raises IdentityError where it was used, or is another's; TooManyTries.
        """
        if self.tries.blocked(f"address {address}"):
            raise TooManyTries(f"too many wrong links; wait {TRIES_S:.0f} seconds")
        with self._lock:
            right = bool(self._link) and secrets.compare_digest(_digest(token), self._link)
            if right:
                self._link = ""
        if not right:
            self.tries.failed(f"address {address}")
            raise IdentityError(
                "this link was used before, or is none of this console; start the console again for a new one"
            )
        return self._begin(LINK, "operator", None)

    def sign_in(self, name: str, password: str, address: str) -> str:
        """The cookie of a new session. Raises IdentityError where name and password do not fit; TooManyTries."""
        return self.begin(self.checked(name, password, address))

    def checked(self, name: str, password: str, address: str) -> Account:
        """The account whose name and password these are.

        Passwords are looked at one after another: each look takes much memory, and what fails counts before the next one begins.

        Raises IdentityError where name and password do not fit; TooManyTries.
        """
        if not self._looking.acquire(timeout=LOOK_S):
            raise TooManyTries("many sign in at this moment; try again")
        try:
            if self.tries.blocked(f"account {name[:100]}") or self.tries.blocked(f"address {address}"):
                raise TooManyTries(f"too many wrong passwords; wait {TRIES_S:.0f} seconds")
            account = self._book.account(name)
            right = _fits(_NOBODY if account is None or not account.hashed else account.hashed, password)
            if account is None or not right:
                self.tries.failed(f"account {name[:100]}")
                self.tries.failed(f"address {address}")
                raise IdentityError("name and password do not fit")
        finally:
            self._looking.release()
        return account

    def begin(self, account: Account) -> str:
        """The cookie of a new session of somebody who has shown who they are."""
        return self._begin(account.name, account.role, account)

    def changed(self, session: Session) -> None:
        """Have a session go on whose owner changed its account just now; others of the account end."""
        session.account = self._book.account(session.who)

    def find(self, cookie: str) -> Session | None:
        """Whose cookie it is; None where the session is over, or the account was changed or removed since."""
        key = _digest(cookie)
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                return None
            now = self.clock()
            if now - session.used > IDLE_S or now - session.began > LONGEST_S:
                del self._sessions[key]
                return None
        if session.account is not None and self._book.account(session.who) != session.account:
            self.end(cookie)
            return None
        session.used = now
        return session

    def stands(self, session: Session) -> bool:
        """Whether a session is still one, which a stream of events asks for as long as it is open; that is no use of it."""
        now = self.clock()
        over = now - session.used > IDLE_S or now - session.began > LONGEST_S
        with self._lock:
            known = any(own is session for own in self._sessions.values())
        same = session.account is None or self._book.account(session.who) == session.account
        return known and same and not over

    def end(self, cookie: str) -> None:
        """Forget a session."""
        with self._lock:
            self._sessions.pop(_digest(cookie), None)

    def _begin(self, who: str, role: Role, account: Account | None) -> str:
        token, now = secrets.token_urlsafe(32), self.clock()
        with self._lock:
            while len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[_digest(token)] = Session(who, role, account, secrets.token_urlsafe(32), now, now)
        return token


def account_of(name: str, role: Role, password: str) -> Account:
    """A new account. Raises IdentityError where name or password cannot be one; never quotes a password."""
    if not _NAME.fullmatch(name) or name == LINK:
        raise IdentityError(
            f"{name!r:.80} cannot name an account: write 1 to 63 of a-z, A-Z, 0-9, dots, dashes, underscores and @, and not {LINK!r}"
        )
    if not LEAST_PASSWORD <= len(password) <= MOST_PASSWORD:
        raise IdentityError(
            f"the password has {len(password)} characters; give at least {LEAST_PASSWORD}, such as six words drawn by dice"
        )
    return Account(name=name, role=role, hashed=HASHER.hash(password), changed=moment(time.time()))


def _fits(hashed: str, password: str) -> bool:
    try:
        return HASHER.verify(hashed, password[:MOST_PASSWORD])
    except VerificationError:
        return False


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "replace")).hexdigest()
