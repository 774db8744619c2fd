"""Write the parts of the documents that follow from the code: the list of openings and the diagrams of states.

    python docs/generated.py

`tests/test_docs.py` fails where a part differs from the code; this command mends it.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from hansa.mpc.openings import OPENINGS
from hansa.protocol import messages, session

REFERENCE = Path(__file__).parent / "reference"
WIDTH = 120

DIAGRAMS = (
    ("A party, by what the aggregator sends it", session.PARTY),
    ("The aggregator, by what parties send it", session.AGGREGATOR),
    ("A party in `secure-aggregation` mode: keys come first", session.PARTY_MASKED),
    ("The aggregator in `secure-aggregation` mode", session.AGGREGATOR_MASKED),
    ("A party that verifies row counts: a `ShowRows` may stand before what it carries", session.PARTY_VERIFYING),
    (
        "The aggregator where parties verify row counts: a `VouchRows` may stand before what it carries",
        session.AGGREGATOR_VERIFYING,
    ),
    ("A collector, by what the aggregator sends it; a complete sum leads it back to `passing`", session.COLLECTOR),
    ("A collector, by what its parties send it", session.COLLECTOR_OF_PARTIES),
    ("A party of a run that describes the pooled table", session.DESCRIBING_PARTY),
    ("The aggregator of such a run", session.DESCRIBING_AGGREGATOR),
    ("A party with a state folder, until it stands in one of the diagrams above", session.RESUMING_PARTY),
    ("The aggregator with a state folder, until then", session.RESUMING_AGGREGATOR),
    (
        "The aggregator that has told the model, and waits for parties to say that it arrived",
        session.RELEASING_AGGREGATOR,
    ),
    ("A member that shows its log before and after a run, by what the hub sends it", session.LOG_MEMBER),
    ("The hub that asks for logs, by what members send it", session.LOG_HUB),
    ("A member of a coopetitive run, by what the hub sends it", session.MEMBER),
    ("The hub of a coopetitive run, by what members send it", session.HUB),
)
"""What a diagram shows, and the table that it is drawn from."""

OPENINGS_INTRO = """# What coopetitive mode opens

Every call in the code that opens something, from the registry `mpc/openings.py`. One test holds the registry to the code
(`tests/mpc/test_mpc_openings.py::test_the_registry_is_the_code`), another holds this page to the registry. `hansa plan show`
prints the openings of one plan, and `run.openings` holds those of a run.

A *masked* opening shows a uniform value to two servers and reveals nothing. Every other opening reveals what stands here.
"""


def openings_page() -> str:
    """docs/reference/openings.md."""
    items = [
        f"* `{each.module}.{each.function}`, to {each.to}. {'*Masked*' if each.masked else 'Opened'}: {each.what}. "
        f"Why: {each.why}."
        for each in OPENINGS
    ]
    wrapped = [
        textwrap.fill(item, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        for item in items
    ]
    return OPENINGS_INTRO + "\n" + "\n".join(wrapped) + "\n"


def diagram(table: session.Transitions) -> str:
    """The table as a Mermaid state diagram, Abort left out."""
    lines = ["stateDiagram-v2"]
    for state, legal in table.items():
        for kind, targets in legal.items():
            if kind is not messages.Abort:
                lines.extend(f"    {state} --> {target}: {kind.__name__}" for target in targets)
    return "\n".join(lines) + "\n"


def diagrams() -> str:
    """The section of docs/reference/messages.md under "Diagrams"."""
    parts = [f"{title}:\n\n```mermaid\n{diagram(table)}```\n" for title, table in DIAGRAMS]
    return "## Diagrams\n\n" + "\n".join(parts)


def with_diagrams(page: str) -> str:
    """The page of messages with its last section drawn anew."""
    return re.split(r"^## Diagrams$", page, flags=re.MULTILINE)[0].rstrip("\n") + "\n\n" + diagrams()


if __name__ == "__main__":
    (REFERENCE / "openings.md").write_text(openings_page(), encoding="utf-8")
    page = REFERENCE / "messages.md"
    page.write_text(with_diagrams(page.read_text(encoding="utf-8")), encoding="utf-8")
