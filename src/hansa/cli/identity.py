"""`hansa init`, and how every command opens a member's keys."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click
import msgspec

from hansa.cli.option_types import EXISTING, PATH
from hansa.printable import printable

if TYPE_CHECKING:
    from hansa.consortium.identity import Identity

Command = TypeVar("Command", bound=Callable[..., None])


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `hansa init --json` prints: the member, its fingerprint in base64 and as words, where its card is, and whether its keys
    are encrypted.
    """

    member: str
    fingerprint: str
    words: str
    card: str
    encrypted: bool


def asking() -> Callable[[str], str] | None:
    """What asks the person at the terminal for a passphrase; None where no person is there, as in a service."""
    if not sys.stdin.isatty():
        return None
    return lambda question: str(click.prompt(question, hide_input=True, err=True))


def with_identity(command: Command) -> Command:
    """Give a command the options of a member's keys; it takes them opened, as `member`."""

    @click.option("--identity", "folder", type=PATH, required=True, help="This member's folder of keys.")
    @click.option(
        "--key-file", type=EXISTING, help="File that opens encrypted keys; default: HANSA_PASSPHRASE, or a prompt."
    )
    @functools.wraps(command)
    def run(*arguments: Any, folder: Path, key_file: Path | None, **options: Any) -> None:
        command(*arguments, identity=open_identity(folder, key_file), **options)

    return cast("Command", run)


def open_identity(folder: Path, key_file: Path | None) -> Identity:
    """The identity in a folder. Raises IdentityError."""
    from hansa.consortium.identity import load_identity
    from hansa.consortium.key_files import Unlocking

    return load_identity(folder, Unlocking(key_file, asking()))


@click.command()
@click.argument("name")
@click.option("--folder", type=PATH, help="Where to put it; default NAME.identity.")
@click.option(
    "--days",
    type=click.IntRange(1, 3650),
    default=365,
    show_default=True,
    help="Validity of the certificate.",
)
@click.option(
    "--renew", type=PATH, help="Folder of the old identity: keep its key, make a new TLS key and certificate."
)
@click.option(
    "--key-file",
    type=PATH,
    help="Encrypt the keys under this file's content; one that is not there is made, of 32 random bytes.",
)
@click.option("--no-passphrase", is_flag=True, help="Leave the keys in the clear, for trials on one machine.")
@click.option(
    "--pkcs11", "module", type=EXISTING, help="Make the identity key in a token: the PKCS#11 library of its vendor."
)
@click.option("--token", help="Label of the token. Its PIN: the variable HANSA_PKCS11_PIN, or --pin-file.")
@click.option("--pin-file", type=EXISTING, help="File of mode 0600 with the token's PIN, now and later.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def init(
    name: str,
    folder: Path | None,
    days: int,
    renew: Path | None,
    key_file: Path | None,
    no_passphrase: bool,
    module: Path | None,
    token: str | None,
    pin_file: Path | None,
    as_json: bool,
) -> None:
    """Make a member's keys, encrypted, and its card, which goes to all other members.

    The passphrase is asked for, or taken from the variable HANSA_PASSPHRASE or from --key-file. With --pkcs11 the identity key is made
    in a token and never leaves it; the TLS key stays a file.
    """
    from hansa.consortium.identity import (
        CARD_FILE,
        check_name,
        create_identity,
        fingerprint,
        load_identity,
        renew_identity,
        save_identity,
    )
    from hansa.consortium.key_files import Unlocking, check_passphrase, make_key_file
    from hansa.consortium.tokens import make_token_key
    from hansa.consortium.words import words_of
    from hansa.errors import IdentityError
    from hansa.files import failed

    if no_passphrase and key_file is not None:
        raise IdentityError("--no-passphrase and --key-file exclude each other; give one")
    if (module is None) != (token is None) or (pin_file is not None and module is None):
        raise IdentityError("--pkcs11 and --token go together, and --pin-file with them")
    if module is not None and renew is not None:
        raise IdentityError("--renew keeps the identity key where it is; leave --pkcs11 and --token out")
    check_name(name)
    if key_file is not None and not key_file.exists():
        if renew is not None and _encrypted(renew):
            raise IdentityError(f"{key_file}: no such file; name the file that opens the keys in {renew}")
        try:
            make_key_file(key_file)
        except OSError as error:
            raise failed(key_file, error) from error
    unlocking = Unlocking(key_file, _asking_twice() if renew is None else asking())
    target = folder or Path(f"{name}.identity")
    if renew is None:
        passphrase = None if no_passphrase else check_passphrase(unlocking.passphrase(target))
        key = None if module is None or token is None else make_token_key(module, token, name, pin_file)
        made = create_identity(name, days, key=key)
    else:
        old = Unlocking(key_file if _encrypted(renew) else None, asking())
        made = renew_identity(load_identity(renew, old), days)
        if made.name != name:
            raise IdentityError(f"{renew}: holds the identity of {made.name!r}, not of {name!r}")
        passphrase = None if no_passphrase else check_passphrase(unlocking.passphrase(target))
    save_identity(made, target, passphrase)
    card = target / CARD_FILE
    if passphrase is None:
        click.echo(
            printable(f"{target}: the keys are not encrypted: whoever copies the folder is this member"), err=True
        )
    found = Made(name, fingerprint(made.public), words_of(made.public), str(card), passphrase is not None)
    if as_json:
        click.echo(msgspec.json.encode(found).decode())
    else:
        told = f"{card}: give this card to every member; fingerprint {found.fingerprint}\nwords: {found.words}"
        click.echo("\n".join(map(printable, told.splitlines())))


def _asking_twice() -> Callable[[str], str] | None:
    if asking() is None:
        return None
    return lambda question: str(click.prompt(question, hide_input=True, confirmation_prompt=True, err=True))


def _encrypted(folder: Path) -> bool:
    """Whether an identity's keys are encrypted; false where there are none, which reading them says."""
    from hansa.consortium.identity import TLS_KEY_FILE
    from hansa.consortium.key_files import is_encrypted
    from hansa.files import read_whole

    try:
        return is_encrypted(read_whole(folder / TLS_KEY_FILE))
    except (OSError, ValueError):
        return False
