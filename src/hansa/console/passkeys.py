"""Passkeys (WebAuthn): added to an account, and asked for to sign in and to confirm what an officer does.

py_webauthn checks what a browser sends: the ceremony, the challenge, the origin, the relying party, that the person was verified, and
the signature. What a console adds is here: a challenge is for one purpose of one session, is taken once and not late; an origin is one
of its own, whatever a request says; a counter that does not grow is refused.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import webauthn
from webauthn.helpers import base64url_to_bytes, bytes_to_base64url, parse_client_data_json
from webauthn.helpers.structs import (
    AuthenticatorSelectionCriteria,
    PublicKeyCredentialDescriptor,
    ResidentKeyRequirement,
    UserVerificationRequirement,
)

from hansa.console.book import Account, Book, Passkey
from hansa.errors import IdentityError
from hansa.node.logs import moment

CHALLENGE_S = 120.0
"""Seconds for which a challenge may be answered."""

MOST_CHALLENGES = 10_000
"""Open at once; the oldest is forgotten first."""

MOST_PASSKEYS = 20
"""Of one account."""

MOST_ANSWER = 2**16
"""Characters of what a browser sends."""

MOST_NAME = 60
"""Characters of what its owner calls a passkey."""


@dataclass(frozen=True)
class Site:
    """Where a browser has this console.

    Attributes:
        name: of the host, which passkeys are made for (the relying party's id). origin: scheme, name and port.
    """

    name: str
    origin: str


def site_of(host: str, hosts: Iterable[str], *, tls: bool, port: int) -> Site:
    """Where a browser has the console, by the Host header of its request.

    The port is the console's own, whatever the header says: a page at another port of this host is another site.

    Args:
        hosts: names by which this console is reached.

    Raises IdentityError where the name is not one of them, or a number, for which no passkey can be made.
    """
    name = host.lower() if host.endswith("]") else host.lower().rpartition(":")[0] or host.lower()
    if name not in hosts or _is_number(name):
        usual = f"http://localhost:{port}/" if not tls else "the name of its certificate"
        raise IdentityError(f"passkeys are for a console that is reached by a name, not by a number: use {usual}")
    scheme, usual_port = ("https", 443) if tls else ("http", 80)
    return Site(name, f"{scheme}://{name}" if port == usual_port else f"{scheme}://{name}:{port}")


def _is_number(name: str) -> bool:
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


@dataclass
class Challenges:
    """Challenges that wait for their answer, in memory alone.

    Args:
        clock: seconds that only grow.
    """

    clock: Callable[[], float] = time.monotonic
    _open: dict[bytes, tuple[str, float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def new(self, purpose: str) -> bytes:
        """A challenge for one purpose: 32 random bytes."""
        challenge = secrets.token_bytes(32)
        with self._lock:
            self._open[challenge] = purpose, self.clock()
            while len(self._open) > MOST_CHALLENGES:
                del self._open[next(iter(self._open))]
        return challenge

    def take(self, challenge: bytes, purpose: str) -> None:
        """Take a challenge that was answered. Raises IdentityError where it was taken before, is late, or is for something else."""
        with self._lock:
            known, at = self._open.pop(challenge, ("", 0.0))
        if known != purpose or self.clock() - at > CHALLENGE_S:
            raise IdentityError(
                "the passkey answers a question that was not asked here just now; load the page again and repeat",
                rule="a challenge is answered once, in its session and in time",
            )


class Passkeys:
    """The passkeys of one console's accounts.

    Args:
        book: where they are kept. member: whose console. clock: seconds that only grow.
    """

    def __init__(self, book: Book, member: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._book = book
        self._member = member
        self._challenges = Challenges(clock)

    def ask_new(self, account: Account, site: Site, purpose: str) -> msgspec.Raw:
        """What a browser is asked, as JSON, to make a passkey for an account."""
        options = webauthn.generate_registration_options(
            rp_id=site.name,
            rp_name=f"Hansa, {self._member}",
            user_name=account.name,
            user_id=self._handle(account.name),
            challenge=self._challenges.new(purpose),
            timeout=int(CHALLENGE_S * 1000),
            authenticator_selection=AuthenticatorSelectionCriteria(
                resident_key=ResidentKeyRequirement.REQUIRED, user_verification=UserVerificationRequirement.REQUIRED
            ),
            exclude_credentials=[PublicKeyCredentialDescriptor(base64url_to_bytes(own)) for own in account.passkeys],
        )
        return msgspec.Raw(webauthn.options_to_json(options).encode())

    def add(self, account: Account, site: Site, purpose: str, name: str, answer: str) -> Passkey:
        """Keep the passkey that a browser made. Raises IdentityError."""
        called = name.strip()
        if not 1 <= len(called) <= MOST_NAME:
            raise IdentityError(f"give the passkey a name of 1 to {MOST_NAME} characters, such as that of its device")
        if len(account.passkeys) >= MOST_PASSKEYS:
            raise IdentityError(f"{account.name} has {MOST_PASSKEYS} passkeys already; remove one first")
        challenge = self._taken(answer, purpose)
        try:
            made = webauthn.verify_registration_response(
                credential=answer,
                expected_challenge=challenge,
                expected_rp_id=site.name,
                expected_origin=site.origin,
                require_user_verification=True,
            )
        except Exception as error:  # whatever a library makes of such bytes, it is no passkey
            raise _refused(error) from error
        passkey = Passkey(
            id=bytes_to_base64url(made.credential_id),
            account=account.name,
            name=called,
            key=made.credential_public_key,
            counter=made.sign_count,
            made=moment(time.time()),
            used="",
        )
        self._book.put_passkey(passkey)
        return passkey

    def ask(self, site: Site, purpose: str, passkeys: Iterable[str] = ()) -> msgspec.Raw:
        """What a browser is asked, as JSON, to show one of these passkeys; any of this site where none is named."""
        options = webauthn.generate_authentication_options(
            rp_id=site.name,
            challenge=self._challenges.new(purpose),
            timeout=int(CHALLENGE_S * 1000),
            allow_credentials=[PublicKeyCredentialDescriptor(base64url_to_bytes(own)) for own in passkeys],
            user_verification=UserVerificationRequirement.REQUIRED,
        )
        return msgspec.Raw(webauthn.options_to_json(options).encode())

    def shown(self, site: Site, purpose: str, answer: str, account: str = "") -> Passkey:
        """The passkey that a browser showed.

        Args:
            account: whose it must be; empty where it says who signs in.

        Raises IdentityError.
        """
        if not answer:
            raise IdentityError("confirm this with your passkey; the page asks for it where scripts may run")
        challenge = self._taken(answer, purpose)
        given = json.loads(answer)
        known = self._book.passkey(str(given.get("id", ""))[:2000])
        if known is None or (account and known.account != account):
            raise IdentityError(
                "this passkey is not known here" if known is None else f"this passkey is not one of {account}'s"
            )
        handle = given["response"].get("userHandle") if isinstance(given.get("response"), dict) else None
        wrong = handle != bytes_to_base64url(self._handle(known.account))
        if wrong and (handle is not None or not account):  # an answer that names who signs in has to name an account
            raise IdentityError("this passkey names another account than the one that it was made for")
        try:
            verified = webauthn.verify_authentication_response(
                credential=answer,
                expected_challenge=challenge,
                expected_rp_id=site.name,
                expected_origin=site.origin,
                credential_public_key=known.key,
                credential_current_sign_count=0,  # held to the one that is kept below, with words of our own
                require_user_verification=True,
            )
        except Exception as error:  # as above
            raise _refused(error) from error
        if not self._book.use_passkey(known.id, verified.new_sign_count, moment(time.time())):
            raise IdentityError(
                f"the counter of the passkey {known.name!r} did not grow: there may be a copy of it; remove it, and make a new one",
                rule="a passkey's counter grows",
            )
        return known

    def _taken(self, answer: str, purpose: str) -> bytes:
        """The challenge that an answer is for, which is taken by that."""
        try:
            if len(answer) > MOST_ANSWER:
                raise ValueError(f"more than {MOST_ANSWER} characters")
            client = base64url_to_bytes(json.loads(answer)["response"]["clientDataJSON"])
            challenge = bytes(parse_client_data_json(client).challenge)
        except Exception as error:  # as above
            raise _refused(error) from error
        self._challenges.take(challenge, purpose)
        return challenge

    def _handle(self, account: str) -> bytes:
        """By which an authenticator tells accounts apart, 32 bytes: not a name, and another one at each member's console."""
        return hashlib.sha256(f"hansa console\0{self._member}\0{account}".encode()).digest()


def _refused(error: Exception) -> IdentityError:
    return IdentityError(f"the passkey is refused: {str(error)[:200] or type(error).__name__}")
