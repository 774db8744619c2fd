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
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from hansa.console.accounts import Session, Sessions, TooManyTries
from hansa.console.actions import Form
from hansa.console.guard import Guard
from hansa.console.live import Streams
from hansa.console.member import Asked, Member, NotThere
from hansa.console.openapi import document
from hansa.console.pages import ACTS, DOWNLOADS, PAGES, Act, Download, Page, api_path, live_path
from hansa.errors import HansaError, IdentityError
from hansa.printable import printable, size
from hansa.version import __version__
from hansa.views.html import view_html

STATIC = {
    "console.css": "text/css; charset=utf-8",
    "htmx.min.js": "text/javascript; charset=utf-8",
    "htmx-sse.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "LICENSE-htmx": "text/plain; charset=utf-8",
}
"""Files that pages name, and what they are."""

FOREVER = "public, max-age=31536000, immutable"
MOST_FIELDS = 500
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
        self._tls = tls
        self._cookie = f"{'__Host-' if tls else ''}hansa-{port}"
        self.streams = streams or Streams()
        self._static = dict(_static())
        self._templates = _environment(self._static)
        routes = [
            Route("/static/{version}/{name}", self._serve_static),
            Route("/sign-in", self._sign_in, methods=["GET", "POST"]),
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
        self.app = Guard(inner, hosts, tls)

    # Who asks

    def _session(self, request: Request) -> Session | None:
        cookie = request.cookies.get(self._cookie)
        return None if cookie is None else self.sessions.find(cookie)

    def _signed_in(self, cookie: str) -> Response:
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self._cookie, cookie, path="/", secure=self._tls, httponly=True, samesite="strict")
        return answer

    async def _enter(self, request: Request) -> Response:
        """The link of the start."""
        if request.method != "GET":
            return await self._nothing(request, HansaError())
        try:
            cookie = self.sessions.enter(request.query_params.get("token", ""), _address(request))
        except IdentityError as error:
            if not isinstance(error, TooManyTries):
                await run_in_threadpool(self.member.book.note, "", "enter", "", str(error), done=False)
            return self._render("sign_in.html.j2", None, status=403, title="Sign in", told=str(error))
        await run_in_threadpool(
            self.member.book.note, "link", "enter", "", "signed in by the link of the start", done=True
        )
        return self._signed_in(cookie)

    async def _sign_in(self, request: Request) -> Response:
        if request.method != "POST":
            return self._render("sign_in.html.j2", None, title="Sign in", told="")
        form = await _form_of(request)
        name, password = form.get("name"), form.get("password")
        address = _address(request)
        note = self.member.book.note
        try:
            cookie = await run_in_threadpool(self.sessions.sign_in, name, password, address)
        except IdentityError as error:
            if not isinstance(error, TooManyTries):
                await run_in_threadpool(note, name, "sign-in", "", f"{error} (from {address})", done=False)
            if _wants_json(request):
                return _json({"error": str(error)}, 403)
            return self._render("sign_in.html.j2", None, status=403, title="Sign in", told=str(error))
        await run_in_threadpool(note, name, "sign-in", "", f"signed in from {address}", done=True)
        return self._signed_in(cookie)

    async def _sign_out(self, request: Request) -> Response:
        session = self._session(request)
        if session is not None:
            form = await _form_of(request)
            if form.get("csrf") != session.csrf:
                return await self._no_token(request, session, "sign-out")
            self.sessions.end(request.cookies[self._cookie])
            await run_in_threadpool(self.member.book.note, session.who, "sign-out", "", "signed out", done=True)
        answer = RedirectResponse("/sign-in", 303)
        answer.delete_cookie(self._cookie, path="/", secure=self._tls, httponly=True, samesite="strict")
        return answer

    # Pages

    def _page(self, page: Page) -> Endpoint:
        async def show(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                return RedirectResponse("/sign-in", 303)
            view = await run_in_threadpool(page.view, self.member, _asked(request))
            told, session.told = session.told, ""
            return await run_in_threadpool(
                self._render,
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
            if self._session(request) is None:
                return _json({"error": "sign in first"}, 401)
            view = await run_in_threadpool(page.view, self.member, _asked(request))
            return Response(msgspec.json.encode(view), media_type="application/json")

        return show

    def _live(self, page: Page) -> Endpoint:
        async def show(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                return _json({"error": "sign in first"}, 401)
            if self.streams.full:
                return _json({"error": "too many pages are open; this one does not change by itself"}, 503)
            asked = _asked(request)
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
            session = self._session(request)
            if session is None:
                return RedirectResponse("/sign-in", 303)
            found = await run_in_threadpool(download.offer, self.member, _asked(request))
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
            session = self._session(request)
            if session is None:
                return (
                    RedirectResponse("/sign-in", 303)
                    if not _wants_json(request)
                    else _json({"error": "sign in first"}, 401)
                )
            form = await _form_of(request, session.who)
            about = " ".join(str(value) for value in request.path_params.values())
            note = self.member.book.note
            if form.get("csrf") != session.csrf:
                return await self._no_token(request, session, act.name)
            if not session.may(act.role):
                text = f"this needs the role {act.role}, and {session.who} is {session.role}"
                await run_in_threadpool(note, session.who, act.name, about, text, done=False)
                return self._say(request, session, text, 403)
            try:
                done = await run_in_threadpool(act.do, self.member, form)
            except HansaError as error:
                await run_in_threadpool(note, session.who, act.name, about, str(error), done=False)
                return self._say(request, session, str(error), 404 if isinstance(error, NotThere) else 422)
            await run_in_threadpool(note, session.who, act.name, done.about, done.text, done=True)
            if _wants_json(request):
                return _json(msgspec.to_builtins(done), 200)
            session.told = f"{done.text} {done.secret}".strip()
            return RedirectResponse(done.to, 303)

        return take

    async def _no_token(self, request: Request, session: Session, what: str) -> Response:
        text = "this form is of another session; go back, load the page again, and send it anew"
        await run_in_threadpool(self.member.book.note, session.who, what, "", text, done=False)
        return self._say(request, session, text, 403)

    async def _describe(self, request: Request) -> Response:
        """The document of all endpoints."""
        if self._session(request) is None:
            return _json({"error": "sign in first"}, 401)
        return Response(document(), media_type="application/json")

    # Answers

    def _say(self, request: Request, session: Session | None, text: str, status: int) -> Response:
        if _wants_json(request) or request.url.path.startswith(("/api/", "/live/")):
            return _json({"error": text}, status)
        return self._render("refused.html.j2", session, status=status, title="Not done", text=text, told="")

    async def _refused(self, request: Request, error: Exception) -> Response:
        return self._say(request, self._session(request), str(error), 404 if isinstance(error, NotThere) else 422)

    async def _nothing(self, request: Request, error: Exception) -> Response:
        status = getattr(error, "status_code", 404)
        text = "there is no such page" if status in (404, 405) else "this request cannot be read"
        return self._say(request, self._session(request), text, status)

    async def _broken(self, request: Request, _: Exception) -> Response:
        return self._say(
            request, self._session(request), "something is wrong in the console itself; its log says what", 500
        )

    async def _serve_static(self, request: Request) -> Response:
        found = self._static.get(request.path_params["name"])
        if found is None or found.address != request.url.path:
            return await self._nothing(request, HansaError())
        return Response(found.content, headers={"Content-Type": found.kind, "Cache-Control": FOREVER})

    def _render(self, template: str, session: Session | None, *, status: int = 200, **values: Any) -> Response:
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


def _address(request: Request) -> str:
    return request.client.host if request.client else ""


def _asked(request: Request) -> Asked:
    return Asked({**dict(request.query_params), **{key: str(value) for key, value in request.path_params.items()}})


async def _form_of(request: Request, who: str = "") -> Form:
    """A form's fields, and its file, if one came."""
    values: dict[str, str] = {}
    several: dict[str, list[str]] = {}
    content = b""
    async with request.form(max_files=1, max_fields=MOST_FIELDS, max_part_size=2**20) as form:
        for key, value in form.multi_items():
            if isinstance(value, UploadFile):
                content = await value.read()
            else:
                values[key] = value
                several.setdefault(key, []).append(value)
    values |= {key: str(value) for key, value in request.path_params.items()}
    return Form(values, {key: tuple(each) for key, each in several.items()}, content, who)


def _wants_json(request: Request) -> bool:
    return "application/json" in request.headers.get("accept", "")


def _json(content: Mapping[str, Any], status: int) -> Response:
    return Response(msgspec.json.encode(content), status, media_type="application/json")


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
    made.filters["number"] = lambda value: "–" if value is None else f"{value:.5f}"
    return made


def _moment(text: str) -> str:
    """A time in UTC without its fractions, as people read it."""
    return re.sub(r"^(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(\.\d+)?Z$", r"\1 \2", text)
