"""What a run gave, and how its end is told: the model to receivers, or that the plan's release withholds it."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hansa.errors import HansaError, ProtocolError
from hansa.plan import Plan
from hansa.protocol import messages
from hansa.protocol.messages import Finish, Received
from hansa.roles.reading import reading_of
from hansa.roles.run import Roster
from hansa.roles.summed.party_rows import Int64
from hansa.roles.summed.release import released_value
from hansa.roles.summed.start_model import StartModel
from hansa.roles.summed.statistics import shap_rows, shap_unit
from hansa.trees.contributions import most_contribution
from hansa.trees.ensemble import Ensemble, Tree, without_statistics


@dataclass(frozen=True)
class Outcome:
    """What a run gave.

    Attributes:
        ensemble: the model. model: its XGBoost JSON.
        history: metric -> its value after 1, 2, ... trees, on all parties' held-out rows; None where it has none.
        without_value: metric -> why it has no value, of those that have none.
        trees_grown: trees grown before early stopping cut the model back.
        exchanges: requests that every party answered between the first tree's start and the end of the last.
        roster: who took part. shap: by feature the mean size of SHAP values, where the plan has them.
    """

    ensemble: Ensemble
    model: bytes
    history: dict[str, list[float | None]]
    trees_grown: int
    exchanges: int
    roster: Roster
    without_value: dict[str, str] = field(default_factory=dict)
    shap: dict[str, float] = field(default_factory=dict)


def model_of(plan: Plan, before: StartModel | None, scores: tuple[float, ...], trees: Sequence[Tree]) -> Ensemble:
    """The model of these trees, behind those that training went on from."""
    return Ensemble(
        objective=plan.parameters.objective,
        base_score=scores if len(scores) > 1 else scores[0],
        feature_names=plan.schema.features,
        trees=(
            *(() if before is None else before.ensemble.trees),
            *(tree if plan.statistics else without_statistics(tree) for tree in trees),
        ),
        categories=tuple(plan.schema.levels.get(name) for name in plan.schema.features),
        num_parallel_tree=plan.parameters.num_parallel_tree,
        quantile_alpha=plan.parameters.quantile_alpha,
        reading=reading_of(plan),
    ).with_one_base_score()


class RunEnd:
    """The end of a run, and which parties have acknowledged it.

    Attributes:
        outcome: what the run gave, once it is over. digest: of what everybody was told. received: who has it.
    """

    def __init__(self, plan: Plan) -> None:
        self.outcome: Outcome | None = None
        self.digest = b""
        self.received: set[str] = set()
        self._plan = plan

    def reach(self, outcome: Outcome) -> None:
        """The run is over."""
        self.outcome = outcome
        self.digest = b"" if self.withheld else hashlib.sha256(outcome.model).digest()

    @property
    def withheld(self) -> bool:
        """Whether the run is over and nobody gets the model, since the metric of the plan's release is not reached."""
        return self.outcome is not None and not self._plan.release.is_reached(self.released_value)

    @property
    def released_value(self) -> float | None:
        """The value of the metric that the release depends on; None where it depends on none."""
        outcome = self.outcome
        if outcome is None or not self._plan.release.metric:
            return None
        return released_value(self._plan, outcome.history, outcome.trees_grown)

    @property
    def packed(self) -> bytes:
        """The model file as it is sent; empty where it is withheld."""
        assert self.outcome is not None  # `reach`
        return b"" if self.withheld else zlib.compress(self.outcome.model, 6)

    def message(self, trees: int, parties: Sequence[str], packed: bytes) -> bytes:
        """The end of the run as these parties are told: as one of them that receives the model, where there is one."""
        receives = {*parties} & {*self._plan.receivers}
        model = packed if receives else b""
        return messages.encode(Finish(trees, self.digest, model, self.released_value))

    def explained(self, trees: int, sums: Int64, n_rows: int, n_evaluation: int) -> bytes:
        """The end of the run with the mean sizes of SHAP values, of which these are the pooled sums. Raises HansaError."""
        plan, outcome = self._plan, self.outcome
        assert outcome is not None  # `reach`
        if (sums < 0).any():
            raise HansaError("sizes of SHAP values do not add up to a number of at least 0")
        unit = shap_unit(plan, most_contribution(outcome.ensemble), n_rows, n_evaluation)
        rows = shap_rows(plan, n_rows, n_evaluation)
        means = tuple(math.ldexp(int(own) / max(rows, 1), unit) for own in sums)
        self.outcome = replace(outcome, shap=dict(zip(plan.schema.features, means, strict=True)))
        return messages.encode(Finish(trees, self.digest, b"", self.released_value, means))

    def acknowledge(self, member: str, message: Received) -> None:
        """A party says that it has what it was told. Raises ProtocolError."""
        if message.model_sha256 != self.digest or member in self.received:
            raise ProtocolError(
                f"member {member!r} acknowledged another model than it was told of, or twice", member=member
            )
        self.received.add(member)
