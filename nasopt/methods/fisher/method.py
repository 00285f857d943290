"""Fisher: the least lossy sub-network of every latency, by second-order importance, without training or healed.

Heads and FFN neurons are ordered once for a study by what leaving them out is expected to cost. A trial says a share of
the base model's latency; a dynamic programme over the device's times chooses how many units each block keeps; least
squares refit the output projections, or the weights come from an elastic base that was trained once for the study.
Distillation from the base model heals a sub-network where a trial asks for it.

Source: METHODS.md, section 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution, FloatDistribution

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.methods.base import About, Method, Plan
from nasopt.methods.controls import Controls
from nasopt.methods.fisher.controls import FisherControls
from nasopt.methods.fisher.options import CriterionName, FisherOptions
from nasopt.methods.fisher.weights import elastic_settings, healed, sub_networks, untrained
from nasopt.methods.space import SearchSpace
from nasopt.numerics.budget import LOWEST_SHARE, bisected, share_ladder
from nasopt.records.names import LADDER
from nasopt.samplers.fisher import FisherSampler
from nasopt.samplers.named import sampler_maker
from nasopt.training.candidate import RejectedCandidateError
from nasopt.training.weights import Cut, Stored, WeightSource

if TYPE_CHECKING:
    from nasopt.config.study import StudyConfig
    from nasopt.tasks.base import Task
    from nasopt.training.context import Context


class FisherMethod(Method):
    """Sub-networks by sensitivity, for shares of the base model's latency."""

    about = About(
        name="fisher",
        searches=(
            "shares of the base model's latency: heads and FFN neurons kept by second-order importance, refitted "
            "without training or distilled"
        ),
        options=FisherOptions,
        task_types=("text-classification", "token-classification", "question-answering", "sentence-similarity"),
        sources=(Cut, Stored),
    )
    options: FisherOptions

    @property
    def plan(self) -> Plan:
        return Plan(self.options.trials, self.options.precisions)

    def sampler(self, seed: int | None) -> FisherSampler:
        options = self.options
        base, *rungs = share_ladder(1.0, self._lowest_share, options.ladder + 1)
        make = sampler_maker(options.sampler, options.population_size)
        first = [_untrained(share, options.searched_criteria[0]) for share in (base, *bisected(rungs))]
        healing = {"training": "distill", "criterion": options.trained_criterion}
        others = [precision for precision in options.precisions if precision != first[0]["precision"]]
        return FisherSampler(make, seed, first, healing, others)

    @property
    def _lowest_share(self) -> float:
        return self.options.lowest_share or LOWEST_SHARE

    def check(self, task: Task, config: StudyConfig) -> None:
        """Refuses tasks and models without sensitivities, and a ladder that ends where no sub-network is."""
        from nasopt.training.sensitivity import check_task
        from nasopt.training.sub_networks import check_share

        options = self.options
        check_task(options.examples, task)
        if options.lowest_share is not None:
            name = "method_options.lowest_share"
            check_share(name, options.lowest_share, options.cost, config.latency[0], task.shape)

    def space(self, shape: EncoderShape) -> SearchSpace:
        """A share of the latency, and what becomes of the sub-network; the base model has all of its latency."""
        options = self.options
        return SearchSpace(
            {
                "latency_share": FloatDistribution(self._lowest_share, 1.0, log=True),
                "precision": CategoricalDistribution(options.precisions),
                "training": CategoricalDistribution(("none", "distill")),
                "criterion": CategoricalDistribution(options.searched_criteria),
            },
            _untrained(1.0, options.searched_criteria[0]),
        )

    def prepare(self, context: Context) -> Mapping[str, Any]:
        """Finds sensitivities, the device's times and the ladder, and trains the elastic base where weights come from
        one, once for this study.
        """
        options = self.options
        networks = [sub_networks(criterion, options, context) for criterion in options.searched_criteria]
        if options.weights == "elastic":
            from nasopt.training.elastic import elastic_base

            elastic_base(elastic_settings(options, context), context)
        shares = networks[0].shares(options.lowest_share, options.ladder)
        return {LADDER: [self.rung(share, context) for share in shares]}

    def rung(self, share: float, context: Context) -> dict[str, Any]:
        """The parameters of the untrained sub-network of a share of the latency.

        Fisher information adds up what the units of a block cost one by one, and so does not see its last one go: where
        all heads of the last layer would, and the first token reads nothing there, the next criterion is asked.
        """
        criteria = self.options.searched_criteria
        found = ((item, sub_networks(item, self.options, context).architecture(share)) for item in criteria)
        with_heads = (item for item, architecture in found if _has_last_heads(architecture))
        return _untrained(share, next(with_heads, criteria[-1]))

    def architecture(self, params: Mapping[str, Any], context: Context) -> Architecture:
        """The sub-network with the least expected loss within the share of the latency.

        Raises:
            RejectedCandidateError: no sub-network is that fast.
        """
        networks, share = sub_networks(params["criterion"], self.options, context), params["latency_share"]
        excess = networks.smallest_share - share
        if excess > 0:
            raise RejectedCandidateError(
                f"a share of {share:.3f} of the latency cannot be reached: the smallest sub-network takes "
                f"{networks.smallest_share:.3f} of it",
                {"latency_share": excess},
            )
        return networks.architecture(share).with_precision(params["precision"])

    def weights(self, params: Mapping[str, Any], context: Context) -> WeightSource:
        """The base model's, cut and refitted, or the elastic base's; perhaps distilled; or a trial's of equal shape."""
        source = untrained(params["criterion"], self.options, context)
        if params["training"] != "none":
            source = healed(source, context.config.training.epochs, self.options, context)
        return source if context.parent is None else Stored(context.parent, source)

    @property
    def controls(self) -> Controls:
        return FisherControls(self.options)


def _untrained(share: float, criterion: CriterionName) -> dict[str, Any]:
    """The parameters of a trial without training; of a share of 1 they are the base model's."""
    return {"latency_share": share, "precision": "fp32", "training": "none", "criterion": criterion}


def _has_last_heads(architecture: Architecture) -> bool:
    last = architecture.layers[-1]
    return last is not None and bool(last.heads)
