"""One word for one thing, the field's where there is one: names that the project once had of its own stay away from its source."""

from __future__ import annotations

import io
import re
import tokenize
from pathlib import Path

import pytest

import hansa.errors

SOURCE = Path(hansa.errors.__file__).parent
ROOT = Path(__file__).parents[1]

COINAGES = {
    r"letters?": "sealed message",
    r"mail": "secure channel",
    r"pieces?": "fragment",
    r"lasting": "resumable",
    r"correspondences?": "delivery state",
    r"residents?": "local member",
    r"seat(s|ed)?": "session",
    r"doors?": "admission",
    r"guests?": "allowed peer",
    r"newcomers?": "pending handshake",
    r"strangers?": "rejected peer",
    r"hear|heard|hears": "received",
    r"aside": "deferred",
    r"spare_last": "pin_frame",
    r"patience(_s|_ms)?": "reconnect_timeout_s",
    r"verdicts?": "abort reason",
    r"goodbyes?": "close",
    r"crews?": "worker pool",
    r"bells?": "start signal",
    r"gather(ing|ed)": "registration",
    r"protection": "sum masking",
    r"coins": "sampling",
    r"beta": "left bit",
    r"start[ _]values?": "base score",
    r"settle_?start": "TrainingSetup",
    r"departures?": "schema violation",
}
"""What is not written -> what is written instead. Parts of a name count as words."""

IDENTIFIERS = {
    "said": "sent",
    "hand": "worker",
    "hands": "workers",
    "LOOKS": "SPIN_LIMIT",
    "Through": "Done",
    "Growth": "TreeConstants",
    "Words": "ShareArray",
}
"""The same of names in the code alone: as words of a sentence these are plain English."""

PLAIN = [
    r"lower-case letters",
    r"small letters",
    r"[Ll]etters(, marks| or | and )",
    r"a letter or digit",
    r"letter by letter",
    r"First letters of",
    r"one-letter",
    r"letter for letter in|for letter in",
    r"Letters to put in",
    r"if letter\.isalnum",
    r"by mail, on paper",
    r"others than letters",
    r"letter-spacing",
    r"address\.named\(\"beta\"\)",
    r"rng\.beta",
    r"ResidentKeyRequirement|resident_key",
    r"Phones hear|do not hear",
    r"\"patience_s\": \"reconnect_timeout_s\"",
]
"""Where a word of the list means what everybody takes it for."""

REPEATED = (
    "Settings",
    "Start",
    "Bounds",
    "Ring",
    "Masked",
    "Received",
    "Table",
    "Ledger",
    "Record",
    "Rule",
    "Run",
    "Sent",
    "Watch",
)
"""Names that once meant two or three things."""


def sentences(path: Path) -> list[tuple[int, str]]:
    """(line, text) with what `PLAIN` allows taken out, and names parted at underscores and capitals."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for allowed in PLAIN:
            line = re.sub(allowed, " ", line)
        parted = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", line).replace("_", " ")
        found.append((number, f"{line} {parted}"))
    return found


def coinages_in(path: Path) -> list[str]:
    found = []
    for number, text in sentences(path):
        for word, instead in COINAGES.items():
            if match := re.search(rf"(?i)(?<![\w-])({word})(?![\w-])", text):
                found.append(f"{path.name}:{number}: {match[1]!r}; write {instead}")
    return found


FILES = sorted([*SOURCE.rglob("*.py"), *SOURCE.rglob("*.j2")])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_word_of_our_own_stands_where_the_field_has_one(path):
    assert coinages_in(path) == []


@pytest.mark.parametrize("path", [p for p in FILES if p.suffix == ".py"], ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_name_of_our_own_stands_where_the_field_has_one(path):
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
    used = {token.string.lstrip("_") for token in tokens if token.type == tokenize.NAME}
    assert {name: IDENTIFIERS[name] for name in used & IDENTIFIERS.keys()} == {}


def test_a_name_means_one_thing():
    defined: dict[str, list[str]] = {}
    for path in FILES:
        for name in re.findall(r"(?m)^class (\w+)|^([A-Z]\w*[a-z]\w*) = ", path.read_text(encoding="utf-8")):
            defined.setdefault(name[0] or name[1], []).append(str(path.relative_to(SOURCE)))
    assert {name: places for name, places in defined.items() if name in REPEATED and len(places) > 1} == {}


def test_a_word_of_our_own_is_noticed(tmp_path):
    path = tmp_path / "a.py"
    path.write_text('patience_s = 1\n"""The newcomer had a seat."""\ndef gatheredAll(): ...\n"a letter or digit"\n')
    assert len(coinages_in(path)) == 4
