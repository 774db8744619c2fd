"""Progress bars: which one is shown where, and what it says."""

from __future__ import annotations

import io
import re
import sys
import types

import numpy as np
import pytest

import hansa
from hansa.progress import COMPILING, Bar, NoBar, NotebookBar, TerminalBar, bar, metrics_text

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True

    def lines(self) -> list[str]:
        return [line for line in re.split(r"[\r\n]+", CONTROL.sub("", self.getvalue())) if line.strip()]


def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Standard error is one from now on. Not a fixture: pytest changes standard error between set-up and test."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    return stream


def notebook(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """As a kernel is seen from inside: IPython is loaded, and its shell has a kernel."""
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def shown(choice: bool | None) -> type[Bar]:
    with bar(choice) as found:
        return type(found)


def test_a_terminal_has_richs_bar(monkeypatch):
    terminal(monkeypatch)
    assert shown(None) is shown(True) is TerminalBar
    assert shown(False) is NoBar


def test_a_notebook_has_tqdms_bar(monkeypatch):
    notebook(monkeypatch)
    assert shown(None) is shown(True) is NotebookBar
    assert shown(False) is NoBar


def test_elsewhere_there_is_none_unless_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert shown(None) is shown(False) is NoBar
    assert shown(True) is NotebookBar


def parties() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    X = np.random.default_rng(0).normal(size=(300, 2))
    y = (X[:, 0] > 0).astype(int)
    return {name: (X[i::3], y[i::3]) for i, name in enumerate(("aurora", "borealis", "cirrus"))}


@pytest.mark.parametrize("mode", ["federated", "coopetitive"])
def test_a_fit_on_a_terminal_shows_all_rounds_and_the_metrics(monkeypatch, mode):
    screen = terminal(monkeypatch)
    run = hansa.fit(parties(), mode=mode, rounds=3, evaluation_fraction=0.3, alone=False)
    last = [line for line in screen.lines() if "training" in line][-1]
    assert "3/3" in last
    assert metrics_text(run.metrics) in last


def test_a_fit_in_a_notebook_shows_all_rounds(monkeypatch):
    screen = notebook(monkeypatch)
    hansa.fit(parties(), rounds=3, alone=False)
    assert "training: 100%" in screen.getvalue()
    assert "3/3" in screen.getvalue()


def test_a_fit_into_a_file_prints_nothing(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stderr", stream := io.StringIO())
    hansa.fit(parties(), rounds=2, alone=False)
    assert stream.getvalue() == ""
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", [TerminalBar, NotebookBar])
def test_what_ends_early_shows_no_more_than_there_was(monkeypatch, kind):
    screen = terminal(monkeypatch)
    made = kind()
    made.show(COMPILING, 0, 40)
    made.show(COMPILING, 12, 40)
    made.show("training", 0, 5)
    made.show(COMPILING, 13, 40)
    made.show("training", 3, 5, "auc 0.9")
    made.close()
    compiling = [line for line in screen.lines() if COMPILING in line]
    assert "13/13" in compiling[-1]
    assert "3/3" in next(line for line in reversed(screen.lines()) if "training" in line)


def test_a_metric_without_a_value_is_a_dash():
    assert metrics_text({"auc": 0.95321, "aucpr": None}) == "auc 0.9532, aucpr -"
