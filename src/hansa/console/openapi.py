"""The document that describes every endpoint of the console (OpenAPI 3.1), made of the table of pages and actions."""

from __future__ import annotations

import re

import msgspec

from hansa.console.actions import Done
from hansa.console.pages import ACTS, DOWNLOADS, PAGES, api_path
from hansa.version import __version__


class Refusal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a request was not served, in one sentence."""

    error: str


def document() -> bytes:
    """The document, as JSON."""
    shown = [*(page.shows for page in PAGES), Done, Refusal]
    schemas, components = msgspec.json.schema_components(shown, ref_template="#/components/schemas/{name}")
    of = dict(zip(shown, schemas, strict=True))
    refused = {"description": "Not served", "content": {"application/json": {"schema": of[Refusal]}}}
    paths: dict[str, dict[str, object]] = {}
    for page in PAGES:
        query = [{"name": "page", "in": "query", "schema": {"type": "integer", "minimum": 1}}]
        paths[api_path(page)] = {
            "get": {
                "operationId": page.name,
                "summary": page.title,
                "description": _same_as(page.command),
                "parameters": [*_parameters(page.path), *(query if "paging" in page.shows.__struct_fields__ else [])],
                "responses": {"200": _json(of[page.shows]), "401": refused, "404": refused, "422": refused},
            }
        }
    for download in DOWNLOADS:
        paths.setdefault(download.path, {})["get"] = {
            "operationId": f"save {_words(download.path)}",
            "description": _same_as(download.command),
            "parameters": _parameters(download.path),
            "responses": {"200": {"description": "The file", "content": {download.kind: {}}}, "404": refused},
        }
    for act in ACTS:
        texts = {name: {"type": "string"} for name in ("csrf", *act.fields)}
        fields = {**texts, **({"file": {"type": "string", "format": "binary"}} if act.file else {})}
        kind = "multipart/form-data" if act.file else "application/x-www-form-urlencoded"
        paths.setdefault(act.path, {})["post"] = {
            "operationId": act.name,
            "summary": (act.do.__doc__ or "").splitlines()[0],
            "description": f"Needs the role {act.role}. {_same_as(act.command)}".strip(),
            "parameters": _parameters(act.path),
            "requestBody": {
                "required": True,
                "content": {kind: {"schema": {"type": "object", "required": ["csrf"], "properties": fields}}},
            },
            "responses": {"200": _json(of[Done]), "403": refused, "422": refused},
        }
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "Hansa's console", "version": __version__},
        "paths": paths,
        "components": {"schemas": components},
    }
    return msgspec.json.encode(whole)


def _same_as(command: str) -> str:
    return f"As the command `{command}`." if command else ""


def _words(path: str) -> str:
    return " ".join(part for part in re.split(r"[/{}]", path) if part)


def _parameters(path: str) -> list[dict[str, object]]:
    names = re.findall(r"\{(\w+)\}", path)
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names]


def _json(schema: object) -> dict[str, object]:
    return {"description": "As asked for", "content": {"application/json": {"schema": schema}}}
