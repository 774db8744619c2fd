"""The pages on which people look after their own account: passkeys, and whether a password still signs in.

They depend on who asks, so they stand beside the table of pages. Each change asks for the password, or for a passkey where the password
is switched off: who found a browser open, or stole a cookie, changes nothing. Other sessions of the account end with a change.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from hansa.console.accounts import Session, TooManyTries
from hansa.console.actions import Form
from hansa.console.book import Account
from hansa.console.passkeys import CHALLENGE_S, MOST_NAME
from hansa.console.requests import address_of, as_json, form_of
from hansa.errors import HansaError, IdentityError
from hansa.node.logs import moment

if TYPE_CHECKING:
    from hansa.console.app import Console

TRYING = "-try"
"""The cookie of a browser that is about to sign in by a passkey."""

ADD, REMOVE, PASSWORD_OFF = "/account/passkeys", "/account/passkeys/remove", "/account/password-off"

Change = Callable[[Request, Session, Account, Form], str]
"""What a form changes of an account; a sentence on it."""


def confirming(session: Session, path: str) -> str:
    """The purpose of a challenge that confirms one action in one session."""
    return f"confirm {session.csrf} {path}"


class OwnAccount:
    """Routes of a console that depend on who asks."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def routes(self) -> list[Route]:
        """All."""
        return [
            Route("/account", self._show),
            Route("/account/confirm", self._ask_confirmation, methods=["POST"]),
            Route(f"{ADD}/begin", self._ask_new, methods=["POST"]),
            Route(ADD, self._changing("passkey add", self._add), methods=["POST"]),
            Route(REMOVE, self._changing("passkey remove", self._remove), methods=["POST"]),
            Route(PASSWORD_OFF, self._changing("password off", self._switch_off), methods=["POST"]),
            Route("/sign-in/passkey/begin", self._ask_sign_in, methods=["POST"]),
            Route("/sign-in/passkey", self._sign_in, methods=["POST"]),
        ]

    # Signing in

    async def _ask_sign_in(self, request: Request) -> Response:
        console = self._console
        token = secrets.token_urlsafe(32)
        try:
            asked = console.passkeys.ask(console.site_of(request), _signing_in(token))
        except IdentityError as error:
            return as_json({"error": str(error)}, 422)
        answer = as_json({"get": asked}, 200)
        console.put_cookie(answer, TRYING, token, int(CHALLENGE_S))
        return answer

    async def _sign_in(self, request: Request) -> Response:
        console, address = self._console, address_of(request)
        form = await form_of(request)
        note = console.member.book.note

        def look() -> tuple[Account, str]:
            if console.sessions.tries.blocked(f"address {address}"):
                raise TooManyTries("too many wrong passkeys; wait a minute")
            try:
                purpose = _signing_in(console.cookie_of(request, TRYING))
                passkey = console.passkeys.shown(console.site_of(request), purpose, form.get("confirm"))
                account = console.member.book.account(passkey.account)
                if account is None:
                    raise IdentityError("this passkey is of no account")
            except IdentityError:
                console.sessions.tries.failed(f"address {address}")
                raise
            return account, passkey.name

        try:
            account, name = await run_in_threadpool(look)
        except IdentityError as error:
            if not isinstance(error, TooManyTries):
                await run_in_threadpool(note, "", "sign-in", "", f"{error} (from {address})", done=False)
            return console.refused_sign_in(request, str(error))
        text = f"signed in from {address} by the passkey {name}"
        await run_in_threadpool(note, account.name, "sign-in", "", text, done=True)
        return console.signed_in(console.sessions.begin(account))

    # The account's own page

    async def _show(self, request: Request) -> Response:
        console = self._console
        session = console.session_of(request)
        if session is None:
            return RedirectResponse("/sign-in", 303)
        try:
            console.site_of(request)
            numbered = ""
        except IdentityError as error:
            numbered = str(error)
        passkeys = await run_in_threadpool(console.member.book.passkeys, session.who) if session.account else ()
        told, session.told = session.told, ""
        return console.render(
            "account.html.j2",
            session,
            title="Your account",
            told=told,
            here="/account",
            passkeys=passkeys,
            numbered=numbered,
            most_name=MOST_NAME,
        )

    async def _ask_confirmation(self, request: Request) -> Response:
        """What to ask a browser for before the form of an action is sent."""
        return await self._asked(request, create=False)

    async def _ask_new(self, request: Request) -> Response:
        return await self._asked(request, create=True)

    async def _asked(self, request: Request, *, create: bool) -> Response:
        console = self._console
        session = console.session_of(request)
        form = await form_of(request)
        if session is None or form.get("csrf") != session.csrf:
            return as_json({"error": "load the page again, and repeat"}, 403)
        account = session.account
        if account is None:
            return as_json({"error": "the link of the start has no passkeys; sign in with an account"}, 403)
        asked = {}
        try:
            site = console.site_of(request)
            if not create or not account.hashed:
                purpose = confirming(session, ADD if create else form.get("path")[:500])
                asked["get"] = console.passkeys.ask(site, purpose, account.passkeys)
            if create:
                asked["create"] = console.passkeys.ask_new(account, site, _adding(session))
        except IdentityError as error:
            return as_json({"error": str(error)}, 422)
        return as_json(asked, 200)

    def _changing(self, what: str, change: Change) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of a change, which is recorded; the change itself is made in a thread."""
        console = self._console

        async def take(request: Request) -> Response:
            session = console.session_of(request)
            if session is None:
                return RedirectResponse("/sign-in", 303)
            form = await form_of(request, session.who)
            note = console.member.book.note
            if form.get("csrf") != session.csrf:
                return await console.no_token(request, session, what)
            account = session.account
            if account is None:
                return console.say(request, session, "the link of the start is no account; sign in with one", 403)

            def made() -> str:
                self._prove(request, session, account, form)
                text = change(request, session, account, form)
                console.sessions.changed(session)
                return text

            try:
                text = await run_in_threadpool(made)
            except HansaError as error:
                if not isinstance(error, TooManyTries):
                    await run_in_threadpool(note, session.who, what, "", str(error), done=False)
                return console.say(request, session, str(error), 422)
            await run_in_threadpool(note, session.who, what, "", text, done=True)
            session.told = f"{text}."
            return RedirectResponse("/account", 303)

        return take

    def _prove(self, request: Request, session: Session, account: Account, form: Form) -> None:
        """Raise IdentityError unless the account's owner sends this form."""
        console = self._console
        if account.hashed:
            console.sessions.checked(account.name, form.get("password"), address_of(request))
            return
        purpose = confirming(session, request.url.path)
        console.passkeys.shown(console.site_of(request), purpose, form.get("confirm"), account.name)

    def _add(self, request: Request, session: Session, account: Account, form: Form) -> str:
        console = self._console
        site = console.site_of(request)
        made = console.passkeys.add(account, site, _adding(session), form.get("name"), form.get("passkey"))
        return f"the passkey {made.name} is added; other sessions of {account.name} have ended"

    def _remove(self, _: Request, session: Session, account: Account, form: Form) -> str:
        if not account.hashed and len(account.passkeys) == 1:
            raise IdentityError(
                "only this passkey signs in to this account; add another one first, or have a password set by `hansa account set`"
            )
        gone = self._console.member.book.remove_passkey(session.who, form.get("id"))
        return f"the passkey {gone.name} is removed; other sessions of {account.name} have ended"

    def _switch_off(self, _: Request, session: Session, account: Account, __: Form) -> str:
        if not account.passkeys:
            raise IdentityError("without a password only a passkey signs in; add one first")
        self._console.member.book.put_account(msgspec.structs.replace(account, hashed="", changed=moment(time.time())))
        return f"the password of {session.who} is switched off; `hansa account set` gives another one"


def _signing_in(token: str) -> str:
    return f"sign-in {hashlib.sha256(token.encode()).hexdigest()}"


def _adding(session: Session) -> str:
    return f"add {session.csrf}"
