"""AdaBERT: differentiable search of a small convolutional student.

A supernet that mixes seven operations in every cell is trained once per study, by distillation from the base model. It
learns how probable each operation is in each cell. A trial is one architecture drawn from that distribution: cut out of
the supernet with its weights, fine-tuned with distillation, and measured. Trial 0 is the base model, no student.

Reference: METHODS.md, section 3; Chen et al. 2020, "AdaBERT: Task-Adaptive BERT Compression with Differentiable Neural
Architecture Search".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.distributions import CategoricalDistribution

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.cells import OPERATIONS, CellArchitecture
from nasopt.errors import StudyFileError
from nasopt.methods.adabert.controls import AdaBERTControls
from nasopt.methods.adabert.options import AdaBERTOptions
from nasopt.methods.adabert.weights import FromSupernet, student_architecture
from nasopt.methods.base import About, Method, Plan
from nasopt.methods.controls import Controls
from nasopt.methods.space import SearchSpace
from nasopt.records.queries import study_detail
from nasopt.samplers.adabert import SUPERNET, AdaBERTSampler
from nasopt.training.weights import WeightSource

if TYPE_CHECKING:
    from optuna import Study

    from nasopt.config.study import StudyConfig
    from nasopt.tasks.base import Task
    from nasopt.training.context import Context


class AdaBERTMethod(Method):
    """Draws students from the distribution over operations that a supernet has learnt."""

    about = About(
        name="adabert",
        searches=(
            "operations of a small convolutional student, by a supernet that mixes them; weights are inherited from it"
        ),
        options=AdaBERTOptions,
        task_types=("text-classification",),
        sources=(FromSupernet,),
        architectures=(CellArchitecture,),
    )
    options: AdaBERTOptions

    @property
    def plan(self) -> Plan:
        return Plan(self.options.trials)

    def sampler(self, seed: int | None) -> AdaBERTSampler:
        return AdaBERTSampler(temperature=self.options.temperature, seed=seed)

    def check(self, task: Task, config: StudyConfig) -> None:
        shape, options = task.shape, self.options
        if task.labelled is None:
            raise StudyFileError(
                f"task.kind: {config.method} searches models for one label for each text, not for {config.task.kind}"
            )
        for student, teacher in options.layer_pairs:
            if teacher > shape.num_layers:
                raise StudyFileError(
                    f"method_options.layer_pairs: ({student}, {teacher}): the base model has the hidden states 0 to "
                    f"{shape.num_layers} (0: the embeddings, then one after each layer)"
                )
        widest = min(options.hidden_size, shape.hidden_size)
        if options.embedding_rank is not None and options.embedding_rank > widest:
            raise StudyFileError(
                f"method_options.embedding_rank: {options.embedding_rank}, but a rank above {widest} (the smaller of "
                "hidden_size and the base model's) has no use"
            )

    def prepare(self, context: Context) -> Mapping[str, Any]:
        """Trains the supernet, once for this study; what it chose is stored with the study."""
        from nasopt.methods.adabert.weights import supernet_search

        search = supernet_search(self.options, context)
        return {SUPERNET: search.run(lambda done, total: context.on_phase("supernet", done, total))}

    def space(self, shape: EncoderShape) -> SearchSpace:
        """An operation for each cell; the base model lies outside."""
        names = (f"cell_{index}" for index in range(self.options.cells))
        return SearchSpace({name: CategoricalDistribution(OPERATIONS) for name in names})

    def architecture(self, params: Mapping[str, Any], context: Context) -> CellArchitecture:
        return student_architecture([params[f"cell_{index}"] for index in range(self.options.cells)], self.options)

    def weights(self, params: Mapping[str, Any], context: Context) -> WeightSource:
        """The supernet's, fine-tuned."""
        return FromSupernet(self.options)

    @property
    def controls(self) -> Controls:
        return AdaBERTControls(self.options)

    def summary(self, study: Study) -> dict[str, Any]:
        """The number of epochs of the supernet's search, and its verdict."""
        found = study_detail(study, SUPERNET)
        return {"supernet": None if found is None else {"epochs": found["epochs"], "verdict": found["text"]}}
