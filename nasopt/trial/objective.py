"""The objective: trial -> (quality, latency_ms, memory_mb), of the very artifact that `export` would write."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial
from sqlalchemy.exc import SQLAlchemyError

from nasopt.config.study import StudyConfig
from nasopt.errors import DeviceChangedError, MachineError
from nasopt.host.files import gone_words
from nasopt.host.holding import name_study
from nasopt.host.identity import worker_identity
from nasopt.host.locks import lease_with
from nasopt.host.object_store import artifacts_root
from nasopt.host.pausing import pause_for_measurements
from nasopt.measurement.sources import LatencySource
from nasopt.methods.base import Outcome
from nasopt.methods.registry import check_functions, make_method
from nasopt.records import queries
from nasopt.records.study import StudyRecord, fix_base, store_details
from nasopt.records.trial import TrialRecord
from nasopt.samplers.history import is_exhausted
from nasopt.storage.internals import database_of, number_of, study_key
from nasopt.storage.leases import DatabaseLeases, leases_in
from nasopt.storage.validation_predictions import PredictionStore
from nasopt.training.candidate import RejectedCandidateError, ScreenedCandidateError
from nasopt.training.context import BaseTrial, Context
from nasopt.trial import recording, retention
from nasopt.trial.devices import changed_devices, latency_sources
from nasopt.trial.evaluation import evaluate
from nasopt.trial.failures import CURE, machine_failure
from nasopt.trial.folder import folder_of
from nasopt.trial.proposal import propose
from nasopt.trial.repetition import DoneWork, repeat

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

TrialPhaseCallback = Callable[[int, str, int, int], None]
"""(trial number, what is being done, steps done, steps in all; 0 of 0 where that is not known)."""

_NOT_OURS = (optuna.TrialPruned, UpdateFinishedTrialError, StorageInternalError, SQLAlchemyError)
"""Exceptions that a trial's own code neither causes nor records."""

logger = logging.getLogger("nasopt")


@dataclass
class _Prepared:
    """The state of one study in this process: its prepared context, and the work that is known to be done there."""

    study: optuna.Study  # keeps the storage alive, or another one's might get its identity
    context: Context
    done: DoneWork


class Objective:
    """Builds, trains and measures the candidate that a trial describes.

    Data and base model are prepared at the first call for a study; one objective may serve several studies, one after
    the other. A trial whose candidate fails (a loss that is not finite, memory that runs out) gets its reason in the
    user attribute ``failure`` and the value NaN, which Optuna records as a failed trial: it does not stop the study.
    Where the machine fails (a full disk, a folder that is gone) the trial is marked to be tried again, and a
    :class:`nasopt.errors.MachineError` stops the study.

    Args:
        config: the study's configuration.
        artifacts: the folder that holds the studies' own; beside a study's SQLite file (else ``./nasopt-artifacts``)
            if None.
        on_phase: told what is being done.
        accept_device_change: go on, and mark the trials, where latencies come from another device than trial 0's.
        adopt: for a study that was copied or moved: take its artifact folder for its own or, if there is none in
            `artifacts`, a copy of the one that it shares.

    Example:
        >>> import nasopt
        >>> import optuna
        >>> config = nasopt.StudyConfig.from_toml("studies/quickstart.toml")
        >>> objective = nasopt.Objective(config)
        >>> study = optuna.create_study(directions=objective.directions, sampler=objective.sampler(seed=0))
        >>> study.optimize(objective, n_trials=40)
        >>> base = study.trials[0]
        >>> dict(zip(objective.metric_names, base.values))
        {'quality': ..., 'latency_ms': ..., 'memory_mb': ...}
    """

    def __init__(
        self,
        config: StudyConfig,
        artifacts: str | Path | None = None,
        on_phase: TrialPhaseCallback | None = None,
        *,
        accept_device_change: bool = False,
        adopt: bool = False,
    ) -> None:
        self.config = config
        self.method = make_method(config)
        self._artifacts = None if artifacts is None else artifacts_root(artifacts)
        self._on_phase = on_phase or (lambda number, phase, done, total: None)
        self._accept_device_change = accept_device_change
        self._adopt = adopt
        self._folder: Path | None = None
        self._prepared: dict[Any, _Prepared] = {}
        self._leases: dict[Path, DatabaseLeases | None] = {}
        self.trial_number = -1
        """The latest trial that this process began; -1 before the first."""
        self._busy = threading.Lock()

    @property
    def directions(self) -> list[StudyDirection]:
        """Directions of the values, in their order; quality is maximised, all others are minimised."""
        return [StudyDirection.MAXIMIZE] + [StudyDirection.MINIMIZE] * (len(self.metric_names) - 1)

    @property
    def metric_names(self) -> list[str]:
        """Names of the values, in their order."""
        return self.config.metric_names

    @cached_property
    def sources(self) -> dict[str, LatencySource]:
        """The source of each latency on this machine, by objective.

        Raises:
            NasoptError: a device or runtime is not here (see :func:`nasopt.trial.devices.latency_sources`).
        """
        return latency_sources(self.config, self.method)

    def sampler(self, seed: int | None = None) -> BaseSampler:
        """The method's sampler; the study file's seed if none is given."""
        return self.method.sampler(self.config.seed if seed is None else seed)

    def prepare(self, study: optuna.Study) -> Context:
        """Tokenises the data, trains the base model and, once there is a base trial, prepares the method.

        What has been done before, by any process, is not done again.

        Raises:
            NasoptError: there is something that the user can mend (see :func:`nasopt.trial.preparation.prepare`).
            DeviceChangedError: the study began on another device, and that is not accepted.
            MachineError: something that has been prepared is no longer there.
        """
        self.check_device(study)
        with self._computing():
            return self._prepare(study)

    def _prepare(self, study: optuna.Study) -> Context:
        prepared, base = self._of(study), queries.base_of(study)
        context = prepared.context
        if base is not None:
            fix_base(study)
            context.base = BaseTrial(base.number, tuple(base.values), queries.latencies_of(base))
            store_details(study, self.method.prepare(context))
        return context

    def check_device(self, study: optuna.Study) -> None:
        """Makes sure that this machine's values compare with those of the study, unless that is accepted.

        Raises:
            DeviceChangedError: trial 0 was measured on another device, or predicted where this machine measures.
        """
        changes = self._device_changes(study)
        if changes and not self._accept_device_change:
            raise DeviceChangedError(
                f"{'; '.join(changes)}; such values do not compare: go on there, create a new study here, or pass "
                "--accept-device-change, which marks the new trials"
            )

    def collect(self, study: optuna.Study) -> None:
        """Deletes the checkpoints and predictions of a prepared study that nobody needs any more."""
        retention.collect(study, self.method, self._of(study).context)

    def __call__(self, trial: optuna.Trial) -> tuple[float, ...]:
        if not self._busy.acquire(blocking=False):
            raise RuntimeError(
                "n_jobs > 1 is refused: trials of one process would train and measure at the same time and spoil each "
                "other's latency; run several processes on one database instead (`nasopt study optimize --workers`)"
            )
        try:
            self.trial_number = trial.number
            name_study(self.config.name)
            TrialRecord(worker=worker_identity()).write_to(trial)
            with self._computing():
                return self._run(trial, self.prepare(trial.study))
        except _NOT_OURS:
            raise  # nothing can be written to a trial that others ended, or to a database that is gone
        except Exception as error:
            reason = None if self._folder is None else machine_failure(error, self._folder)
            if reason is None:
                raise
            recording.record_machine_failure(trial, reason)
            raise MachineError(f"trial {trial.number} was stopped: {reason}; {CURE}") from error
        finally:
            self._busy.release()

    def _run(self, trial: optuna.Trial, context: Context) -> tuple[float, ...]:
        if is_exhausted(trial):
            TrialRecord(exhausted=True).write_to(trial)
            trial.study.stop()
            raise optuna.TrialPruned("every genotype the method can reach has been tried")
        try:
            values = self._values(trial, context)
        except RejectedCandidateError as rejected:
            recording.record_rejection(trial, str(rejected), rejected.constraints)
            context.on_phase("rejected", 0, 0)
            raise optuna.TrialPruned(str(rejected)) from None
        except ScreenedCandidateError as screened:
            recording.record_screening(trial, str(screened))
            context.on_phase("screened", 0, 0)
            raise optuna.TrialPruned(str(screened)) from None
        except _NOT_OURS:
            raise
        except KeyboardInterrupt as error:
            recording.record_interruption(trial, error)
            raise
        except Exception as error:
            if machine_failure(error, context.folder) is not None:
                raise
            # Whatever went wrong in one candidate must not end the study; the reason stays with the trial.
            logger.warning("trial %d failed: %s", trial.number, recording.record_failure(trial, error))
            logger.debug("trial %d", trial.number, exc_info=True)
            _free_memory()
            return (math.nan,) * len(self.directions)
        self.collect(trial.study)
        return values

    def _values(self, trial: optuna.Trial, context: Context) -> tuple[float, ...]:
        """The trial's values, from the work it describes or from the trial that has done the same work before."""
        from nasopt.trial.screening import screening_of

        proposed = propose(trial, self.method, context, self._of(trial.study).done)
        if isinstance(proposed, FrozenTrial):
            PredictionStore(context.folder).copy(proposed.number, trial.number)
            return repeat(trial, proposed)
        changes = self._device_changes(trial.study)
        screening = screening_of(proposed, trial.study, context)
        found = evaluate(proposed, context, self.sources, self.method.plan.quantizer, screening)
        population = [other.values for other in retention.possible_parents(trial.study, self.method)]
        judgement = self.method.judge(Outcome(found.values, found.parameters, self.config.task.metric, population))
        recording.record_result(trial, proposed, found, judgement, context, changes)
        return found.values

    def _of(self, study: optuna.Study) -> _Prepared:
        """The state of a study in this process; prepared now if it has not been."""
        from nasopt.trial.preparation import prepare

        # This is asked every time: the folder may go, or be given to another study, while this process runs.
        self._folder = folder_of(study, self.config, self._artifacts, adopt_it=self._adopt)
        key = study_key(study), self._folder, StudyRecord.of(study).id
        known = self._prepared.get(key)
        if known is not None and known.context.base_key not in known.context.checkpoints:
            raise MachineError(gone_words(known.context.folder))
        if known is None:
            check_functions(self.config)
            leases = self._leases[self._folder] = leases_in(database_of(study), number_of(study))
            lease_with(self._folder, leases)
            context = prepare(
                self.config,
                self._folder,
                self._step,
                has_trials=queries.base_of(study) is not None,
                make_observer=self.method.observer,
            )
            known = self._prepared[key] = _Prepared(study, context, DoneWork(self.method))
        return known

    def _step(self, phase: str, done: int, total: int) -> None:
        pause_for_measurements()
        self._on_phase(self.trial_number, phase, done, total)

    @staticmethod
    def _computing() -> AbstractContextManager[None]:
        from nasopt.measurement.device import working_device
        from nasopt.measurement.measured.latency import computing

        return computing(working_device())

    def _device_changes(self, study: optuna.Study) -> list[str]:
        measures_memory = self.config.memory == "peak"
        return changed_devices(queries.base_of(study), self.sources, measures_memory=measures_memory)


def _free_memory() -> None:
    """Gives back the memory that a failed candidate held on the GPU, or the next one may fail for the same reason."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
