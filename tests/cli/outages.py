"""What goes wrong with a member or its line, and what every member says of it: real processes on hosts of their own.

    python tests/cli/outages.py [NAME ...]

prints a table, in Markdown, of what each member said and when. Needs what `namespaces` needs.
"""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from made_consortium import ABORTING, HUB, PARTIES, make_consortium, write_member
from namespaces import Hosts, why_not

VICTIM, OTHER = PARTIES[1], PARTIES[0]
RECONNECT_TIMEOUT_S = 15.0
"""A line that carries nothing for ten seconds counts as broken."""

MOMENT_S = 6.0
"""Long enough to be told, too short for that."""

SOON_S = 240.0
"""No process takes so long; only a hang does."""


@dataclass
class Voice:
    """One member's process, what it said and when, and when it ended, by `time.monotonic`."""

    process: subprocess.Popen[str]
    lines: list[tuple[float, str]] = field(default_factory=list)
    ended: float | None = None

    def events(self, kind: str) -> list[float]:
        """When it told of such an event."""
        found = []
        for moment, line in tuple(self.lines):
            if line.startswith("{") and json.loads(line).get("event") == kind:
                found.append(moment)
        return found

    def said(self) -> list[tuple[float, str]]:
        """When it said what for a person: the lines of its log without their time, and its last sentence."""
        found = []
        for moment, line in self.lines:
            words = line.split(" ", 2)
            logged = len(words) == 3 and words[0].endswith("Z") and words[1].isupper()
            if not line.startswith("{"):
                found.append((moment, " ".join(words[1:]) if logged else line))
        return found


class Outage:
    """A run of the aggregator and two parties, each on a host of its own, until a fault and after it."""

    def __init__(self, folder: Path, rounds: int = 10**5) -> None:
        self.folder = make_consortium(folder, ABORTING.replace("rounds = 3", f"rounds = {rounds}"))
        self.hosts = Hosts((HUB, *PARTIES))
        self.voices: dict[str, Voice] = {}
        self.fault_at = time.monotonic()
        self.over_at = float("inf")

    def start(self, **changes: object) -> None:
        """Start all; returns once trees grow."""
        for name in (HUB, *PARTIES):
            path = write_member(
                self.folder, name, 7465, hub=f"{self.hosts.address(HUB)}:7465", reconnect_timeout_s=RECONNECT_TIMEOUT_S, wait_s=120,
                **(changes if name == VICTIM else {}),
            )  # fmt: skip
            role = "aggregator" if name == HUB else "party"
            process = subprocess.Popen(
                [*self.hosts.within(name), sys.executable, "-m", "hansa", role, str(path), "--json"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            self.voices[name] = voice = Voice(process)
            threading.Thread(target=self._listen, args=(voice,), daemon=True).start()
        self.until(lambda: self.voices[HUB].events("tree") or self.ended())

    def fault(self, what: Callable[[], object]) -> None:
        self.fault_at = time.monotonic()
        what()

    def words(self, name: str) -> list[tuple[float, str]]:
        """What a member said of the fault until all was over, and how many seconds after the fault."""
        said = self.voices[name].said()
        return [(moment - self.fault_at, line) for moment, line in said if self.fault_at <= moment <= self.over_at]

    def text(self, name: str) -> str:
        """The same, one line each."""
        return "\n".join(line for _, line in self.words(name))

    def end(self, name: str) -> int | None:
        """A member's exit status; None where it still ran when all was over."""
        voice = self.voices[name]
        return voice.process.returncode if voice.ended is not None and voice.ended <= self.over_at else None

    def signal(self, name: str, number: signal.Signals) -> None:
        # `ip netns exec` becomes the command: it is the member's own process.
        self.voices[name].process.send_signal(number)

    def ended(self) -> bool:
        return all(voice.ended is not None for voice in self.voices.values())

    def grows(self, after_s: float) -> bool:
        """Whether a tree was told of later than so many seconds after the fault."""
        return any(moment > self.fault_at + after_s for moment in self.voices[HUB].events("tree"))

    def now(self) -> float:
        return time.monotonic() - self.fault_at

    def until(self, done: Callable[[], object]) -> None:
        give_up = time.monotonic() + SOON_S
        while not done():
            assert time.monotonic() < give_up, {name: voice.lines[-5:] for name, voice in self.voices.items()}
            time.sleep(0.05)

    def close(self) -> None:
        self.over_at = time.monotonic()
        for voice in self.voices.values():
            if voice.process.poll() is None:
                voice.process.send_signal(signal.SIGCONT)
                voice.process.kill()
            voice.process.wait()
        self.hosts.close()

    def _listen(self, voice: Voice) -> None:
        assert voice.process.stdout is not None
        for line in voice.process.stdout:
            voice.lines.append((time.monotonic(), line.rstrip()))
        voice.process.wait()
        voice.ended = time.monotonic()


def killed(outage: Outage) -> None:
    outage.fault(lambda: outage.signal(VICTIM, signal.SIGKILL))
    outage.until(outage.ended)


def terminated(outage: Outage) -> None:
    outage.fault(lambda: outage.signal(VICTIM, signal.SIGTERM))
    outage.until(outage.ended)


def aggregator_killed(outage: Outage) -> None:
    outage.fault(lambda: outage.signal(HUB, signal.SIGKILL))
    outage.until(outage.ended)


def aggregator_terminated(outage: Outage) -> None:
    outage.fault(lambda: outage.signal(HUB, signal.SIGTERM))
    outage.until(outage.ended)


def stopped(outage: Outage) -> None:
    """Longer than the reconnect timeout: its system answers all the while, so nobody may cut it."""
    outage.fault(lambda: outage.signal(VICTIM, signal.SIGSTOP))
    time.sleep(2 * RECONNECT_TIMEOUT_S)
    outage.signal(VICTIM, signal.SIGCONT)
    back = outage.now()
    outage.until(lambda: outage.grows(back) or outage.ended())


def cut(outage: Outage) -> None:
    outage.fault(lambda: outage.hosts.cut(VICTIM))
    outage.until(outage.ended)


def cut_for_a_moment(outage: Outage) -> None:
    """Short enough for TCP to heal it by itself."""
    outage.fault(lambda: outage.hosts.cut(VICTIM))
    time.sleep(MOMENT_S)
    outage.hosts.mend(VICTIM)
    back = outage.now()
    outage.until(lambda: outage.grows(back) or outage.ended())


def forgotten(outage: Outage) -> None:
    outage.fault(lambda: outage.hosts.forget(VICTIM))
    back = outage.now() + 1.0
    outage.until(lambda: outage.grows(back) or outage.ended())


def moved(outage: Outage) -> None:
    outage.fault(lambda: outage.hosts.change_address(VICTIM))
    back = outage.now() + 1.0
    outage.until(lambda: outage.grows(back) or outage.ended())


def full_disk(outage: Outage) -> None:
    """Somebody else fills it while trees grow."""

    def fill() -> None:
        with (outage.folder / "full" / "rest").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))

    outage.fault(fill)
    outage.until(outage.ended)


FAULTS: dict[str, tuple[str, Callable[[Outage], None]]] = {
    "killed": (f"`{VICTIM}` is killed (SIGKILL)", killed),
    "terminated": (f"`{VICTIM}` is ended (SIGTERM)", terminated),
    "aggregator-killed": ("the aggregator is killed (SIGKILL)", aggregator_killed),
    "aggregator-terminated": ("the aggregator is ended (SIGTERM)", aggregator_terminated),
    "stopped": (f"`{VICTIM}` is stopped (SIGSTOP) for {2 * RECONNECT_TIMEOUT_S:g} s", stopped),
    "cut": (f"the line of `{VICTIM}` is cut for good", cut),
    "cut-for-a-moment": (f"the line of `{VICTIM}` is cut for {MOMENT_S:g} s", cut_for_a_moment),
    "forgotten": (f"a middlebox forgets the connection of `{VICTIM}`", forgotten),
    "moved": (f"the address of `{VICTIM}` changes", moved),
    "full-disk": (f"the disk where `{VICTIM}` puts its model fills up", full_disk),
}
"""Name -> (what happens, how)."""


def happened(name: str, folder: Path) -> Outage:
    """Let a fault happen; the outage, whose processes have ended or been ended."""
    full = folder / "full"
    outage = Outage(folder, 1000 if name == "full-disk" else 10**5)
    try:
        changes: dict[str, object] = {}
        if name == "full-disk":
            full.mkdir()
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(full)], check=True)
            changes["model"] = "full/model.json"
        outage.start(**changes)
        FAULTS[name][1](outage)
    finally:
        outage.close()
        if full.is_mount():
            subprocess.run(["umount", str(full)], check=True)
    return outage


def row(name: str, outage: Outage) -> list[str]:
    """Lines of the table: what happens, then each member's words."""
    lines = []
    for place, (member, voice) in enumerate(outage.voices.items()):
        said = "<br>".join(f"{seconds:.1f} s: {line.replace('|', '/')}" for seconds, line in outage.words(member))
        status = outage.end(member)
        end = "goes on" if status is None else f"{(voice.ended or 0.0) - outage.fault_at:.1f} s: status {status}"
        lines.append(f"| {'' if place else FAULTS[name][0]} | `{member}` | {said} | {end} |")
    return lines


def main() -> None:
    if reason := why_not():
        sys.exit(reason)
    print("| what happens | member | says, so long after | end |\n|---|---|---|---|")
    for name in sys.argv[1:] or FAULTS:
        with tempfile.TemporaryDirectory() as folder:
            print("\n".join(row(name, happened(name, Path(folder)))), flush=True)


if __name__ == "__main__":
    main()
