"""Guided against uniform mutations of the genetic method, on a real model, without any training.

Both searches begin with the same ladder of sub-networks (by OBS, at shares of the FLOPs) and go on with the same two
mutations, `remove_least` and `restore_most`: once with the guide that a study stores for them, once without, so that
all blocks are equally likely. A candidate is cut out of the base model and refitted; its values are the quality on the
validation split and its share of the FLOPs of the layers' matrix products.

The base model is that of `benchmarks/sensitivity.py`, in the same folder.

Example:
    python benchmarks/guided_mutations.py --base /tmp/minilm-sst2 --trials 30
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch
from sensitivity import base_of

from nasopt.architecture.encoder import Architecture
from nasopt.methods.genetic.method import GeneticMethod
from nasopt.methods.genetic.options import GeneticOptions
from nasopt.methods.genetic.weights import guidance
from nasopt.models.surgery import choose_units
from nasopt.numerics.budget import base_time
from nasopt.numerics.pareto import hypervolume, pareto_mask
from nasopt.records.names import GUIDANCE, LADDER
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord
from nasopt.tasks.batches import EncodedSplit
from nasopt.training.context import Context
from nasopt.training.samples import SampleSettings
from nasopt.training.sub_networks import SubNetworks, study_sub_networks
from nasopt.training.unit_selection import keep_first_of
from nasopt.training.weights import Cut

Values = tuple[float, float]
REFERENCE = (0.5, 1.0)
"""An error of one half, which guessing has, and the base model's FLOPs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder in which the base model and the data are kept")
    parser.add_argument("--study", type=Path, default=Path("studies/alphanas-sst2.toml"))
    parser.add_argument("--trials", type=int, default=30, help="of each search, after base model and ladder")
    parser.add_argument("--ladder", type=int, default=8)
    parser.add_argument("--lowest-share", type=float, default=0.13)
    parser.add_argument("--examples", type=int, default=1024, help="examples for the refit")
    parser.add_argument("--phrases", type=int, default=None, help="of the validation split; all unless given")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    context = base_of(arguments.study, arguments.base)
    networks = study_sub_networks("obs", SampleSettings(1024, 32, 0), "flops", context)
    measure = Measurement(networks, arguments.examples, arguments.phrases, context)
    rungs = [
        {**item.to_params(), "training": "none"}
        for item in networks.ladder(networks.shares(arguments.lowest_share, arguments.ladder))
    ]
    for seed in arguments.seeds:
        for guided in (True, False):
            study = search(rungs, networks, guided, seed, arguments.trials, measure)
            report(f"seed {seed}, {'guided' if guided else 'uniform'}", study, len(rungs))


class Measurement:
    """The error and the share of the FLOPs of a genotype; each is made once."""

    def __init__(self, networks: SubNetworks, examples: int, phrases: int | None, context: Context) -> None:
        split = context.splits["validation"]
        assert isinstance(split, EncodedSplit)
        wanted = len(split) if phrases is None else phrases
        self._split = replace(split, offsets=split.offsets[: wanted + 1], labels=split.labels[:wanted])
        self._networks, self._context, self._source = networks, context, Cut(examples, "both")
        self.shape = context.shape
        self._select = keep_first_of(networks.sensitivity)
        self._known: dict[tuple[tuple[str, Any], ...], Values] = {}

    def __call__(self, params: Mapping[str, Any]) -> Values:
        key = tuple(sorted(params.items()))
        if key not in self._known:
            context = self._context
            full = Architecture.full(context.shape)
            architecture = choose_units(context.base_model, full, params, self._select)
            model = self._source.candidate(architecture, context).model
            quality = context.task.evaluate(model.to(context.device), self._split, context.device).quality
            self._known[key] = 1 - quality, self._share(architecture)
        return self._known[key]

    def _share(self, architecture: Architecture) -> float:
        kept = [(len(units.heads), len(units.neurons)) if units else (0, 0) for units in architecture.layers]
        heads, neurons = self._networks.times.heads, self._networks.times.neurons
        time = sum(heads[count] + neurons[width // 64] for count, width in kept)
        return time / base_time(self._networks.costs, 0.0)


def search(
    rungs: list[dict[str, Any]],
    networks: SubNetworks,
    guided: bool,
    seed: int,
    trials: int,
    measure: Measurement,
) -> optuna.Study:
    """A search from the ladder on; its values are error and share, both minimised."""
    options = GeneticOptions(
        population_size=20, precisions=("fp32",), weights="cut", crossover_prob=0, quantization_prob=0
    )
    method = GeneticMethod(options)
    untrained = optuna.distributions.CategoricalDistribution(("none",))
    space = {**method.space(measure.shape).distributions, "training": untrained}
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=method.sampler(seed))
    details: dict[str, Any] = {LADDER: rungs, **({GUIDANCE: guidance(networks)} if guided else {})}
    StudyRecord(details=details).write_to(study)
    for number in range(1 + len(rungs) + trials):
        trial = study.ask(space)
        if number == 0:
            TrialRecord(is_base=True).write_to(trial)
        values = measure(trial.params)
        print(f"  trial {number}: quality {1 - values[0]:.4f} at a share of {values[1]:.3f}", flush=True)
        study.tell(trial, values)
    return study


def report(name: str, study: optuna.Study, rungs: int) -> None:
    """Prints the hypervolume after the ladder and at the end, and the front."""
    points = [trial.values for trial in study.trials]
    first, last = (hypervolume(some, REFERENCE) for some in (points[: 1 + rungs], points))
    print(f"{name}: hypervolume {first:.4f} after the ladder, {last:.4f} after {len(points)} trials")
    front = sorted((share, 1 - error) for (error, share), kept in zip(points, pareto_mask(points), strict=True) if kept)
    print("  front " + ", ".join(f"{quality:.4f} at {share:.3f}" for share, quality in front), flush=True)


if __name__ == "__main__":
    main()
