"""Plans: proposals that were brought here, what each would mean, and this member's word on it."""

from __future__ import annotations

from collections.abc import Iterator

from hansa.console.member import Member


def waiting_plans(member: Member) -> Iterator[tuple[str, str]]:
    """What waits for a person: a sentence and a page for each."""
    return iter(())
