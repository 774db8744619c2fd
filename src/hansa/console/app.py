"""The console's application: every route follows from the table of pages and actions (`pages`)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import jinja2
import msgspec
from markupsafe import Markup, escape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from hansa.console.accounts import Session, Sessions, TooManyTries
from hansa.console.guard import Guard
from hansa.console.live import Streams
from hansa.console.member import Member, NotThere, without_cells
from hansa.console.openapi import document
from hansa.console.own_account import OwnAccount, confirming
from hansa.console.pages import ACTS, DOWNLOADS, PAGES, Act, Download, Page, api_path, live_path
from hansa.console.passkeys import Passkeys, Site, site_of
from hansa.console.requests import address_of, as_json, asked_of, form_of, wants_json
from hansa.errors import DataError, HansaError, IdentityError
from hansa.printable import printable, size
from hansa.version import __version__
from hansa.views.html import view_html

STATIC = {
    "console.css": "text/css; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "htmx-sse.min.js": "text/javascript; charset=utf-8",
    "passkeys.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "LICENSE-htmx": "text/plain; charset=utf-8",
}
"""Files that pages name, and what they are."""

FOREVER = "public, max-age=31536000, immutable"
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class StaticFile:
    """A file of the console: its bytes, its kind, and the address that changes with its content."""

    content: bytes
    kind: str
    address: str


class Console:
    """One member's console: its pages, and who is signed in.

    Args:
        member: whose. sessions: who is signed in. hosts: names by which it is reached. tls: whether by TLS. port: told apart by it are
            the cookies of several consoles on one host. streams: of server-sent events.
    """

    def __init__(
        self,
        member: Member,
        sessions: Sessions,
        hosts: Iterable[str],
        *,
        tls: bool,
        port: int,
        streams: Streams | None = None,
    ) -> None:
        self.member = member
        self.sessions = sessions
        self.passkeys = Passkeys(member.book, member.name, sessions.clock)
        self._hosts, self._tls, self._port = frozenset(hosts), tls, port
        self._cookie = f"{'__Host-' if tls else ''}hansa-{port}"
        self.streams = streams or Streams()
        self._static = dict(_static())
        self._templates = _environment(self._static)
        routes: list[Route] = [
            Route("/static/{version}/{name}", self._serve_static),
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
            *OwnAccount(self).routes(),
            Route("/enter", self._enter),
            Route("/sign-out", self._sign_out, methods=["POST"]),
            Route("/api/openapi.json", self._describe),
        ]
        for page in PAGES:
            routes.append(Route(api_path(page), self._json(page)))
            if page.live:
                routes.append(Route(live_path(page), self._live(page)))
            routes.append(Route(page.path, self._page(page)))
        routes += [Route(each.path, self._download(each)) for each in DOWNLOADS]
        routes += [Route(act.path, self._act(act), methods=["POST"]) for act in ACTS]
        self.routes = tuple(routes)
        inner = Starlette(
            routes=routes,
            exception_handlers={
                HansaError: self._refused,
                404: self._nothing,
                405: self._nothing,
                400: self._nothing,
                500: self._broken,
            },
        )
        inner.router.redirect_slashes = False  # a path with one more slash is none of this console's
        self.app = Guard(inner, self._hosts, tls)

    # Who asks

    def session_of(self, request: Request) -> Session | None:
        """Who asks; None where nobody is signed in."""
        cookie = request.cookies.get(self._cookie)
        return None if cookie is None else self.sessions.find(cookie)

    def signed_in(self, cookie: str) -> Response:
        """The answer that begins a session."""
        answer = RedirectResponse("/", 303)
        self.put_cookie(answer, "", cookie)
        return answer

    def put_cookie(self, answer: Response, name: str, value: str, seconds: int | None = None) -> None:
        """Give a browser a cookie of this console: its session's, or by a name of its own one that it keeps for so many seconds."""
        answer.set_cookie(
            self._cookie + name, value, max_age=seconds, path="/", secure=self._tls, httponly=True, samesite="strict"
        )

    def cookie_of(self, request: Request, name: str) -> str:
        """A cookie that `put_cookie` gave by this name."""
        return request.cookies.get(self._cookie + name, "")

    def site_of(self, request: Request) -> Site:
        """Where the browser has this console. Raises IdentityError where no passkey can be for it."""
        return site_of(request.headers["host"], self._hosts, tls=self._tls, port=self._port)

    async def _enter(self, request: Request) -> Response:
        """The link of the start."""
        if request.method != "GET":
            return await self._nothing(request, HansaError())
        try:
            cookie = self.sessions.enter(request.query_params.get("token", ""), address_of(request))
        except IdentityError as error:
            if not isinstance(error, TooManyTries):
                await run_in_threadpool(self.member.book.note, "", "enter", "", str(error), done=False)
            return self.refused_sign_in(request, str(error))
        await run_in_threadpool(
            self.member.book.note, "link", "enter", "", "signed in by the link of the start", done=True
        )
        return self.signed_in(cookie)

    async def _sign_in(self, request: Request) -> Response:
        if request.method != "POST":
            return self.refused_sign_in(request, "", 200)
        form = await form_of(request)
        name, password = form.get("name"), form.get("password")
        address = address_of(request)
        note = self.member.book.note
        try:
            cookie = await run_in_threadpool(self.sessions.sign_in, name, password, address)
        except IdentityError as error:
            if not isinstance(error, TooManyTries):
                await run_in_threadpool(note, name, "sign-in", "", f"{error} (from {address})", done=False)
            return self.refused_sign_in(request, str(error))
        await run_in_threadpool(note, name, "sign-in", "", f"signed in from {address}", done=True)
        return self.signed_in(cookie)

    def refused_sign_in(self, request: Request, text: str, status: int = 403) -> Response:
        """The page to sign in, and why nobody is."""
        if text and wants_json(request):
            return as_json({"error": text}, status)
        try:
            self.site_of(request)
            numbered = ""
        except IdentityError as error:
            numbered = str(error)
        return self.render("sign_in.html.j2", None, status=status, title="Sign in", refused=text, numbered=numbered)

    async def _sign_out(self, request: Request) -> Response:
        session = self.session_of(request)
        if session is not None:
            form = await form_of(request)
            if form.get("csrf") != session.csrf:
                return await self.no_token(request, session, "sign-out")
            self.sessions.end(request.cookies[self._cookie])
            await run_in_threadpool(self.member.book.note, session.who, "sign-out", "", "signed out", done=True)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(self._cookie, path="/", secure=self._tls, httponly=True, samesite="strict")
        return answer

    # Pages

    def _page(self, page: Page) -> Endpoint:
        async def show(request: Request) -> Response:
            session = self.session_of(request)
            if session is None:
                return RedirectResponse("/sign-in", 303)
            view = await run_in_threadpool(page.view, self.member, asked_of(request))
            told, session.told = session.told, ""
            return await run_in_threadpool(
                self.render,
                page.template,
                session,
                title=page.title,
                page=page,
                view=view,
                told=told,
                here=request.url.path,
            )

        return show

    def _json(self, page: Page) -> Endpoint:
        async def show(request: Request) -> Response:
            if self.session_of(request) is None:
                return as_json({"error": "sign in first"}, 401)
            view = await run_in_threadpool(page.view, self.member, asked_of(request))
            return Response(msgspec.json.encode(view), media_type="application/json")

        return show

    def _live(self, page: Page) -> Endpoint:
        async def show(request: Request) -> Response:
            session = self.session_of(request)
            if session is None:
                return as_json({"error": "sign in first"}, 401)
            if self.streams.full:
                return as_json({"error": "too many pages are open; this one does not change by itself"}, 503)
            asked = asked_of(request)
            await run_in_threadpool(
                page.view, self.member, asked
            )  # refuses what is not there, before the stream begins

            def make() -> str:
                return self._templates.get_template(page.live).render(view=page.view(self.member, asked))

            events = self.streams.stream(
                f"{request.url.path}?{request.url.query}", make, lambda: self.sessions.stands(session)
            )
            return StreamingResponse(
                events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no", "Cache-Control": "no-store"}
            )

        return show

    def _download(self, download: Download) -> Endpoint:
        async def offer(request: Request) -> Response:
            session = self.session_of(request)
            if session is None:
                return RedirectResponse("/sign-in", 303)
            found = await run_in_threadpool(download.offer, self.member, asked_of(request))
            headers = {"Content-Type": found.kind}
            if found.policy:
                headers["Content-Security-Policy"] = found.policy
            else:
                headers["Content-Disposition"] = f'attachment; filename="{found.name}"'
            return Response(found.content, headers=headers)

        return offer

    # Actions

    def _act(self, act: Act) -> Endpoint:
        async def take(request: Request) -> Response:
            session = self.session_of(request)
            if session is None:
                return (
                    RedirectResponse("/sign-in", 303)
                    if not wants_json(request)
                    else as_json({"error": "sign in first"}, 401)
                )
            form = await form_of(request, session.who)
            about = " ".join(str(value) for value in request.path_params.values())
            note = self.member.book.note
            if form.get("csrf") != session.csrf:
                return await self.no_token(request, session, act.name)
            if not session.may(act.role):
                text = f"this needs the role {act.role}, and {session.who} is {session.role}"
                await run_in_threadpool(note, session.who, act.name, about, text, done=False)
                return self.say(request, session, text, 403)
            confirmed = ""
            if act.role == "officer" and session.confirms:
                try:
                    purpose = confirming(session, request.url.path)
                    passkey = await run_in_threadpool(
                        self.passkeys.shown, self.site_of(request), purpose, form.get("confirm"), session.who
                    )
                except IdentityError as error:
                    await run_in_threadpool(note, session.who, act.name, about, str(error), done=False)
                    return self.say(request, session, str(error), 403)
                confirmed = f" (confirmed by the passkey {passkey.name})"
            try:
                done = await run_in_threadpool(act.do, self.member, form)
            except HansaError as error:
                await run_in_threadpool(note, session.who, act.name, about, _told(error), done=False)
                return self.say(request, session, _told(error), 404 if isinstance(error, NotThere) else 422)
            await run_in_threadpool(note, session.who, act.name, done.about, done.text + confirmed, done=True)
            if wants_json(request):
                return as_json(msgspec.to_builtins(done), 200)
            session.told = f"{done.text} {done.secret}".strip()
            return RedirectResponse(done.to, 303)

        return take

    async def no_token(self, request: Request, session: Session, what: str) -> Response:
        """The answer to a form that is of another session, which is noted."""
        text = "this form is of another session; go back, load the page again, and send it anew"
        await run_in_threadpool(self.member.book.note, session.who, what, "", text, done=False)
        return self.say(request, session, text, 403)

    async def _describe(self, request: Request) -> Response:
        """The document of all endpoints."""
        if self.session_of(request) is None:
            return as_json({"error": "sign in first"}, 401)
        return Response(document(), media_type="application/json")

    # Answers

    def say(self, request: Request, session: Session | None, text: str, status: int) -> Response:
        """An answer that says why something was not done."""
        if wants_json(request) or request.url.path.startswith(("/api/", "/live/")):
            return as_json({"error": text}, status)
        sent = request.method == "POST"
        return self.render("refused.html.j2", session, status=status, title="Not done", text=text, sent=sent)

    async def _refused(self, request: Request, error: Exception) -> Response:
        return self.say(request, self.session_of(request), _told(error), 404 if isinstance(error, NotThere) else 422)

    async def _nothing(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        text = "there is no such page" if status in (404, 405) else "this request cannot be read"
        return self.say(request, self.session_of(request), text, status)

    async def _broken(self, request: Request, _: Exception) -> Response:
        return self.say(
            request, self.session_of(request), "something is wrong in the console itself; its log says what", 500
        )

    async def _serve_static(self, request: Request) -> Response:
        found = self._static.get(request.path_params["name"])
        if found is None or found.address != request.url.path:
            return await self._nothing(request, HansaError())
        return Response(found.content, headers={"Content-Type": found.kind, "Cache-Control": FOREVER})

    def render(self, template: str, session: Session | None, *, status: int = 200, **values: Any) -> Response:
        """A page made of a template."""
        pages = [page for page in PAGES if page.heading]
        whole = {
            "session": session,
            "pages": pages,
            "member": self.member.name,
            "version": __version__,
            "here": "",
            "told": "",
        }
        text = self._templates.get_template(template).render(**whole | values)
        return Response(text, status, media_type="text/html")


def _told(error: Exception) -> str:
    """What went wrong, without a cell of a table."""
    return without_cells(str(error)) if isinstance(error, DataError) else str(error)


def _static() -> Iterable[tuple[str, StaticFile]]:
    folder = files("hansa.console").joinpath("static")
    for name, kind in STATIC.items():
        content = folder.joinpath(name).read_bytes()
        yield name, StaticFile(content, kind, f"/static/{hashlib.sha256(content).hexdigest()[:16]}/{name}")


def _environment(static: Mapping[str, StaticFile]) -> jinja2.Environment:
    """Templates: what others wrote is escaped, and what is not plainly visible in it is shown as an escape (`printable`)."""

    def shown(value: Any) -> Any:
        if value is None:
            return ""
        return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("hansa.console", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["static"] = {name: file.address for name, file in static.items()}
    made.filters["size"] = size
    made.filters["lines"] = lambda text: Markup("\n").join(escape(printable(line)) for line in text.split("\n"))
    made.filters["moment"] = _moment
    made.filters["part"] = lambda view: Markup(view_html(view, "page", view.name, "h2"))
    made.filters["given"] = _given
    made.filters["number"] = lambda value: "–" if value is None else f"{value:.5f}"
    return made


def _given(value: Any) -> str:
    """What a plan gives a key, as people read it; a dash where it has no such key."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return "; ".join(f"{key} = {_given(own)}" for key, own in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_given, value)) or "none"
    return str(value)


def _moment(text: str) -> str:
    """A time in UTC without its fractions, as people read it."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?Z$", r"\1 \2", text)
