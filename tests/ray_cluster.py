"""A cluster of Ray on hosts of its own, over TLS and with a token, or without. Needs what `namespaces` needs."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from namespaces import Hosts, run
from waiting import HANG_S

PORT = 6379
"""Of the head."""


class RayCluster:
    """A node on each host; the first is the head. Each has two CPUs of Ray's.

    Attributes:
        hosts: where they run. address: of the head. environment: of every process that talks with the cluster.
    """

    def __init__(self, names: Sequence[str], *, protected: bool) -> None:
        self._names = names
        # Not pytest's folder: Ray's sockets stand below it, and paths of sockets are short.
        self._folder = Path(tempfile.mkdtemp(prefix="ray"))
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.hosts = Hosts(names)
        self.address = f"{self.hosts.address(names[0])}:{PORT}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = kept | (self._protection() if protected else {"RAY_AUTH_MODE": "disabled"})
        try:
            for name in names:
                self._start(name)
                self._wait(len(self._nodes))
        except BaseException:
            self.close()
            raise

    def _protection(self) -> dict[str, str]:
        """One certificate for all nodes, which is its own authority, and a token."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "aurora's own hosts")])
        addresses = ["127.0.0.1", *(self.hosts.address(each) for each in self._names)]
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(each)) for each in addresses]),
                critical=False,
            )
            .sign(key, hashes.SHA256())
        )
        files = self._folder / "node.pem", self._folder / "node.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        token = self._folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        return {
            "RAY_USE_TLS": "1",
            "RAY_TLS_SERVER_CERT": str(files[0]),
            "RAY_TLS_SERVER_KEY": str(files[1]),
            "RAY_TLS_CA_CERT": str(files[0]),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
        }

    def _start(self, name: str) -> None:
        head = not self._nodes
        place = ["--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={self._folder / 't'}"]
        with (self._folder / f"{name}.log").open("wb") as log:
            self._nodes[name] = subprocess.Popen(
                [
                    *self.hosts.within(name),
                    str(Path(sys.executable).with_name("ray")),
                    "start",
                    "--block",
                    "--disable-usage-stats",
                    "--num-cpus=2",
                    f"--object-store-memory={10**8}",
                    f"--node-ip-address={self.hosts.address(name)}",
                    *(place if head else [f"--address={self.address}"]),
                ],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _wait(self, nodes: int) -> None:
        """Until so many nodes are in the cluster."""
        asks = "import ray, sys\nray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')\n"
        asks += "print(sum(node['Alive'] for node in ray.nodes()))"
        give_up = time.monotonic() + HANG_S
        told = ""
        while time.monotonic() < give_up:
            done = subprocess.run(
                [*self.within, sys.executable, "-c", asks, self.address],
                env=self.environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.stdout.strip() == str(nodes):
                return
            told = done.stdout + done.stderr
            time.sleep(0.5)
        raise AssertionError(f"the cluster has not {nodes} nodes: {told}")

    @property
    def within(self) -> list[str]:
        """What to write before a command, so that it runs on the head's host."""
        return self.hosts.within(self._names[0])

    def workers(self, name: str) -> list[int]:
        """The processes on a host that hold rows."""
        return [each for each in self._processes(name) if b"_Actor" in _command(each)]

    def kill(self, name: str) -> None:
        """End all processes of a host as a power cut would."""
        for each in self._processes(name):
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._nodes.pop(name).wait(HANG_S)

    def _processes(self, name: str) -> list[int]:
        return [int(each) for each in run("ip", "netns", "pids", self.hosts.namespace(name)).split()]

    def close(self) -> None:
        """End all nodes; no file of theirs stays."""
        for name in reversed(list(self._nodes)):
            self.kill(name)
        self.hosts.close()
        shutil.rmtree(self._folder)


def _command(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""
