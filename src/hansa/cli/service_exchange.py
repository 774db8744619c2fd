"""The process that exchanges one consortium's proposals for a service; started by `service.supervisor`, never by people."""

from __future__ import annotations

import logging
import signal
import socket
import sys
from pathlib import Path

from hansa.cli import output
from hansa.cli.signals import Interrupted, interrupting
from hansa.consortium.identity import load_identity
from hansa.consortium.key_files import Unlocking
from hansa.errors import AGAIN, HansaError, exit_status
from hansa.node import logs
from hansa.node.config import address_of, proxy_of
from hansa.service.config import read_service_file
from hansa.service.exchange import Exchange
from hansa.transport.routing import HandedListener, when_gone


def main(arguments: list[str]) -> int:
    """Exchange until the members file changes; the exit status, which says whether to start again.

    Args:
        arguments: descriptor of the local socket to the service, the service's file, the consortium's name there, host and port where
            the service listens, and format and level of log lines.
    """
    descriptor, file, name, host, port, log_format, log_level = arguments
    channel = socket.socket(fileno=int(descriptor))
    with interrupting(), logs.logging_to(output.err, log_format, log_level, "exchange"):
        try:
            when_gone(channel, signal.SIGTERM)
            service = read_service_file(Path(file), open_keys=False)
            consortium = service.consortium(name)
            identity = load_identity(consortium.folder, Unlocking(consortium.key_file))
            exchange = Exchange(consortium, identity, service.proposals_of(consortium))
            if consortium.exchange == identity.name:
                exchange.serve(host, int(port), lambda *_: HandedListener(channel, host, int(port)))
            else:
                document = service.document
                proxy = proxy_of(document.proxy, document.proxy_password_file, service.path)
                exchange.dial(*address_of(consortium.hub, "hub", service.path), proxy)
        except Interrupted as interrupt:
            return interrupt.status
        except HansaError as error:
            logs.note(logging.ERROR, f"proposals are not exchanged: {error}")
            return exit_status(error)
    return AGAIN


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
