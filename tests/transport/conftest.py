"""A circle of members with real identities, and hubs that are closed when the test is over."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hansa.consortium.identity import CERTIFICATE_FILE, TLS_KEY_FILE, Identity, create_identity, save_identity
from hansa.transport.credentials import Credentials
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub
from hansa.transport.tls_links import HubLimits
from waiting import HANG_S

NOW = datetime.now(UTC)
LIMITS = HubLimits(frame_bytes=16 * 2**20, handshake_s=HANG_S, send_s=HANG_S)
"""A test that waits for one of these ends sets it lower itself."""


class Circle:
    """Members `hub`, `north`, `south`, `east`, and two whose certificates are no longer or not yet valid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        made = {name: create_identity(name) for name in ("hub", "north", "south", "east")}
        made["expired"] = create_identity("expired", days=1, now=NOW - timedelta(days=3))
        made["early"] = create_identity("early", now=NOW + timedelta(days=3))
        self.identities = made
        for name, identity in made.items():
            save_identity(identity, folder / name)
        self.certificates = {name: identity.certificate for name, identity in made.items()}

    def credentials(self, name: str) -> Credentials:
        own = self.identities[name]
        return Credentials(name, own.certificate, own.tls_key, self.certificates)

    def context(self, name: str) -> ssl.SSLContext:
        """A member's end by the standard library's TLS, another implementation, which a test may misuse as it likes."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.minimum_version = False, ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.load_verify_locations(cadata=self.certificates["hub"])
        context.load_cert_chain(self.folder / name / CERTIFICATE_FILE, self.folder / name / TLS_KEY_FILE)
        return context

    def outsider(self, name: str, folder: Path) -> Credentials:
        """Credentials of somebody with a fresh key, under any name, who knows the hub's certificate."""
        return self.holder(create_identity(name), folder)

    def holder(self, identity: Identity, folder: Path) -> Credentials:
        save_identity(identity, folder)
        own = {**self.certificates, identity.name: identity.certificate}
        return Credentials(identity.name, identity.certificate, identity.tls_key, own)

    def renewed_hub(self, folder: Path, **validity: object) -> Credentials:
        """Credentials of a hub whose certificate differs from the one that the members hold."""
        return self.holder(create_identity("hub", **validity), folder)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def circle(tmp_path_factory: pytest.TempPathFactory) -> Circle:
    folder = tmp_path_factory.mktemp("circle")
    folder.chmod(0o700)
    return Circle(folder)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


class Network:
    """Hubs on loopback and whoever dials them; all are closed at the end."""

    def __init__(self, circle: Circle, threads: ThreadPoolExecutor) -> None:
        self.circle = circle
        self.threads = threads
        self.open: list[TlsHub | TlsChannel | socket.socket] = []

    def hub(self, limits: HubLimits = LIMITS, **changes: object) -> TlsHub:
        allowed = changes.pop("allowed", None)
        credentials = changes.pop("credentials", self.circle.credentials("hub"))
        hub = TlsHub.listen(
            credentials,  # type: ignore[arg-type]
            "127.0.0.1",
            0,
            allowed=allowed,  # type: ignore[arg-type]
            limits=replace(limits, **changes),  # type: ignore[arg-type]
        )
        self.open.append(hub)
        return hub

    def end(self, who: str | Credentials, **changes: object) -> TlsHub:
        """An end that nobody dials."""
        credentials = self.circle.credentials(who) if isinstance(who, str) else who
        end = TlsHub.without_listener(credentials, replace(LIMITS, **changes))  # type: ignore[arg-type]
        self.open.append(end)
        return end

    def server(self, name: str, **changes: object) -> TlsHub:
        """A member that is not the hub and listens all the same."""
        return self.hub(credentials=self.circle.credentials(name), **changes)

    def dial(self, end: TlsHub, member: str, there: TlsHub, **options: object) -> Future[None]:
        """`end` dials `member` where `there` listens, in another thread: the one who listens has to receive meanwhile."""
        return self.threads.submit(end.dial, member, "127.0.0.1", there.port, **options)  # type: ignore[arg-type]

    def link(self, end: TlsHub, name: str, member: str, there: TlsHub) -> None:
        """Let `end`, which is member `name`, dial `member`, which listens, and be welcomed."""
        dialling = self.dial(end, member, there)
        there.wait_for([name], timeout=HANG_S)
        dialling.result(HANG_S)

    def dialling(self, hub: TlsHub, who: str | Credentials, **options: object) -> Future[TlsChannel]:
        """A member that dials the hub in another thread: the hub has to receive meanwhile."""
        credentials = self.circle.credentials(who) if isinstance(who, str) else who
        return self.threads.submit(self._dial, credentials, hub.port, options)

    def connect(self, hub: TlsHub, *names: str) -> list[TlsChannel]:
        futures = [self.dialling(hub, name) for name in names]
        hub.wait_for(names, timeout=HANG_S)
        return [future.result(HANG_S) for future in futures]

    def plain(self, hub: TlsHub) -> socket.socket:
        """A bare TCP connection to the hub."""
        plain = socket.create_connection(("127.0.0.1", hub.port), timeout=HANG_S)
        self.open.append(plain)
        return plain

    def raw(self, hub: TlsHub, name: str) -> ssl.SSLSocket:
        """A welcomed member that may write whatever bytes it likes."""
        future = self.threads.submit(self._raw, hub.port, name)
        hub.wait_for([name], timeout=HANG_S)
        return future.result(HANG_S)

    def close(self) -> None:
        # Those who dialled go first: a hub that closes waits for members that do not read.
        for each in reversed(self.open):
            each.close()

    def _dial(self, credentials: Credentials, port: int, options: dict[str, object]) -> TlsChannel:
        settings = {"frame_limit": LIMITS.frame_bytes, "timeout_s": HANG_S, **options}
        channel = TlsChannel.connect(credentials, "hub", "127.0.0.1", port, **settings)  # type: ignore[arg-type]
        self.open.append(channel)
        return channel

    def _raw(self, port: int, name: str) -> ssl.SSLSocket:
        plain = socket.create_connection(("127.0.0.1", port), timeout=HANG_S)
        stream = self.circle.context(name).wrap_socket(plain)
        self.open.append(stream)
        assert stream.recv(16) == b"\0\0\0\1\1"
        return stream


@pytest.fixture
def network(circle: Circle, threads: ThreadPoolExecutor) -> Iterator[Network]:
    network = Network(circle, threads)
    yield network
    network.close()


@pytest.fixture
def attempt() -> Callable[[TlsHub, Future[TlsChannel]], BaseException | None]:
    """Let the hub receive until a dialling member has its answer; the error it got, or None."""

    def run(hub: TlsHub, future: Future[TlsChannel]) -> BaseException | None:
        from hansa.errors import TransportError

        give_up = time.monotonic() + HANG_S
        while not future.done():
            assert time.monotonic() < give_up, "the member got no answer"
            with pytest.raises(TransportError, match="no frame from any member"):
                hub.receive(timeout=0.05)
        return future.exception()

    return run
