"""Lines between hosts on one machine: a host is a network namespace, its line has a rate, a queue, a delay and a loss.

A packet that a host sends waits for its line's rate in the line's queue, travels for the delay, then waits in the queue of the
receiver's line. A queue that is full drops it, as routers do, and so does chance. Needs Linux, root, `ip` and /dev/net/tun; no
traffic control of the kernel. Nothing leaves the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import itertools
import multiprocessing
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TUN = Path("/dev/net/tun")
_NUMBERS = itertools.count(1)
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
_PACKETS_AT_ONCE = 32
_MOST_BYTES = 65536
_IDLE_S = 0.2


@dataclass(frozen=True)
class Line:
    """What every host's line is like, each way.

    Attributes:
        bits_per_s: its rate; 0 has no limit. delay_s: one way, between any two hosts.
        queue_s: seconds of its rate that its queue holds. loss: share of the packets that chance drops.
    """

    bits_per_s: float = 100e6
    delay_s: float = 0.01
    queue_s: float = 0.05
    loss: float = 0.0


def why_not() -> str:
    """Why there can be no such lines here; empty where there can."""
    if not sys.platform.startswith("linux") or os.geteuid():
        return "hosts with lines of their own need Linux and root"
    if shutil.which("ip") is None:
        return "hosts with lines of their own need `ip` (iproute2)"
    if not TUN.exists():
        return f"hosts with lines of their own need {TUN}"
    try:
        Hosts(("try",), Line()).close()
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or str(error)
        return f"the system allows no hosts with lines of their own: {said.strip()}"
    return ""


class Hosts:
    """A host for each name, with the address 10.78.PLACE.2, and the process that carries their packets. PLACE counts from 1.

    Args:
        congestion: TCP's congestion control on all of them; the system's where empty.
    """

    def __init__(self, names: Iterable[str], line: Line, congestion: str = "") -> None:
        self._mark = f"l{os.getpid()}-{next(_NUMBERS)}"
        self._places = {name: place for place, name in enumerate(names, 1)}
        self._made: list[str] = []
        self._ends: list[int] = []
        self._carrier: multiprocessing.process.BaseProcess | None = None
        try:
            for name, place in self._places.items():
                self._add(name, place, congestion)
            self._carrier = multiprocessing.get_context("fork").Process(
                target=_carry, args=(self._ends, line), daemon=True
            )
            self._carrier.start()
        except BaseException:
            self.close()
            raise

    def namespace(self, name: str) -> str:
        return f"{self._mark}-{name}"

    def address(self, name: str) -> str:
        return f"10.78.{self._places[name]}.2"

    def within(self, name: str) -> list[str]:
        """What to write before a command, so that it runs on this host."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def counters(self, name: str) -> dict[str, int]:
        """The system's counters of a host's TCP: `OutSegs`, `RetransSegs` and so on."""
        text = _run(*self.within(name), "cat", "/proc/net/snmp")
        heads, values = (line.split()[1:] for line in text.splitlines() if line.startswith("Tcp:"))
        return dict(zip(heads, map(int, values), strict=True))

    def close(self) -> None:
        """Remove the hosts. Processes on them must have ended."""
        if self._carrier is not None:
            self._carrier.terminate()
            self._carrier.join()
        for end in self._ends:
            os.close(end)
        self._ends.clear()
        for name in reversed(self._made):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _add(self, name: str, place: int, congestion: str) -> None:
        host, device = self.namespace(name), f"{self._mark}-{place}"[-15:]
        _run("ip", "netns", "add", host)
        self._made.append(host)
        end = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
        self._ends.append(end)
        fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH22x", device.encode(), _IFF_TUN | _IFF_NO_PI))
        # The open end still carries the device's packets where the device has moved.
        _run("ip", "link", "set", device, "netns", host)
        for command in (
            "ip link set lo up",
            f"ip link set {device} name line txqueuelen 10000",  # what is dropped is dropped by the line
            f"ip addr add {self.address(name)}/32 dev line",
            "ip link set line up",
            # A route's congestion control, unlike the namespace's, may be one that the system keeps for the administrator.
            f"ip route add default dev line {f'congctl {congestion}' if congestion else ''}",
        ):
            _run(*self.within(name), *command.split())


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _carry(ends: list[int], line: Line) -> None:
    """Carry packets between the hosts for ever. The device of the host at place p is `ends[p - 1]`."""
    with contextlib.suppress(OSError):
        os.nice(-15)
    draw = random.Random(1)
    per_byte = 8 / line.bits_per_s if line.bits_per_s else 0.0
    admission = select.poll()
    for end in ends:
        admission.register(end, select.POLLIN)
    place_of = {end: place for place, end in enumerate(ends, 1)}
    up_free, down_free = [0.0] * (len(ends) + 1), [0.0] * (len(ends) + 1)
    travelling: list[tuple[float, int, int, bytes]] = []
    arriving: list[deque[tuple[float, bytes]]] = [deque() for _ in range(len(ends) + 1)]
    number = itertools.count()
    while True:
        due = [each[0][0] for each in arriving if each]
        if travelling:
            due.append(travelling[0][0])
        wait = max(0.0, min(due) - time.perf_counter()) if due else _IDLE_S
        ready = admission.poll(1000 * wait)
        now = time.perf_counter()
        for end, _ in ready:
            place = place_of[end]
            for _ in range(_PACKETS_AT_ONCE):
                try:
                    packet = os.read(end, _MOST_BYTES)
                except BlockingIOError:
                    break
                goal = packet[18] if packet[0] >> 4 == 4 else 0  # 10.78.PLACE.2 is at byte 16
                begins = max(now, up_free[place])
                if not 0 < goal <= len(ends) or begins - now > line.queue_s:
                    continue
                up_free[place] = begins + len(packet) * per_byte
                if not line.loss or draw.random() >= line.loss:
                    heapq.heappush(travelling, (up_free[place] + line.delay_s, next(number), goal, packet))
        now = time.perf_counter()
        while travelling and travelling[0][0] <= now:
            came, _, goal, packet = heapq.heappop(travelling)
            begins = max(came, down_free[goal])
            if begins - came <= line.queue_s:
                down_free[goal] = begins + len(packet) * per_byte
                arriving[goal].append((down_free[goal], packet))
        now = time.perf_counter()
        for goal, waiting in enumerate(arriving):
            while waiting and waiting[0][0] <= now:
                with contextlib.suppress(OSError):  # the host is gone, or has no room
                    os.write(ends[goal - 1], waiting.popleft()[1])
