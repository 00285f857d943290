"""A small study that has run, for conformance tests to look at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from nasopt.architecture.base import CandidateArchitecture
from nasopt.config.study import StudyConfig
from nasopt.execution.search import run_base, run_trials
from nasopt.methods.base import Method
from nasopt.records import queries
from nasopt.storage.rdb import parse_url
from nasopt.study.creation import create
from nasopt.study.opening import OpenStudy, open_study
from nasopt.training.weights import WeightSource
from nasopt.trial.objective import Objective

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

    from nasopt.training.context import Context


@dataclass(frozen=True)
class Proposal:
    """A trial as its method saw it.

    Attributes:
        params: its parameters.
        context: the study's, with the trial under way.
        architecture: the architecture that the method made of them.
    """

    params: Mapping[str, Any]
    context: Context
    architecture: CandidateArchitecture


@dataclass
class SmallStudy:
    """A study with its base model.

    Attributes:
        opened: the study, in a database file of its own.
        objective: runs its trials.
        proposals: those of the trials that were neither rejected nor known already.
    """

    opened: OpenStudy
    objective: Objective
    proposals: list[Proposal]

    @classmethod
    def created(cls, config: StudyConfig, folder: Path) -> SmallStudy:
        """A new study in a folder, with its base model trained and measured."""
        url = parse_url(f"sqlite:///{folder}/study.db")
        create(config, url)
        return cls.reopened(folder, config.name)

    @classmethod
    def reopened(cls, folder: Path, name: str) -> SmallStudy:
        """The study in a folder as a new process finds it: nothing but what is stored is known of it."""
        opened = open_study(parse_url(f"sqlite:///{folder}/study.db"), name)
        study = cls(opened, Objective(opened.config, opened.artifacts), [])
        study._listen()
        run_base(opened, study.objective)
        study.objective.prepare(opened.study)
        return study

    @property
    def method(self) -> Method:
        """The study's method, with its options."""
        return self.objective.method

    @property
    def context(self) -> Context:
        """The context that the study has prepared for its trials."""
        return self.objective.prepare(self.opened.study)

    def run(self, count: int) -> list[FrozenTrial]:
        """Runs some trials and returns them; rejected ones come on top."""
        before, tickets = len(self.opened.study.get_trials(deepcopy=False)), iter(range(count))
        run_trials(self.opened, self.objective, lambda: next(tickets, None) is not None, lambda trial: None)
        return self.opened.study.get_trials(deepcopy=False)[before:]

    def found(self) -> list[FrozenTrial]:
        """Complete trials of the search, without the base model."""
        base = queries.base_of(self.opened.study)
        trials = self.opened.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return [trial for trial in trials if base is None or trial.number != base.number]

    def source(self, proposal: Proposal) -> WeightSource:
        """The source of a proposal's weights."""
        return self.method.weights(proposal.params, proposal.context)

    def _listen(self) -> None:
        """Notes each proposal that the method describes."""
        method, proposals = self.method, self.proposals
        describe = method.architecture

        def noting(params: Mapping[str, Any], context: Context) -> CandidateArchitecture:
            architecture = describe(params, context)
            proposals.append(Proposal(dict(params), context, architecture))
            return architecture

        method.architecture = noting  # type: ignore[method-assign]


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value lies in a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, IntDistribution | FloatDistribution)
    inside: bool = distribution.low <= value <= distribution.high
    return inside and (not distribution.step or abs((value - distribution.low) / distribution.step % 1) < 1e-9)


def other_values(distribution: BaseDistribution, value: Any) -> list[Any]:
    """Up to two other values of a distribution."""
    if isinstance(distribution, CategoricalDistribution):
        candidates = list(distribution.choices)
    else:
        assert isinstance(distribution, IntDistribution | FloatDistribution)
        candidates = [distribution.low, distribution.high]
    return [candidate for candidate in candidates if candidate != value][:2]


def shapes_of(model: PreTrainedModel) -> dict[str, tuple[int, ...]]:
    """The shape of each stored tensor, by name."""
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def outputs_of(model: PreTrainedModel) -> Tensor:
    """The outputs of a model, on the CPU and in eval mode, for a batch of random tokens: logits, or hidden states."""
    import torch

    from nasopt.models.example_inputs import fixed_batch
    from nasopt.models.outputs import main_output

    with torch.inference_mode():
        outputs = main_output(model.cpu().eval()(**fixed_batch(model)))
    return outputs.float()
