"""Hosts of their own on one machine: network namespaces behind a router, whose lines can be cut, change or forget.

Needs Linux, root and `ip` of iproute2; `nft` too where a middlebox is to forget connections. Nothing leaves the machine.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable

_NUMBERS = itertools.count(1)


def why_not() -> str:
    """Why there can be no namespaces here; empty where there can."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "network namespaces need `ip` (iproute2)"
    name = f"hansa-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"the system allows no network namespaces: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Hosts:
    """A router, and a host for each name, with the address 10.77.PLACE.2 behind it. PLACE counts from 1."""

    def __init__(self, names: Iterable[str]) -> None:
        self._mark = f"h{os.getpid()}-{next(_NUMBERS)}"
        self._places = {name: place for place, name in enumerate(names, 1)}
        self._router = f"{self._mark}-router"
        self._made: list[str] = []
        try:
            self._make(self._router)
            self._run(self._router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
            for name, place in self._places.items():
                host = self.namespace(name)
                self._make(host)
                run(
                    "ip",
                    "link",
                    "add",
                    "line",
                    "netns",
                    host,
                    "type",
                    "veth",
                    "peer",
                    f"line{place}",
                    "netns",
                    self._router,
                )
                self._run(self._router, "ip", "addr", "add", f"10.77.{place}.1/24", "dev", f"line{place}")
                self._run(self._router, "ip", "link", "set", f"line{place}", "up")
                self._run(host, "ip", "addr", "add", f"{self.address(name)}/24", "dev", "line")
                self._run(host, "ip", "link", "set", "line", "up")
                self._run(host, "ip", "route", "add", "default", "via", f"10.77.{place}.1")
        except BaseException:
            self.close()
            raise

    def namespace(self, name: str) -> str:
        return f"{self._mark}-{name}"

    def address(self, name: str) -> str:
        return f"10.77.{self._places[name]}.2"

    def within(self, name: str) -> list[str]:
        """What to write before a command, so that it runs on this host."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def cut(self, name: str) -> None:
        """From now on the router drops all that goes to a host, without a word."""
        self._run(self._router, "ip", "route", "add", "blackhole", f"{self.address(name)}/32")

    def mend(self, name: str) -> None:
        self._run(self._router, "ip", "route", "del", "blackhole", f"{self.address(name)}/32")

    def change_address(self, name: str) -> None:
        """Give a host another address in its network; its old one is gone, and nobody is told."""
        place = self._places[name]
        self._run(self.namespace(name), "ip", "addr", "del", f"{self.address(name)}/24", "dev", "line")
        self._run(self.namespace(name), "ip", "addr", "add", f"10.77.{place}.3/24", "dev", "line")
        self._run(self.namespace(name), "ip", "route", "replace", "default", "via", f"10.77.{place}.1")

    def forget(self, name: str) -> None:
        """Let the router forget a host's connections, as a middlebox that was started again: it drops what belongs to them.

        New ones pass.
        """
        rules = ["add table ip middlebox", "add chain ip middlebox way { type filter hook forward priority 0 ; }"]
        for near, _ in self._connections(name):
            for source, port in ((self.address(name), f"tcp sport {near}"), (None, f"tcp dport {near}")):
                address = f"ip saddr {source}" if source else f"ip daddr {self.address(name)}"
                rules.append(f"add rule ip middlebox way {address} {port} drop")
        self._run(self._router, "nft", "; ".join(rules))

    def close(self) -> None:
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _connections(self, name: str) -> list[tuple[int, int]]:
        """(own port, other's port) of a host's connections."""
        table = self._run(self.namespace(name), "cat", "/proc/net/tcp").splitlines()[1:]
        ends = [line.split()[1:4] for line in table]
        return [(int(a.split(":")[1], 16), int(b.split(":")[1], 16)) for a, b, state in ends if state == "01"]

    def _make(self, name: str) -> None:
        run("ip", "netns", "add", name)
        self._made.append(name)
        self._run(name, "ip", "link", "set", "lo", "up")

    def _run(self, namespace: str, *command: str) -> str:
        return run("ip", "netns", "exec", namespace, *command)


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout
