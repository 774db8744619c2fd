"""`node/logs.py`: lines with times, for people and programs."""

from __future__ import annotations

import io
import json
import logging
import re

import pytest
from rich.console import Console

from hansa.node import logs
from hansa.node.events import Stage


def written(log_format: str, log_level: str, *, terminal: bool = False) -> list[str]:
    """What a console is shown of lines of every level."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=40, markup=False)
    with logs.logging_to(console, log_format, log_level):
        logs.note(logging.DEBUG, "detail")
        logs.note(logging.INFO, "aurora joined, 1 of 3", Stage(text="other"))
        logging.getLogger("hansa.transport.tls").warning(
            "member %r: %s", "b", "\x1b]0;owned\x07\nhansa: all is well [bold]" + 60 * "x"
        )
        logs.note(logging.ERROR, "no")
    logs.note(logging.ERROR, "after the end")
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("terminal", [False, True])
def test_a_line_has_time_level_and_text_whatever_others_wrote(terminal):
    lines = written("text", "info", terminal=terminal)
    assert len(lines) == 3
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (INFO|WARNING|ERROR) ", line) for line in lines)
    assert lines[0].endswith("Z INFO aurora joined, 1 of 3")
    assert r"\x1b]0;owned\x07\x0ahansa: all is well [bold]" in lines[1]
    assert "\x1b" not in "".join(lines)


def test_json_lines_have_the_same_and_the_fields():
    objects = [json.loads(line) for line in written("json", "debug")]
    assert [each["level"] for each in objects] == ["debug", "info", "warning", "error"]
    assert objects[1]["text"] == "aurora joined, 1 of 3"
    assert objects[1]["event"] == "stage"
    assert objects[2]["logger"] == "hansa.transport.tls"
    assert all(each["time"].endswith("Z") for each in objects)
    assert all(line.isascii() and line.isprintable() for line in written("json", "debug"))


@pytest.mark.parametrize(("level", "count"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_less_important_lines_are_left_out(level, count):
    assert len(written("text", level)) == count


def test_a_moment_is_utc_to_the_millisecond():
    assert logs.moment(0.25) == "1970-01-01T00:00:00.250Z"
