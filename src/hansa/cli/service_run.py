"""The process of one run of a service; started by `service.supervisor`, never by people."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec

from hansa.cli import output
from hansa.cli.signals import Interrupted, interrupting
from hansa.errors import AGAIN, HansaError, exit_status
from hansa.node import logs
from hansa.node.config import read_member_file
from hansa.node.events import Ended, Event, Failed, OnEvent
from hansa.node.record import Failure, failure_of
from hansa.node.run import Command, check_command, run_once
from hansa.service.inbox import check_keys
from hansa.service.supervisor import REVOKED_SIGNAL
from hansa.transport.routing import HandedListener, when_gone

OTHER_FILE = (
    "is another file than the service took, and the run waits until it has taken this one, or another is put here"
)


def main(arguments: list[str]) -> int:
    """Play the run; events are lines of JSON on standard output, the last is the record or the error. The exit status.

    Args:
        arguments: descriptor of the local socket to the service, the member's file, the command that plays it, the run's name, host
            and port where the service listens, the state of the members file that the service took, and format and level of log lines.
    """
    descriptor, member_file, command, name, host, port, state, log_format, log_level = arguments
    channel = socket.socket(fileno=int(descriptor))
    with interrupting(), logs.logging_to(output.err, log_format, log_level, name):
        try:
            when_gone(channel, signal.SIGTERM)
            member = read_member_file(Path(member_file))
            if member.members.state() != state:
                return _failed(
                    Failure(kind="IdentityError", text=f"{member.members_path}: {OTHER_FILE}", retry=True), AGAIN
                )
            check_command(member, cast("Command", command))
            signal.signal(REVOKED_SIGNAL, lambda *_: check_keys(member))
            member = replace(member, open_listener=lambda *_: HandedListener(channel, host, int(port)))
            with output.telling(False, lines=True) as tell:
                record = run_once(member, _to_service(tell))
            _say(Ended(record=record))
        except Interrupted as interrupt:
            return _failed(Failure(kind="Interrupted", text=f"stopped by {interrupt}", retry=True), interrupt.status)
        except HansaError as error:
            return _failed(failure_of(error), exit_status(error))
    return 0


def _to_service(tell: OnEvent) -> OnEvent:
    """Events for the service; where it is gone this process ends, as when the service asks for it."""

    def told(event: Event) -> None:
        try:
            tell(event)
        except BrokenPipeError:
            raise Interrupted(signal.SIGTERM) from None

    return told


def _failed(failure: Failure, status: int) -> int:
    _say(Failed(**msgspec.structs.asdict(failure)))
    return status


def _say(last: Ended | Failed) -> None:
    """The last line, for the service; one that is gone finds it in the run's record."""
    with contextlib.suppress(BrokenPipeError):
        output.print_line(last)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
