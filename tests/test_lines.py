"""The benchmarks' lines between hosts: what they carry, when and how much of it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from benchmarks import bench_lines
from benchmarks.lines import Hosts, Line, why_not

REASON = why_not()
needs_lines = pytest.mark.skipif(bool(REASON), reason=REASON or "possible")

ECHO = """
import socket
door = socket.create_server(("0.0.0.0", 7000))
print("ready", flush=True)
line = door.accept()[0]
while data := line.recv(2**20):
    line.sendall(data)
"""

ASK = """
import socket, sys, time
line = socket.create_connection((sys.argv[1], 7000))
size, times = int(sys.argv[2]), int(sys.argv[3])
began = time.perf_counter()
for _ in range(times):
    line.sendall(bytes(size))
    have = 0
    while have < size:
        have += len(line.recv(2**20))
print(time.perf_counter() - began)
print(line.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16).rstrip(b"\\0").decode())
"""


@contextmanager
def hosts(line: Line, congestion: str = "") -> Iterator[Hosts]:
    made = Hosts(("a", "b"), line, congestion)
    try:
        yield made
    finally:
        made.close()


def asked(made: Hosts, size: int, times: int) -> tuple[float, str]:
    """Seconds for echoes of so many bytes between two hosts, and the congestion control of who asked."""
    with subprocess.Popen([*made.within("a"), sys.executable, "-c", ECHO], stdout=subprocess.PIPE, text=True) as echo:
        assert echo.stdout is not None
        assert echo.stdout.readline() == "ready\n"
        command = [*made.within("b"), sys.executable, "-c", ASK, made.address("a"), str(size), str(times)]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        assert echo.wait() == 0
    seconds, congestion = said.split()
    return float(seconds), congestion


@needs_lines
def test_no_echo_is_sooner_than_the_delay_both_ways():
    with hosts(Line(0, 0.03)) as made:
        assert asked(made, 10, 3)[0] >= 3 * 0.06


@needs_lines
def test_bytes_take_no_less_than_the_rate_allows():
    with hosts(Line(20e6, 0.0, 0.5)) as made:
        assert asked(made, 250_000, 1)[0] >= 250_000 * 8 / 20e6


@needs_lines
def test_what_a_line_loses_is_sent_again_and_arrives():
    with hosts(Line(0, 0.001, loss=0.05)) as made:
        asked(made, 500_000, 2)
        assert made.counters("b")["RetransSegs"] + made.counters("a")["RetransSegs"] > 0


@needs_lines
@pytest.mark.parametrize("congestion", bench_lines.controls() if not REASON else [])
def test_a_host_has_the_congestion_control_that_is_asked_for(congestion):
    with hosts(Line(0, 0.0), congestion) as made:
        assert asked(made, 10, 1)[1] == congestion


def test_where_there_can_be_no_lines_the_benchmark_says_so_and_measures_nothing(monkeypatch, capsys):
    monkeypatch.setattr(bench_lines, "why_not", lambda: "it is no Linux")
    monkeypatch.setattr(sys, "argv", ["bench_lines"])
    bench_lines.main()
    assert capsys.readouterr().out == "Nothing was measured: it is no Linux.\n"
    monkeypatch.setattr(sys, "argv", ["bench_lines", "--json"])
    bench_lines.main()
    assert capsys.readouterr().out == '{"skipped": "it is no Linux"}\n'
