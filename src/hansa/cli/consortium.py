"""`hansa consortium`: found one, invite, join and add members, remove, revoke and rotate keys, sign, merge, show and export."""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from hansa.cli.identity import open_identity, with_identity
from hansa.cli.option_types import EXISTING, PATH
from hansa.printable import printable

if TYPE_CHECKING:
    from hansa.consortium.identity import Identity
    from hansa.consortium.versions import Consortium

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
SAVE = click.option("--save", type=PATH, help="Where to write the consortium's file; default: in its place.")
REASON = click.option("--reason", required=True, help="Why, for the others to read.")


class MemberShown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member: its fingerprint as words and in base64, and until when its certificate is valid."""

    member: str
    words: str
    fingerprint: str
    valid_until: datetime


class VersionShown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A version: what it changed, for whom, when it was made, who signed it and who still has to."""

    version: int
    kind: str
    members: tuple[str, ...]
    created: datetime
    digest: str
    signed_by: tuple[str, ...]
    missing: tuple[str, ...]


class EarlierShown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A key that a member had before it took another: the fingerprint in base64."""

    member: str
    fingerprint: str


class RevokedShown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A revoked key: whose it was, its fingerprint in base64, the version that says so, and why."""

    member: str
    fingerprint: str
    version: int
    reason: str


class Shown(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What every `hansa consortium` command prints with `--json`, of the file that it read or wrote.

    `members_digest` is the digest of the members, as `hansa members` and records print it.
    """

    consortium: str
    members_digest: str
    members: tuple[MemberShown, ...]
    versions: tuple[VersionShown, ...]
    earlier: tuple[EarlierShown, ...]
    revoked: tuple[RevokedShown, ...]


@click.group()
def consortium() -> None:
    """Found a consortium, whose members all sign its file; invite, add and remove members; revoke and rotate keys."""


def with_consortium(command: Callable[..., Consortium]) -> Callable[..., None]:
    """Give a command the consortium's file, `--save`, `--json` and `--anew`; it gives back what is to be written."""

    @click.option(
        "--consortium", "path", type=EXISTING, required=True, help="The consortium's file, which this member holds."
    )
    @click.option("--anew", is_flag=True, help="Drop a last version that was never signed by all that it needs.")
    @SAVE
    @AS_JSON
    @functools.wraps(command)
    def run(*arguments: Any, path: Path, anew: bool, save: Path | None, as_json: bool, **options: Any) -> None:
        from hansa.consortium.versions import read_consortium, without_pending, write_consortium
        from hansa.files import check_outputs

        check_outputs({} if save is None or save == path else {"--save": save}, {})
        held = read_consortium(path)
        made = command(*arguments, held=without_pending(held) if anew else held, **options)
        write_consortium(save or path, made)
        _tell(made, save or path, as_json)

    return run


@consortium.command()
@click.argument("name")
@click.argument("cards", nargs=-1, type=EXISTING)
@with_identity
@click.option(
    "--save",
    type=PATH,
    default=Path("consortium.json"),
    show_default=True,
    help="Where to write the consortium's file.",
)
@AS_JSON
def create(name: str, cards: tuple[Path, ...], identity: Identity, save: Path, as_json: bool) -> None:
    """Found the consortium NAME of this member and of those whose CARDS are given; they sign its file too."""
    from hansa.consortium.members import read_members
    from hansa.consortium.versions import found, write_consortium
    from hansa.errors import IdentityError

    if save.exists():
        raise IdentityError(f"{save}: is there already; name another file for a new consortium")
    made = found(name, [card for path in cards for card in read_members(path).values()], identity)
    write_consortium(save, made)
    _tell(made, save, as_json)


@consortium.command()
@click.argument("member")
@click.option(
    "--consortium", "path", type=EXISTING, required=True, help="The consortium's file, which this member holds."
)
@with_identity
@click.option("--days", type=click.IntRange(1, 90), default=7, show_default=True, help="How long it may be answered.")
@click.option("--save", type=PATH, required=True, help="Where to write the invitation, which goes to the new member.")
def invite(member: str, path: Path, identity: Identity, days: int, save: Path) -> None:
    """Invite MEMBER: write a file to send, and print the code to tell by telephone."""
    from hansa.consortium.invitations import invite, told
    from hansa.consortium.versions import read_consortium
    from hansa.files import check_outputs, write_whole

    check_outputs({"--save": save}, {"--consortium": path})
    content, code = invite(read_consortium(path), member, identity, days)
    write_whole(save, content, private=False)
    click.echo(printable(f"{save}: send it to {member}; tell it this code by telephone, and nobody else:"))
    click.echo(code)
    click.echo("and your own words, which it compares:")
    click.echo(printable(told({identity.name: identity.card()})[0]))


@consortium.command()
@click.argument("invitation", type=EXISTING)
@with_identity
@click.option("--code", help="The code that the inviter told; asked for where it is not given.")
@click.option("--save", type=PATH, required=True, help="Where to write the answer, which goes to the inviter.")
def join(invitation: Path, identity: Identity, code: str | None, save: Path) -> None:
    """Answer INVITATION with this member's card; the code binds the two."""
    from hansa.consortium.invitations import answer, read_invitation
    from hansa.consortium.words import words_of
    from hansa.files import check_outputs, write_whole

    check_outputs({"--save": save}, {"INVITATION": invitation})
    read = read_invitation(invitation)
    own = read.predicate
    click.echo(printable(f"{own.inviter} invites {own.member} to {own.consortium}; its words:"))
    click.echo(words_of(bytes.fromhex(own.identity)))
    given = code if code is not None else click.prompt("Code", err=True)
    write_whole(save, answer(read, given, identity), private=False)
    click.echo(printable(f"{save}: send it to {own.inviter}, and read it your words by telephone:"))
    click.echo(words_of(identity.public))


@consortium.command()
@click.argument("answers", nargs=-1, required=True, type=EXISTING)
@with_identity
@with_consortium
def add(answers: tuple[Path, ...], identity: Identity, held: Consortium) -> Consortium:
    """Add the members whose ANSWERS to this member's invitations came back; all members then sign the file."""
    from hansa.consortium.invitations import read_answer
    from hansa.consortium.versions import added

    read = [read_answer(path, held, identity) for path in answers]
    return added(held, [card for card, _ in read], [invitation for _, invitation in read], identity)


@consortium.command()
@click.argument("member")
@with_identity
@with_consortium
def remove(member: str, identity: Identity, held: Consortium) -> Consortium:
    """Remove MEMBER; all members that stay sign the file."""
    from hansa.consortium.versions import removed

    return removed(held, member, identity)


@consortium.command()
@click.argument("member")
@REASON
@click.option(
    "--key", metavar="FINGERPRINT", help="A key that MEMBER had before; it stays a member. Default: its present key."
)
@with_identity
@with_consortium
def revoke(member: str, reason: str, key: str | None, identity: Identity, held: Consortium) -> Consortium:
    """Remove MEMBER and revoke its key: signed by that key itself, or by all other members."""
    from hansa.consortium.identity import read_fingerprint
    from hansa.consortium.versions import revoked

    return revoked(held, member, reason, identity, None if key is None else read_fingerprint(key))


@consortium.command()
@click.option(
    "--new", "new_folder", type=PATH, required=True, help="Folder of the new identity, or of the renewed one."
)
@click.option(
    "--new-key-file", type=EXISTING, help="File that opens the keys in it; default: HANSA_PASSPHRASE, or a prompt."
)
@with_identity
@with_consortium
def rotate(new_folder: Path, new_key_file: Path | None, identity: Identity, held: Consortium) -> Consortium:
    """Change this member's card: to another identity key, which the old one signs too, or to a renewed certificate.

    Where the old key is lost, --identity is the new one too, and all other members sign.
    """
    from hansa.consortium.versions import rotated

    new = open_identity(new_folder, new_key_file)
    return rotated(held, new, [new] if identity.public == new.public else [identity, new])


@consortium.command()
@click.option(
    "--held",
    "held_file",
    type=EXISTING,
    help="The file that this member held so far: what it signs must go on from it.",
)
@with_identity
@with_consortium
def sign(identity: Identity, held: Consortium, held_file: Path | None) -> Consortium:
    """Sign the last version. Read `hansa consortium show` first, and compare the words of new members by telephone."""
    from hansa.consortium.versions import merged, read_consortium, signed

    if held_file is not None:
        merged(held, read_consortium(held_file))
    return signed(held, identity)


@consortium.command()
@click.argument("copies", nargs=-1, required=True, type=EXISTING)
@click.option(
    "--save",
    type=PATH,
    required=True,
    help="Where to write it; a file that is there is the one that this member holds.",
)
@AS_JSON
def merge(copies: tuple[Path, ...], save: Path, as_json: bool) -> None:
    """Join the signatures and versions in COPIES of a consortium's file.

    The file --save is replaced only by one that goes on from it.
    """
    from hansa.consortium.versions import merged, read_consortium, write_consortium

    held = [save] if save.exists() and save not in copies else []
    made = merged(*(read_consortium(path) for path in (*held, *copies)))
    write_consortium(save, made)
    _tell(made, save, as_json)


@consortium.command()
@click.argument("file", type=EXISTING)
@AS_JSON
def show(file: Path, as_json: bool) -> None:
    """Check the consortium's FILE; print its members with their fingerprints, its versions and who signed them."""
    from hansa.consortium.versions import read_consortium

    _tell(read_consortium(file), file, as_json)


@consortium.command()
@click.argument("file", type=EXISTING)
@click.option("--save", type=PATH, required=True, help="Where to write the members file.")
def export(file: Path, save: Path) -> None:
    """Write the members of the consortium's FILE as a members file, for tools that read TOML; nobody's signature is in it."""
    from hansa.consortium.members import write_members
    from hansa.consortium.versions import read_pinned
    from hansa.files import check_outputs

    check_outputs({"--save": save}, {"FILE": file})
    members = read_pinned(file)
    write_members(save, members)
    click.echo(printable(f"{save}: {len(members)} members, digest {members.digest().hex()}"))


def _tell(made: Consortium, path: Path, as_json: bool) -> None:
    shown = _shown(made)
    click.echo(msgspec.json.encode(shown).decode() if as_json else "\n".join(map(printable, _lines(shown, path))))


def _shown(made: Consortium) -> Shown:
    from cryptography import x509

    from hansa.consortium.identity import fingerprint
    from hansa.consortium.words import words_of

    return Shown(
        made.name,
        made.head.members.digest().hex(),
        tuple(
            MemberShown(
                name,
                words_of(card.identity),
                fingerprint(card.identity),
                x509.load_der_x509_certificate(card.certificate).not_valid_after_utc,
            )
            for name, card in made.head.members.items()
        ),
        tuple(
            VersionShown(
                own.predicate.version,
                own.change.kind,
                own.change.members,
                own.predicate.created,
                own.digest,
                tuple(sorted(own.signatures)),
                own.missing,
            )
            for own in made.versions
        ),
        tuple(EarlierShown(name, fingerprint(key)) for key, name in made.standing().earlier.items()),
        tuple(
            RevokedShown(own.member, fingerprint(bytes.fromhex(own.identity)), own.version, own.reason)
            for own in made.head.predicate.revoked
        ),
    )


def _lines(shown: Shown, path: Path) -> list[str]:
    last = shown.versions[-1]
    lines = [
        f"{path}: {shown.consortium}, version {last.version}, {len(shown.members)} members, digest {shown.members_digest}"
    ]
    lines += [f"  {own.member:<24} {own.words}  {own.fingerprint}" for own in shown.members]
    lines += [
        f"version {own.version}, {own.created:%Y-%m-%d %H:%M} UTC: {own.kind} {', '.join(own.members)}; "
        f"signed by {', '.join(own.signed_by)}"
        for own in shown.versions
    ]
    lines += [f"earlier: a key of {own.member} ({own.fingerprint})" for own in shown.earlier]
    lines += [
        f"revoked: a key of {own.member} ({own.fingerprint}), version {own.version}: {own.reason}"
        for own in shown.revoked
    ]
    done = "it holds; send it to all members"
    return [*lines, f"still to sign: {', '.join(last.missing)}" if last.missing else done]
