"""What the console's pages read of a request, and how they answer as JSON."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from hansa.console.actions import Form
from hansa.console.member import Asked

MOST_FIELDS = 500


def address_of(request: Request) -> str:
    """Where a request comes from."""
    return request.client.host if request.client else ""


def asked_of(request: Request) -> Asked:
    """The values of its path and of its query."""
    return Asked({**dict(request.query_params), **{key: str(value) for key, value in request.path_params.items()}})


async def form_of(request: Request, who: str = "") -> Form:
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


def wants_json(request: Request) -> bool:
    """Whether a program asks."""
    return "application/json" in request.headers.get("accept", "")


def as_json(content: Mapping[str, object], status: int) -> Response:
    """An answer for a program."""
    return Response(msgspec.json.encode(content), status, media_type="application/json")
