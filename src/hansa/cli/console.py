"""`hansa console`: a member's pages for a browser. `hansa account`: who may sign in there."""

from __future__ import annotations

import contextlib
import ipaddress
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from hansa.cli.identity import asking
from hansa.cli.option_types import EXISTING
from hansa.cli.service import SERVICE
from hansa.errors import HansaError, IdentityError
from hansa.printable import printable

if TYPE_CHECKING:
    from hansa.console.book import Book

DEFAULT_LISTEN = "127.0.0.1:7490"
ROLE_NAMES = ("viewer", "operator", "officer")


class Listed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `hansa account list --json` prints of an account, one line each.

    `password` is whether one signs in, `passkeys` how many do.
    """

    name: str
    role: str
    changed: str
    password: bool
    passkeys: int


class Ready(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `hansa console --json` prints once: where the console is, and the link that signs in an operator, once; empty where
    there is none.
    """

    address: str
    link: str


@click.command()
@click.argument("service", type=EXISTING)
@click.option("--listen", default=DEFAULT_LISTEN, show_default=True, metavar="ADDRESS:PORT", help="Where it listens.")
@click.option(
    "--name", "names", multiple=True, metavar="HOST", help="Another name by which browsers reach it; repeatable."
)
@click.option("--tls-certificate", type=EXISTING, help="PEM file of the certificate that browsers are shown.")
@click.option("--tls-key", type=EXISTING, help="PEM file of its key.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object once it is there.")
def console(
    service: Path,
    listen: str,
    names: tuple[str, ...],
    tls_certificate: Path | None,
    tls_key: Path | None,
    as_json: bool,
) -> None:
    """Show the member whose service's file is SERVICE on pages for a browser, until a signal ends it.

    On the machine itself it prints a link that signs in an operator, once; accounts sign in by name and password. Over a network it
    asks for TLS and for accounts.
    """
    with _needing_packages():
        from hansa.console.server import Listening, listening, serve

    where = _where(listen)
    host, port = where
    loopback = _is_loopback(host)
    if (tls_certificate is None) != (tls_key is None):
        raise HansaError("--tls-certificate and --tls-key go together; give both")
    if not loopback and tls_certificate is None:
        raise HansaError(
            f"{listen}: a console that is reached over a network needs --tls-certificate and --tls-key; or listen at 127.0.0.1",
            rule="nothing crosses the network in the clear",
        )
    made = listening(service, host, port, names, tls_certificate, tls_key, with_link=loopback)
    if not loopback and not made.accounts:
        raise HansaError(
            f"{service}: a console that is reached over a network needs accounts; make one by `hansa account set`"
        )

    def there(at: Listening) -> None:
        if as_json:
            click.echo(json.dumps(msgspec.to_builtins(Ready(address=at.address, link=at.link))))
        else:
            link = f"; an operator signs in, once, by\n{at.link}" if at.link else ""
            click.echo("\n".join(map(printable, f"the console is at {at.address}{link}".split("\n"))))

    serve(made, there)


@click.group()
def account() -> None:
    """Accounts of a console: who may sign in, and what they may do."""


@account.command("set")
@click.argument("name")
@SERVICE
@click.option("--role", type=click.Choice(ROLE_NAMES), required=True, help="What it may do.")
@click.option("--password-file", type=EXISTING, help="File of mode 0600 with the password; default: a prompt.")
def set_(name: str, service_file: Path, role: str, password_file: Path | None) -> None:
    """Make the account NAME, or give it another role and password; its passkeys stay. Sessions that it has end."""
    from hansa.node.config import read_password

    with _needing_packages():
        from hansa.console.accounts import account_of
        from hansa.console.book import ROLES

    if password_file is not None:
        password = read_password(password_file, "the account's password")
    elif asking() is not None:
        password = str(click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    else:
        raise IdentityError("nobody can be asked for the password; give --password-file")
    book = _book(service_file)
    made = account_of(name, next(own for own in ROLES if own == role), password)
    book.put_account(made)
    book.note("command", "account set", made.name, f"made or changed, role {made.role}", done=True)
    click.echo(printable(f"{made.name}: {made.role}"))


@account.command()
@click.argument("name")
@SERVICE
def remove(name: str, service_file: Path) -> None:
    """Remove the account NAME and its passkeys. Sessions that it has end."""
    book = _book(service_file)
    book.remove_account(name)
    book.note("command", "account remove", name, "removed", done=True)
    click.echo(printable(f"{name}: removed"))


@account.command("list")
@SERVICE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def list_(service_file: Path, as_json: bool) -> None:
    """List accounts."""
    for own in _book(service_file).accounts():
        listed = Listed(
            name=own.name, role=own.role, changed=own.changed, password=bool(own.hashed), passkeys=len(own.passkeys)
        )
        text = json.dumps(msgspec.to_builtins(listed))
        means = [
            *(["password"] if listed.password else []),
            *([f"{listed.passkeys} passkeys"] if listed.passkeys else []),
        ]
        told = f"{listed.name}: {listed.role}, set {listed.changed}, signs in by {' or '.join(means)}"
        click.echo(text if as_json else printable(told))


@account.command("actions")
@SERVICE
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
def actions_(service_file: Path, as_json: bool) -> None:
    """List what people did at the console, or were refused, the oldest first; exit status 1 where one was altered or taken out."""
    book = _book(service_file)
    for own in reversed(book.actions(0, book.count_actions())):
        who, how = own.who or "nobody", "done" if own.done else "REFUSED"
        text = json.dumps(msgspec.to_builtins(own))
        click.echo(
            text if as_json else printable(f"{own.number} {own.at} {who}: {own.what} {own.about}: {how}: {own.text}")
        )
    if broken := book.broken_at():
        raise HansaError(
            f"{book.path}: action {broken} was altered, or one before it was taken out; compare with a copy",
            rule="actions are only added",
        )


@contextlib.contextmanager
def _needing_packages() -> Iterator[None]:
    """Say what is to be installed where the console's packages are not. Raises HansaError."""
    try:
        yield
    except ImportError as error:
        raise HansaError(
            f"the console needs more packages ({error}): pip install 'hansa[console]'",
            cure="pip install 'hansa[console]'",
        ) from None


def _book(service_file: Path) -> Book:
    from hansa.console.book import Book
    from hansa.service.config import read_service_file

    return Book(read_service_file(service_file, open_keys=False).state)


def _where(listen: str) -> tuple[str, int]:
    host, colon, port = listen.rpartition(":")
    if not colon or not host or not port.isdigit() or int(port) > 65535:
        raise HansaError(f"--listen {listen!r:.100}: write an address and a port, such as {DEFAULT_LISTEN}")
    return host.removeprefix("[").removesuffix("]"), int(port)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
