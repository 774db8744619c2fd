"""Which version of each consortium's file a service has taken: a file that does not go on from it is refused, so that no older copy
brings back a key that was revoked, or a member that was removed.

One small file for each consortium, in the service's folder. A members file that nobody signs has no versions, and leaves none.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from hansa.consortium.envelopes import Hex32
from hansa.consortium.members import Members
from hansa.errors import IdentityError, in_words
from hansa.files import make_folder, read_whole, write_whole


class SeenVersion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A version of a consortium's file: its number, from 1, and the digest of its statement in hex."""

    version: int
    digest: Hex32


def check_goes_on(members: Members, where: Path, seen: Path) -> None:
    """Refuse members that do not go on from the version that was taken before.

    Args:
        members: as they stand in the file `where`. seen: of the version that was taken, where there is one.

    Raises IdentityError.
    """
    if not seen.exists():
        return
    try:
        content = read_whole(seen)
    except (OSError, ValueError) as error:
        raise IdentityError(
            f"{seen}: cannot be read ({in_words(error)}); it says which version of {where} this service took: restore it from a back-up"
        ) from error
    check_goes_on_from(content, members, where, seen)


def check_goes_on_from(content: bytes, members: Members, where: Path, seen: Path) -> None:
    """`check_goes_on` of the bytes of the file `seen`, which may not be there yet. Raises IdentityError."""
    try:
        taken = msgspec.json.decode(content, type=SeenVersion, strict=True)
    except (ValueError, msgspec.MsgspecError) as error:
        raise IdentityError(
            f"{seen}: is damaged ({error}); it says which version of {where} this service took: restore it from a back-up"
        ) from error
    _require(members, taken, where, f"this service took before; take {seen} away where the consortium was founded anew")


def require_going_on(members: Members, held: Members, where: Path) -> None:
    """Refuse members, as they stand in the file `where`, that do not go on from those that are held. Raises IdentityError."""
    if held.standing is not None:
        taken = SeenVersion(version=held.standing.version, digest=held.standing.digest)
        _require(members, taken, where, "was read before; start again where the consortium was founded anew")


def _require(members: Members, taken: SeenVersion, where: Path, which: str) -> None:
    standing = members.standing
    digests = () if standing is None else standing.digests
    if not 1 <= taken.version <= len(digests) or digests[taken.version - 1] != taken.digest:
        found = "is a members file, which nobody signs" if standing is None else f"ends with version {len(digests)}"
        raise IdentityError(
            f"{where}: {found}, and does not go on from version {taken.version} ({taken.digest[:16]}), which {which}; "
            "ask a member for its newest copy",
            rule="a version follows the one that this member holds",
            cure="ask a member for its newest copy",
        )


def keep_seen(members: Members, seen: Path) -> None:
    """Keep which version was taken. Raises OutputError."""
    if members.standing is None:
        return
    taken = SeenVersion(version=members.standing.version, digest=members.standing.digest)
    content = msgspec.json.encode(taken) + b"\n"
    if not seen.exists() or read_whole(seen) != content:
        make_folder(seen.parent)
        write_whole(seen, content)
