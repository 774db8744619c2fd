"""The plans of a service: proposals that were brought here, made here or came over the hub, and what became of each."""

from __future__ import annotations

from collections.abc import Callable
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


class PlansView(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `hansa plan list --service` and Plans show: proposals, the newest last day first, and files that are refused."""

    plans: tuple[ListedPlan, ...]
    refused: tuple[Unreadable, ...]

    def table(self) -> list[tuple[str, ...]]:
        """For people: a row for each proposal, the head first."""
        head = ("plan", "proposal", "mode", "state", "still to approve", "this member", "open until (UTC)", "run")
        rows = [
            (
                own.name,
                own.proposal[:SHOWN_DIGITS],
                own.mode,
                own.state,
                ", ".join(own.missing) if own.state == "open" else "",
                each.mine,
                f"{own.expires:%Y-%m-%d %H:%M}",
                "" if each.run is None else each.run.state,
            )
            for each in self.plans
            for own in (each.proposal,)
        ]
        return [head, *rows]


def plans_of(
    service: ServiceFile, store: Store, proposals: Callable[[Consortium, Path], Listed] | None = None
) -> PlansView:
    """All proposals of a service, of every consortium.

    Args:
        proposals: what lists a consortium's folder; default: it is read, and every signature in it checked.

    Raises PlanError where a folder cannot be read.
    """
    found: list[ListedPlan] = []
    refused: list[Unreadable] = []
    for consortium in service.consortia:
        folder = service.proposals_of(consortium)
        if not folder.is_dir():
            continue
        listed = (proposals or (lambda own, place: listed_in(own, place, store)))(consortium, folder)
        refused += listed.refused
        found += [_listed(consortium, own, store) for own in listed.proposals]
    found.sort(key=lambda own: (own.proposal.expires, own.proposal.proposal), reverse=True)
    return PlansView(plans=tuple(found), refused=tuple(refused))


def listed_in(consortium: Consortium, folder: Path, store: Store) -> Listed:
    """The proposals in one consortium's folder; those that became runs may name keys that members had then."""
    return list_proposals(folder, consortium.members, read=lambda path: read_kept(path, consortium, store))


def read_kept(path: Path, consortium: Consortium, store: Store) -> Proposal:
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


def _listed(consortium: Consortium, own: ListedProposal, store: Store) -> ListedPlan:
    name = consortium.identity.name
    mine = "rejected" if name in own.rejected else "approved" if name in own.approved else "waits"
    run = None if own.missing else store.named(own.proposal[:SHOWN_DIGITS])
    return ListedPlan(consortium=consortium.name, proposal=own, mine=mine, run=run)
