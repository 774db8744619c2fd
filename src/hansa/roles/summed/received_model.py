"""The end of a run as a party is told it: a model that must be the one which the splits and leaves of the run make, or none."""

from __future__ import annotations

import hashlib
import zlib

import numpy as np

from hansa.data.quantiles import Cuts
from hansa.plan import Plan
from hansa.protocol.messages import Explain, Finish
from hansa.roles.reading import reading_of
from hansa.roles.summed.asker import Asker
from hansa.roles.summed.start_model import StartModel
from hansa.trees.contributions import most_contribution
from hansa.trees.ensemble import Ensemble
from hansa.trees.growth import tree_received
from hansa.trees.guided_search import FeatureRules
from hansa.trees.level import Level
from hansa.trees.xgboost_json import from_json, to_json

NODE_BYTES, CATEGORY_BYTES, TREE_BYTES, HEAD_BYTES = 256, 9, 1024, 2**16
"""More than a node, a category of its split, a tree without its nodes, and a model without its trees and names take in a model file."""


class ReceivedModel:
    """The trees that a party was told, and the model that they make.

    Args:
        plan: as every member holds it. name: this party. before: the model that training goes on from, or None.

    Attributes:
        trees: of a receiver, the levels of each tree that ended. nodes: of all trees that grew here; categories: that go right, of all
            their splits. model: the XGBoost JSON, once received. withheld: whether nobody gets it. shap: as in `Finish`, by feature.
    """

    def __init__(
        self,
        asker: Asker,
        plan: Plan,
        name: str,
        before: StartModel | None,
    ) -> None:
        self.trees: list[tuple[Level, ...]] = []
        self.nodes = 0
        self.categories = 0
        self.model: bytes | None = None
        self.withheld = False
        self.shap: dict[str, float] = {}
        self._asker = asker
        self._plan = plan
        self._receives = name in plan.receivers
        self._before = before
        self._per_round = plan.parameters.trees_per_round

    def begin(self, plan: Plan, cuts: Cuts, rules: FeatureRules, base_scores: tuple[float, ...]) -> None:
        """Training starts. plan: with the levels that the run found. cuts, rules: of the features, with categories."""
        self._plan = plan
        self._cuts = cuts
        self._rules = rules
        self._base_scores = base_scores

    def count(self, level: Level, *, root: bool) -> None:
        """Count the nodes that a level of splits makes."""
        self.nodes += 2 * int(np.count_nonzero(level.feature >= 0)) + root
        if len(level.categories):
            unordered = (level.feature >= 0) & (self._rules.n_categories[level.feature] > 0)
            self.categories += int(level.bin[unordered].sum())

    def finish(self, message: Finish) -> None:
        """Keep the model, or that it is withheld, as the plan's release says. Raises ProtocolError."""
        condition = self._plan.release
        if not condition.metric and message.metric is not None:
            raise self._asker.broken("a metric is told of a release that depends on none")
        if not condition.is_reached(message.metric):
            if message.model or message.model_sha256:
                raise self._asker.broken(
                    f"a model is told of whose {condition.metric} is {message.metric}; the plan's release demands {condition.condition}"
                )
            if self._receives:  # others keep no trees
                self._check_length(message.trees)
            self.withheld = True
            return
        if self.shap:
            return
        if self._plan.shap or message.shap:
            raise self._asker.broken("the run ends without SHAP values that the plan has, or with others")
        if self._receives != bool(message.model):
            raise self._asker.broken(
                f"this party is {'' if self._receives else 'not '}a receiver of the plan; the model says otherwise"
            )
        if self._receives:
            self.model = self._open(message)

    def explain(self, message: Explain) -> tuple[Ensemble, float]:
        """The model that SHAP values are asked of, and the most that one can be. Raises ProtocolError."""
        if not self._plan.shap:
            raise self._asker.broken("SHAP values are asked for, and the plan has no evaluation.shap")
        self._explained = message.trees, message.model_sha256, self._open(message)
        ensemble = from_json(self._explained[2])
        self._most_shap = most_contribution(ensemble)
        return ensemble, self._most_shap

    def see_summary(self, message: Finish) -> None:
        """Keep what is told of all parties' SHAP values, and the model that they are of."""
        trees, digest, model = self._explained
        features = self._plan.schema.features
        if (message.trees, message.model_sha256, message.model) != (trees, digest, b""):
            raise self._asker.broken("the run ends with another model than SHAP values were asked of")
        if len(message.shap) != len(features) or not all(0 <= own <= self._most_shap * 2 for own in message.shap):
            raise self._asker.broken(
                f"mean sizes of SHAP values are {message.shap!r:.200}; expected one for each feature, none too large"
            )
        self.model = model
        self.shap = dict(zip(features, message.shap, strict=True))

    def _open(self, message: Explain | Finish) -> bytes:
        """The model file, which must be the one that the splits and leaves of this run make, to the byte."""
        self._check_length(message.trees)
        received = self.trees[: message.trees]
        inflate = zlib.decompressobj()
        most = self.model_bytes()
        try:
            model = inflate.decompress(message.model, most)
        except zlib.error as error:
            raise self._asker.broken(f"the model cannot be decompressed: {error}") from error
        if not inflate.eof and len(model) == most:
            raise self._asker.broken(f"the model has more than the {most} bytes that the trees of this run can take")
        if not inflate.eof or inflate.unused_data or hashlib.sha256(model).digest() != message.model_sha256:
            raise self._asker.broken("the model is cut short or does not have the hash that was announced")
        with self._asker.blaming():
            if model != to_json(self.rebuilt(from_json(model), received)):
                raise self._asker.broken("the model is not the one that the splits and leaves of this run make")
        return model

    def _check_length(self, trees: int) -> None:
        """Refuse another number of trees than training to the end, or early stopping as the plan says, can leave."""
        parameters, grown = self._plan.parameters, len(self.trees) // self._per_round
        stopping_rounds = parameters.early_stopping_rounds
        trees, rest = divmod(trees, self._per_round)
        if rest:
            raise self._asker.broken(f"the model is said to end within a round of {self._per_round} trees")
        whole = grown == parameters.rounds and (trees == grown or (stopping_rounds is not None and 1 <= trees <= grown))
        stopped = stopping_rounds is not None and 1 <= trees <= grown - stopping_rounds
        ended = self._plan.trial is not None and 1 <= trees <= grown  # a trial that is behind others
        if not whole and not stopped and not ended:
            raise self._asker.broken(
                f"the model is said to have {trees} rounds of {grown} that were grown; the plan's rounds are {parameters.rounds}, its "
                f"early_stopping_rounds {stopping_rounds}"
            )

    def rebuilt(self, told: Ensemble, received: list[tuple[Level, ...]]) -> Ensemble:
        """The model as this party received it. Gains, covers and inner weights, which no party receives, are the file's, or 0 where
        the plan releases none.
        """
        before = () if self._before is None else self._before.ensemble.trees
        if len(told.trees) != len(before) + len(received):
            raise self._asker.broken(
                f"the model has {len(told.trees)} trees; {len(received)} were announced"
                + (f", behind {len(before)} of start_model" if before else "")
            )
        public = self._cuts.offsets, self._cuts.values, self._rules.n_categories
        scores = self._base_scores
        return Ensemble(
            objective=self._plan.parameters.objective,
            base_score=scores if len(scores) > 1 else scores[0],
            feature_names=self._plan.schema.features,
            trees=(
                *before,
                *(
                    tree_received(levels, *public, theirs if self._plan.statistics else None)
                    for levels, theirs in zip(received, told.trees[len(before) :], strict=True)
                ),
            ),
            categories=tuple(self._plan.schema.levels.get(name) for name in self._plan.schema.features),
            num_parallel_tree=self._plan.parameters.num_parallel_tree,
            quantile_alpha=self._plan.parameters.quantile_alpha,
            reading=reading_of(self._plan),
        ).with_one_base_score()

    def model_bytes(self) -> int:
        """More bytes than a model file of the trees that grew here has, names and levels included."""
        trees = self._asker.tree + 1
        of_trees = NODE_BYTES * self.nodes + CATEGORY_BYTES * self.categories + TREE_BYTES * trees
        before = 0 if self._before is None else self._before.size + TREE_BYTES * len(self._before.ensemble.trees)
        return of_trees + 4 * before + 8 * len(self._plan.canonical()) + HEAD_BYTES
