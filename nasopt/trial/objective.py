"""The objective: trial -> (quality, latency_ms, memory_mb), of the very artifact that `export` would write."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.errors import DeviceChangedError
from nasopt.host.identity import worker_identity
from nasopt.measurement.inputs import fixed_batch
from nasopt.measurement.sources import LatencySource, device_changes, make_sources, with_value
from nasopt.methods.registry import make_method
from nasopt.records import names as attributes
from nasopt.records import queries
from nasopt.records.notes import TrialFacts, failure_text, note_text
from nasopt.samplers.history import is_exhausted, parent_of
from nasopt.storage.attachments import attach
from nasopt.storage.attachments import documents as attached_documents
from nasopt.storage.internals import database_of
from nasopt.storage.notes import save_note
from nasopt.storage.rdb import artifact_folder, parse_url
from nasopt.storage.validation_predictions import Predictions, PredictionStore
from nasopt.training.candidate import Candidate, Lineage, RejectedCandidateError
from nasopt.training.context import Context
from nasopt.trial.repetition import DoneWork, repeat

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from nasopt.tasks.base import Evaluation

TrialPhaseCallback = Callable[[int, str, int, int], None]
"""(trial number, what is being done, steps done, steps in all; 0 of 0 where that is not known)."""

logger = logging.getLogger("nasopt")


class Objective:
    """Builds, trains and measures the candidate that a trial describes.

    Data and base model are prepared at the first call. A trial that fails (a loss that is not finite, memory that runs
    out, a full disk) gets its reason in the user attribute ``failure`` and the value NaN, which Optuna records as a
    failed trial: it never stops the study.

    Args:
        config: the study's configuration.
        artifacts: where the study's files go; beside the study's SQLite file (else in ``./nasopt-artifacts``) if None.
        on_phase: told what is being done.
        accept_device_change: go on, and mark the trials, where latencies come from another device than trial 0's.

    Example:
        >>> objective = nasopt.Objective(config)
        >>> study = optuna.create_study(directions=objective.directions, sampler=objective.sampler(seed=0))
        >>> study.optimize(objective, n_trials=40)
    """

    def __init__(
        self,
        config: StudyConfig,
        artifacts: str | Path | None = None,
        on_phase: TrialPhaseCallback | None = None,
        *,
        accept_device_change: bool = False,
    ) -> None:
        self.config = config
        self.method = make_method(config)
        self._artifacts = None if artifacts is None else Path(artifacts)
        self._on_phase = on_phase or (lambda number, phase, done, total: None)
        self._accept_device_change = accept_device_change
        self._context: Context | None = None
        self.trial_number = -1
        """The latest trial that this process began; -1 before the first."""
        self._busy = threading.Lock()
        self._done = DoneWork()

    @property
    def directions(self) -> list[StudyDirection]:
        return [StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * (len(self.config.latency) + 1)

    @property
    def metric_names(self) -> list[str]:
        """Names of the values, in their order."""
        return ["quality", *[latency.objective_name for latency in self.config.latency], "memory_mb"]

    @cached_property
    def sources(self) -> dict[str, LatencySource]:
        """Where each latency comes from on this machine, by objective.

        Raises:
            NasoptError: a device or runtime is not here (see :func:`nasopt.measurement.sources.make_source`).
        """
        return make_sources(self.config, self.method.precisions)

    def sampler(self, seed: int | None = None) -> BaseSampler:
        """The method's sampler; the study file's seed if none is given."""
        return self.method.sampler(self.config.seed if seed is None else seed)

    def prepare(self, study: optuna.Study) -> Context:
        """Tokenises the data, trains the base model and, once there is a base trial, prepares the method.

        What has been done before, by any process, is not done again.

        Raises:
            NasoptError: what the user can mend (see :func:`nasopt.trial.preparation.prepare`).
            DeviceChangedError: the study began on another device, and that is not accepted.
        """
        from nasopt.trial.preparation import prepare

        self.check_device(study)

        if self._context is None:
            folder = self._artifacts or _default_artifacts(study)
            self._context = prepare(
                self.config,
                folder / self.config.name,
                lambda phase, done, total: self._on_phase(self.trial_number, phase, done, total),
                has_trials=queries.base_of(study) is not None,
                make_recorder=self.method.base_recorder,
            )
        if queries.base_of(study) is not None:
            self.method.prepare(study, self._context)
        return self._context

    def __call__(self, trial: optuna.Trial) -> tuple[float, ...]:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                "n_jobs > 1 is refused: trials of one process would train and measure at the same time and spoil each "
                "other's latency; run several processes on one database instead (`nasopt study optimize --workers`)"
            )
        try:
            self.trial_number = trial.number
            trial.set_user_attr(attributes.WORKER, worker_identity())
            context = self.prepare(trial.study)
            return self._run(trial, context)
        finally:
            self._busy.release()

    def _run(self, trial: optuna.Trial, context: Context) -> tuple[float, ...]:
        if is_exhausted(trial):
            trial.set_user_attr(attributes.EXHAUSTED, True)
            trial.study.stop()
            raise optuna.TrialPruned("every genotype the method can reach has been tried")
        try:
            values = self._values(trial, context)
        except RejectedCandidateError as rejected:
            for name, violation in rejected.constraints.items():
                trial.set_constraint(name, violation)
            trial.set_user_attr(attributes.REJECTED, str(rejected))
            context.on_phase("rejected", 0, 0)
            raise optuna.TrialPruned(str(rejected)) from None
        except (optuna.TrialPruned, UpdateFinishedTrialError, StorageInternalError):
            raise  # nothing can be written to a trial that others ended, or to a database that is gone
        except KeyboardInterrupt as error:
            trial.set_user_attr(attributes.INTERRUPTED, True)
            trial.set_user_attr(attributes.FAILURE, f"interrupted: {str(error) or 'Ctrl-C'}")
            raise
        except Exception as error:
            # Whatever went wrong in one candidate must not end the study; the reason stays with the trial.
            reason = f"{type(error).__name__}: {str(error) or 'no message'}".splitlines()[0]
            trial.set_user_attr(attributes.FAILURE, reason)
            save_note(trial, failure_text(reason, parent_of(trial)))
            logger.warning("trial %d failed: %s", trial.number, reason)
            logger.debug("trial %d", trial.number, exc_info=True)
            _free_memory()
            return (math.nan,) * len(self.directions)
        self.collect(trial.study)
        return values

    def _values(self, trial: optuna.Trial, context: Context) -> tuple[float, ...]:
        """The trial's values, from the work it describes or from the trial that has done the same work before."""
        if attributes.CONTROL_RECIPE in trial.user_attrs:
            candidate = self.method.build_control(trial.user_attrs[attributes.CONTROL_RECIPE], trial, context)
        else:
            base_params = self.method.base_params(context.shape)
            is_base = not base_params and queries.base_of(trial.study) is None
            params = {} if is_base else self.method.suggest(trial, context.shape)
            known = None if is_base else self._done.get(trial, params)
            if known is not None:
                PredictionStore(context.folder).copy(known.number, trial.number)
                return repeat(trial, known)
            if params == base_params and parent_of(trial) is None:
                candidate = Candidate(context.base_model, Architecture.full(context.shape), Lineage())
            else:
                candidate = self.method.build(trial, params, context)
        values = self._measure(trial, candidate, context)
        self._store(trial, candidate, values, context)
        return values

    def _measure(self, trial: optuna.Trial, candidate: Candidate, context: Context) -> tuple[float, ...]:
        """Quality, latencies and memory of the artifact; what belongs to them goes into user attributes."""
        from nasopt.measurement.device import device_name
        from nasopt.measurement.measured.memory import memory_mb, peak_memory_mb
        from nasopt.models.quantization import stored_tensors

        base = queries.base_of(trial.study)
        changes = self._device_changes(base)
        if changes:
            trial.set_user_attr(attributes.DEVICE_CHANGE, "; ".join(changes))
        device = next(iter(self.sources.values())).device
        artifact = self.method.quantize(candidate, device)
        # NOTE: memory first: the first forward pass of an nf4 model repacks its weights in place.
        weights = memory_mb(stored_tensors(artifact))
        context.on_phase("evaluating", 0, 0)
        view = context.view(candidate.architecture)
        evaluation = context.task.evaluate(artifact, view.splits["validation"], device, view.tokenizer)
        if not math.isfinite(evaluation.quality):
            raise ValueError(f"the quality is {evaluation.quality}")
        if evaluation.details:
            trial.set_user_attr(attributes.QUALITY_DETAILS, dict(evaluation.details))
        self._keep_predictions(trial, evaluation, context)
        context.on_phase("measuring", 0, 0)
        batch = fixed_batch(self.config.latency[0], context, artifact)
        workload = context.task.workload(artifact)
        memory = {"weights_mb": weights, "peak_mb": peak_memory_mb(workload, batch, weights, device)}
        trial.set_user_attr(attributes.MEMORY, {**memory, "device": device_name(device)})
        latencies = {}
        for position, (name, source) in enumerate(self.sources.items(), start=1):
            if source.device != device:
                # Afresh, not moved: a bitsandbytes model that has run stays behind in part.
                artifact, device = self.method.quantize(candidate, source.device), source.device
            record = source.record(artifact, candidate, context)
            latencies[name] = with_value(record, base.values[position] if base else None)
        trial.set_user_attr(attributes.LATENCY, latencies)
        return (
            evaluation.quality,
            *[item["value_ms"] for item in latencies.values()],
            memory[f"{self.config.memory}_mb"],
        )

    def _device_changes(self, base: FrozenTrial | None) -> list[str]:
        """In which objectives this machine's values do not compare with trial 0's, and why."""
        if base is None:
            return []
        from nasopt.measurement.device import device_name

        changes = device_changes(base.user_attrs[attributes.LATENCY], self.sources)
        began_on = base.user_attrs.get(attributes.MEMORY, {}).get("device")
        found = device_name(next(iter(self.sources.values())).device)
        if self.config.memory == "peak" and began_on not in (None, found):
            changes.append(f"memory_mb: measured, {found}, but the study began with: measured, {began_on}")
        return changes

    def check_device(self, study: optuna.Study) -> None:
        """Makes sure that this machine's values compare with those of the study, unless that is accepted.

        Raises:
            DeviceChangedError: trial 0 was measured on another device, or predicted where this machine measures.
        """
        changes = self._device_changes(queries.base_of(study))
        if changes and not self._accept_device_change:
            raise DeviceChangedError(
                f"{'; '.join(changes)}; such values do not compare: go on there, create a new study here, or pass "
                "--accept-device-change, which marks the new trials"
            )

    def _keep_predictions(self, trial: optuna.Trial, evaluation: Evaluation, context: Context) -> None:
        split = context.splits["validation"]
        if evaluation.replicates is not None:
            predictions = Predictions.of_replicates(evaluation.replicates, split.fingerprint)
        elif evaluation.outputs is not None:
            labels, classes = split.labels.numpy(), context.task.is_classification
            predictions = Predictions.of_outputs(evaluation.outputs, labels, split.fingerprint, classes=classes)
        else:
            return
        PredictionStore(context.folder).write(trial.number, predictions)

    def _store(self, trial: optuna.Trial, candidate: Candidate, values: tuple[float, ...], context: Context) -> None:
        """Keeps the fp32 weights for children and export, and says what the candidate is."""
        from nasopt.measurement.measured.flops import count_flops

        context.on_phase("storing", 0, 0)
        lineage = candidate.lineage
        key = context.checkpoints.write(
            candidate.model.state_dict(),
            candidate.architecture,
            announce=lambda key: trial.set_user_attr(attributes.CHECKPOINT, key),
        )
        parameters = candidate.model.num_parameters()
        is_control = attributes.CONTROL in trial.user_attrs
        batch = fixed_batch(self.config.latency[0], context, candidate.model)
        flops = count_flops(context.task.workload(candidate.model), batch)
        for name, violation in self.method.constraints(self.config.task.metric, values[0], parameters).items():
            trial.set_constraint(name, violation)
        described = {
            attributes.ARCHITECTURE: candidate.architecture.brief(),
            attributes.PRECISION: candidate.architecture.precision,
            attributes.PARENT: lineage.parent,
            "finetune_epochs": lineage.finetune_epochs,
            "distill_epochs": lineage.distill_epochs,
            "search_epochs": lineage.search_epochs,
            "training_result": candidate.training,
            "parameters": parameters,
            "flops": flops,
            **({} if is_control else self.method.scores(trial.study, values, parameters)),
        }
        for name, value in described.items():
            trial.set_user_attr(name, value)
        if lineage.parent is None and key == context.base_key and not is_control:
            trial.set_user_attr(attributes.IS_BASE, True)
        facts = self._facts(trial, candidate, values, context)
        attach(trial, context.folder, attached_documents(facts))
        save_note(trial, note_text(facts))

    def _facts(
        self, trial: optuna.Trial, candidate: Candidate, values: tuple[float, ...], context: Context
    ) -> TrialFacts:
        """What the trial's note says."""
        lineage, base = candidate.lineage, queries.base_of(trial.study)
        return TrialFacts(
            architecture=candidate.architecture,
            shape=context.shape,
            parameters=candidate.model.num_parameters(),
            flops=trial.user_attrs["flops"],
            values=dict(zip(self.metric_names, values, strict=True)),
            base_values=dict(zip(self.metric_names, base.values, strict=True)) if base else {},
            metric=self.config.task.metric,
            latencies=trial.user_attrs[attributes.LATENCY],
            memory=trial.user_attrs[attributes.MEMORY],
            device_change=trial.user_attrs.get(attributes.DEVICE_CHANGE),
            parent=lineage.parent,
            trained=trial.params.get("training", "distill" if lineage.distill_epochs else "none"),
            training=candidate.training,
            epochs={
                "fine-tuning": lineage.finetune_epochs,
                "distillation": lineage.distill_epochs,
                "search": lineage.search_epochs,
            },
            control=trial.user_attrs.get(attributes.CONTROL),
            quality_details=trial.user_attrs.get(attributes.QUALITY_DETAILS, {}),
        )

    def collect(self, study: optuna.Study) -> None:
        """Deletes what nobody needs.

        Of the checkpoints those stay that are possible parents', on the Pareto front or being used, and the latest
        control's, which the next one may only store in another precision; of the predictions the front's, the base
        model's and all controls'.
        """
        assert self._context is not None
        checkpoints = self._context.checkpoints
        with checkpoints.lock():
            trials = study.get_trials(deepcopy=False)
            front = queries.pareto_front(study)
            controls = queries.complete_controls(study)
            users = [*self.method.parents(study), *front, *controls[-1:]]
            keep = {self._context.base_key, *(trial.user_attrs.get(attributes.CHECKPOINT, "") for trial in users)}
            keep.update(_keys_in_use(trials))
            checkpoints.collect((trial.user_attrs.get(attributes.CHECKPOINT, "") for trial in trials), keep)
            compared = {trial.number for trial in (*front, *controls)} | {study.user_attrs.get(attributes.BASE, 0)}
            finished = (trial.number for trial in trials if trial.state.is_finished())
            PredictionStore(self._context.folder).collect(finished, compared)


def _keys_in_use(trials: Sequence[FrozenTrial]) -> set[str]:
    """Checkpoints that trials under way, or waiting, have written or inherit from."""
    states = (TrialState.RUNNING, TrialState.WAITING)
    unfinished = [trial for trial in trials if trial.state in states]
    parents = {parent_of(trial) for trial in unfinished}
    users = [*unfinished, *(trials[number] for number in parents if number is not None)]
    return {trial.user_attrs.get(attributes.CHECKPOINT, "") for trial in users}


def _default_artifacts(study: optuna.Study) -> Path:
    database = database_of(study)
    return artifact_folder(parse_url("sqlite://" if database is None else database.url))


def _free_memory() -> None:
    """Gives back what a failed candidate held on the GPU, or the next one may fail for the same reason."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
