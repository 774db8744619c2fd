"""The plans of a service: proposals that were brought to it, by people or by the hub's exchange, and what became of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from hansa.consortium.approvals import Proposal, read_proposal
from hansa.errors import HansaError
from hansa.node.proposals import Listed, ListedProposal, Unreadable, list_proposals
from hansa.service.config import Consortium, ServiceFile
from hansa.service.store import SHOWN_DIGITS, ServiceRun, Store


class ListedPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A proposal in the list.

    Attributes:
        consortium: whose it is. proposal: what it is, who approved and who did not. mine: whether this member "approved", "rejected" or
            "waits". run: the run that it became at this member's service, or None.
    """

    consortium: str
    proposal: ListedProposal
    mine: str
    run: ServiceRun | None

    @property
    def state(self) -> str:
        """In words: for whom it waits, or what it became."""
        own = self.proposal
        if own.rejected:
            back = [name for name in own.rejected if name in own.approved]
            against = [name for name in own.rejected if name not in back]
            parts = (("rejected", against), ("withdrawn", back))
            return "; ".join(f"{what} by {', '.join(names)}" for what, names in parts if names)
        if self.run is not None:
            return f"run {self.run.run}: {self.run.state}"
        if own.state == "open" and self.mine == "waits":
            return "waits for this member: approve it, or reject it"
        if own.state == "open":
            return f"waits for {', '.join(own.missing)}"
        return "approved; give it to the service" if own.state == "approved" else own.state


class PlansView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of them, the newest last day first, and files that are refused. What `hansa plan list --service --json` prints."""

    plans: tuple[ListedPlan, ...]
    refused: tuple[Unreadable, ...]

    def table(self) -> list[tuple[str, ...]]:
        """For people; the first row is the head."""
        rows: list[tuple[str, ...]] = [("plan", "mode", "proposal", "by", "until (UTC)", "approved by", "state")]
        for each in self.plans:
            own = each.proposal
            until = f"{own.expires:%Y-%m-%d %H:%M}"
            rows.append(
                (
                    own.name,
                    own.mode,
                    own.proposal[:SHOWN_DIGITS],
                    own.proposer,
                    until,
                    ", ".join(own.approved),
                    each.state,
                )
            )
        return rows


def plans_of(
    service: ServiceFile, store: Store, lister: Callable[[Consortium, Path], Listed] | None = None
) -> PlansView:
    """All proposals of a service's consortia. Signatures are checked; a file that does not hold stands among those refused.

    Args:
        lister: what lists a consortium's folder; default `listed_in`.

    Raises PlanError where a folder cannot be read.
    """
    found: list[ListedPlan] = []
    refused: list[Unreadable] = []
    for consortium in service.consortia:
        folder = service.proposals_of(consortium)
        if not folder.is_dir():
            continue
        listed = listed_in(consortium, folder, store) if lister is None else lister(consortium, folder)
        refused += listed.refused
        found += _became(store, consortium, listed.proposals)
    found.sort(key=lambda own: (own.proposal.expires, own.proposal.proposal), reverse=True)
    return PlansView(plans=tuple(found), refused=tuple(refused))


def listed_in(consortium: Consortium, folder: Path, store: Store) -> Listed:
    """The proposals in one consortium's folder; those that became runs may name keys that members had then."""
    return list_proposals(folder, consortium.members, read=lambda path: checked_proposal(path, consortium, store))


def checked_proposal(path: Path, consortium: Consortium, store: Store) -> Proposal:
    """A proposal that is kept here, its signatures checked. One that became a run may name keys that members had then.

    Raises PlanError, IdentityError.
    """
    try:
        return read_proposal(path, consortium.members)
    except HansaError:
        past = read_proposal(path, consortium.members, past=True)
        run = store.named(past.digest.hex()[:SHOWN_DIGITS])
        if run is None or not run.folder or run.proposal != past.digest.hex():
            raise
        return past


def _became(store: Store, consortium: Consortium, proposals: Iterable[ListedProposal]) -> Iterable[ListedPlan]:
    """What this member said to each, and the run that it became."""
    name = consortium.identity.name
    for own in proposals:
        mine = "rejected" if name in own.rejected else "approved" if name in own.approved else "waits"
        run = None if own.missing else store.named(own.proposal[:SHOWN_DIGITS])
        yield ListedPlan(consortium=consortium.name, proposal=own, mine=mine, run=run)
