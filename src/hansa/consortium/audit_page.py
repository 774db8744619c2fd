"""One run out of a member's audit log, for an auditor: a page of HTML without a script, with the signed record inside.

The record is a statement (in-toto in DSSE, `envelopes`) that the log's member signs. It holds the run's lines as they stand in the log,
each with the proof that it is an entry of the log under a signed head (RFC 9162). The page follows from the record: whoever checks it
writes the page anew and compares the bytes, so that nothing that is read on it was changed.
"""

from __future__ import annotations

import html
import re
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta
from pymerkle import InclusionProof, InvalidProof, verify_inclusion

from hansa.consortium.audit_checks import CheckedLog, Comparison, Disagreement, compare_entries, entries_of, find_run
from hansa.consortium.audit_entries import CheckpointsSeen, Head, RunBegun, Signature, read_line, written_line
from hansa.consortium.audit_log import HEAD_PURPOSE, head_bytes, new_tree
from hansa.consortium.audit_table import told
from hansa.consortium.envelopes import (
    STATEMENT_TYPE,
    Digest,
    EnvelopeJson,
    Hex32,
    InTotoStatement,
    Moment,
    Subject,
    encoded,
    opened,
    sealed,
    sign,
    verified,
)
from hansa.consortium.identity import Identity, fingerprint, verify
from hansa.consortium.members import Members
from hansa.errors import IdentityError, PlanError, StateError

EXPORT_TYPE: Final = "urn:hansa:audit-export:1"
OPENING = b"<!doctype html>"
_RECORD = re.compile(rb'<script type="application/json" id="record">(.*?)</script>', re.DOTALL)

Place = Annotated[int, Meta(ge=1)]
Bit = Annotated[int, Meta(ge=0, le=1)]


class ExportedEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line of the log, its place from 1, and the proof that it stands there: rule and path as `pymerkle` gives them."""

    place: Place
    line: str
    rule: tuple[Bit, ...]
    path: tuple[Hex32, ...]


class ExportPredicate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose log it is, under which identity; the log's name; the run; and a signed head that all entries are under."""

    member: str
    identity: Hex32
    log: Hex32
    run: Hex32
    written: Moment
    size: Place
    root: Hex32
    signature: Signature
    entries: tuple[ExportedEntry, ...]


class ExportStatement(InTotoStatement, frozen=True, forbid_unknown_fields=True):
    """One run of a log. The subject is the run."""

    predicate_type: Literal["urn:hansa:audit-export:1"] = msgspec.field(name="predicateType")
    predicate: ExportPredicate


class ExportReport(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `hansa audit verify --json` prints of an exported run."""

    member: str
    identity: str
    log: str
    run: str
    entries: int
    pinned: bool

    def lines(self) -> list[str]:
        """For people."""
        known = (
            "as the members file has it" if self.pinned else "not held to a members file: compare it, or give --members"
        )
        return [
            f"run {self.run}, {self.entries} entries of the log {self.log} of {self.member}: none altered; the page shows them",
            f"identity {self.identity}: {known}",
        ]


def export_run(log: CheckedLog, run: str, member: Identity, moment: Moment) -> bytes:
    """The page of one run of a checked log, signed by the log's member. run: the whole id. moment: when.

    Raises IdentityError where the identity is not the log's.
    """
    if member.public != log.identity:
        raise IdentityError(
            f"{log.path}: is the log of another identity than {member.name!r}; the log's member exports its runs"
        )
    tree = new_tree()
    for entry in log.entries:
        tree.append_entry(written_line(entry))
    size = len(log.entries)
    root = tree.get_root(size)
    found = []
    for place, entry in entries_of(log, run):
        proof = tree.prove_inclusion(place, size)
        path = tuple(digest.hex() for digest in proof.path)
        found.append(ExportedEntry(place, written_line(entry).decode("utf-8"), tuple(proof.rule), path))
    predicate = ExportPredicate(
        member=log.member,
        identity=log.identity.hex(),
        log=log.name.hex(),
        run=run,
        written=moment,
        size=size,
        root=root.hex(),
        signature=member.sign(HEAD_PURPOSE, head_bytes(log.name, size, root)).hex(),
        entries=tuple(found),
    )
    payload = encoded(ExportStatement(STATEMENT_TYPE, (Subject("run", Digest(run)),), EXPORT_TYPE, predicate))
    return _page(predicate, sealed(payload, {member.public: sign(member, payload)}))


def is_page(content: bytes) -> bool:
    """Whether a file that holds a log holds an exported run."""
    return content.startswith(OPENING)


def check_page(content: bytes, where: str, members: Members | None = None) -> ExportReport:
    """Check an exported run: its signature, the proof of every entry, and that the page shows what the record holds.

    Raises StateError: the page or an entry was altered. PlanError, IdentityError: no record, or another's signature.
    """
    predicate = _checked(content, where, members)
    return ExportReport(
        member=predicate.member,
        identity=fingerprint(bytes.fromhex(predicate.identity)),
        log=predicate.log,
        run=predicate.run,
        entries=len(predicate.entries),
        pinned=members is not None,
    )


def compare_page(log: CheckedLog, content: bytes, where: str, members: Members) -> Comparison:
    """Hold what a log says of a run to what another member's exported page says of it, once that is checked.

    The page holds one run: of the rest of the other's log only that it is no other log, and not shorter, than what its member showed
    before and after this run.

    Raises as `check_page`; PlanError where the page is of the log's own member, or of a run that the log does not hold.
    """
    predicate = _checked(content, where, members)
    if predicate.member == log.member:
        raise PlanError(f"{where}: is an export of {log.member!r} itself; give another member's")
    run = find_run(log, predicate.run)
    held = []
    for place, entry in entries_of(log, run):
        shown = entry.shown.get(predicate.member) if isinstance(entry, CheckpointsSeen) else None
        if shown is None:
            continue
        other_root = shown.size == predicate.size and shown.root != predicate.root
        if shown.log != predicate.log or shown.size > predicate.size or other_root:
            what = f"the log of {predicate.member}, as it showed it ({log.member}'s entry {place})"
            says = f"log {shown.log}, {shown.size} entries with the root {shown.root}"
            holds = f"log {predicate.log}, {predicate.size} entries with the root {predicate.root}"
            held.append(Disagreement(what, says, holds))
    lines = (read_line(each.line.encode("utf-8")) for each in predicate.entries)
    entries = [line for line in lines if not isinstance(line, Head)]
    return compare_entries(log, predicate.member, entries, run, held)


def _checked(content: bytes, where: str, members: Members | None) -> ExportPredicate:
    """What an exported page holds, once everything in it is checked."""
    match = _RECORD.search(content)
    if match is None:
        raise PlanError(f"{where}: holds no record of a run; ask for the file anew")
    try:
        envelope = msgspec.json.decode(match[1], type=EnvelopeJson, strict=True)
    except (ValueError, msgspec.MsgspecError) as error:
        raise PlanError(f"{where}: the record in it is damaged ({error}); ask for the file anew") from error
    statement, payload, signatures = opened(envelope, ExportStatement, where)
    predicate = statement.predicate
    identity = bytes.fromhex(predicate.identity)
    if members is not None and (predicate.member not in members or members[predicate.member].identity != identity):
        raise IdentityError(f"{where}: is of another identity of {predicate.member!r} than the members file has")
    if not verified(where, payload, signatures, {predicate.member: identity}):
        raise IdentityError(f"{where}: is not signed by {predicate.member!r}, whose log it says to be of")
    root = bytes.fromhex(predicate.root)
    head = head_bytes(bytes.fromhex(predicate.log), predicate.size, root)
    verify(identity, HEAD_PURPOSE, head, bytes.fromhex(predicate.signature))
    for entry in predicate.entries:
        _check_entry(entry, predicate, root, where)
    if _page(predicate, envelope) != content:
        raise StateError(f"{where}: the page shows something else than the signed record in it; ask for the file anew")
    return predicate


def _check_entry(entry: ExportedEntry, predicate: ExportPredicate, root: bytes, where: str) -> None:
    path = [bytes.fromhex(digest) for digest in entry.path]
    proof = InclusionProof("sha256", True, predicate.size, entry.place, list(entry.rule), path)
    leaf = new_tree().hash_buff(entry.line.encode("utf-8"))
    try:
        read_line(entry.line.encode("utf-8"))
        verify_inclusion(leaf, root, proof, index=entry.place, size=predicate.size, algorithm="sha256")
    except (InvalidProof, ValueError) as error:
        raise StateError(
            f"{where}: entry {entry.place} is none of the log that was signed ({error}); ask for the file anew"
        ) from error


STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#1a1a1a;background:#fff}"
    "table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.3em .6em;border-bottom:1px solid #ccc}"
    "td{overflow-wrap:anywhere}"
    "code{word-break:break-all}"
    "@media screen and (prefers-color-scheme:dark){body{color:#e6e9ed;background:#14181d}td,th{border-color:#3d4650}}"
)
"""The style of an exported page, which a Content-Security-Policy may allow by its hash."""


def _page(predicate: ExportPredicate, envelope: EnvelopeJson) -> bytes:
    """The page of a record."""
    rows = []
    plan = mode = ""
    for each in predicate.entries:
        entry = read_line(each.line.encode("utf-8"))
        if isinstance(entry, Head):
            raise StateError(f"entry {each.place} is a head, which is no entry")
        if isinstance(entry, RunBegun):
            plan, mode = entry.plan, entry.mode
        what, of = told(entry)
        cells = (str(each.place), entry.at, what, of)
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    facts = {
        "Run": predicate.run,
        "Mode": mode,
        "Plan": plan,
        "Member": predicate.member,
        "Identity": fingerprint(bytes.fromhex(predicate.identity)),
        "Log": predicate.log,
        "Written": f"{predicate.written:%Y-%m-%d %H:%M:%S} UTC, when the log had {predicate.size} entries",
    }
    told_facts = "".join(
        f"<tr><th>{html.escape(name)}</th><td><code>{html.escape(value)}</code></td></tr>"
        for name, value in facts.items()
    )
    record = msgspec.json.encode(envelope).replace(b"<", b"\\u003c")
    text = (
        f'{OPENING.decode()}\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>Run {html.escape(predicate.run[:16])}</title>'
        f"<style>{STYLE}</style></head><body>\n<h1>A run, as {html.escape(predicate.member)} recorded it</h1>\n"
        f"<table>{told_facts}</table>\n<h2>Entries of the log</h2>\n"
        f"<table><tr><th>Entry</th><th>Time (UTC)</th><th>What</th><th>Of it</th></tr>\n{chr(10).join(rows)}\n</table>\n"
        "<p>This file holds the signed record that the page is made of. <code>hansa audit verify</code> checks its signature, that "
        "each entry stands in the member's log, and that the page shows nothing else.</p>\n"
        '<script type="application/json" id="record">'
    )
    return text.encode("utf-8") + record + b"</script>\n</body></html>\n"
