"""What the members of a finished Taylor study keep of the teacher: weights, speed at equal precision, each score.

A study's latency compares a member, in its precision, with the fp32 base model; here both run in fp32, so that the
ratio is what cutting alone gives (of the Pareto front: other weights are not kept). Differences of quality to the
teacher have the 95 % interval of the paired bootstrap, from the replicates that the study stored.

Usage: python benchmarks/taylor.py STUDY_NAME [--storage URL] [--threads 1]
"""

from __future__ import annotations

import argparse

import torch
from transformers import PreTrainedModel

from nasopt.config import LatencyConfig
from nasopt.delivery import rebuild
from nasopt.measurement.latency import fixed_inputs, measure_latency
from nasopt.models.families import family_of
from nasopt.preparation import open_task
from nasopt.report.comparison import score_difference
from nasopt.storage import attributes
from nasopt.storage.predictions import Predictions, PredictionStore
from nasopt.storage.rdb import parse_url
from nasopt.study import open_study


def encoder_parameters(model: PreTrainedModel) -> int:
    """Weights of the encoder layers: neither embeddings nor head."""
    return sum(parameter.numel() for parameter in family_of(model).parts.encoder_layers(model).parameters())


def sizes_of(model: PreTrainedModel, base: PreTrainedModel, latency: LatencyConfig, threads: int) -> list[str]:
    """How many times fewer weights in the encoder, and in all; how many times faster, with its interval."""
    inputs = fixed_inputs(
        latency.batch_size,
        latency.sequence_length,
        vocab_size=int(model.get_input_embeddings().weight.shape[0]),
        device=torch.device("cpu"),
    )
    measured = measure_latency(model, base, inputs, device=torch.device("cpu"), threads=threads)
    return [
        f"{encoder_parameters(base) / encoder_parameters(model):.2f}x",
        f"{base.num_parameters() / model.num_parameters():.2f}x",
        f"{1 / measured.ratio:.2f}x ({1 / measured.ratio_high:.2f} to {1 / measured.ratio_low:.2f})",
    ]


def difference_of(mine: Predictions | None, teacher: Predictions | None) -> str:
    if mine is None or teacher is None:
        return "-"
    found = score_difference(mine.values.astype(float), teacher.values.astype(float))
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--storage", default="sqlite:///nasopt.db")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    opened = open_study(parse_url(arguments.storage), arguments.study)
    task, store = open_task(opened.config, opened.folder), PredictionStore(opened.folder)
    base_trial = attributes.base_of(opened.study)
    assert base_trial is not None
    base, teacher = rebuild(opened, base_trial, task).model, store.read(base_trial.number)
    front = {trial.number for trial in attributes.pareto_front(opened.study)}
    trials = [*attributes.complete_trials(opened.study), *attributes.complete_controls(opened.study)]
    names = list(base_trial.user_attrs[attributes.QUALITY_DETAILS])
    heading = ["trial", "encoder", "all weights", "faster, fp32", "quality", "minus the teacher's", *names]
    print(f"| {' | '.join(heading)} |\n{'|---' * len(heading)}|")
    for trial in sorted(trials, key=lambda trial: -trial.values[0]):
        sizes = ["", "", ""]
        if trial.number in front:
            sizes = sizes_of(rebuild(opened, trial, task).model, base, opened.config.latency[0], arguments.threads)
        details = trial.user_attrs[attributes.QUALITY_DETAILS]
        name = f"{trial.number} {trial.user_attrs.get(attributes.CONTROL, '')}".strip()
        cells = [name, *sizes, f"{trial.values[0]:.4f}", difference_of(store.read(trial.number), teacher)]
        print(f"| {' | '.join([*cells, *(f'{details[item]:.3f}' for item in names)])} |", flush=True)


if __name__ == "__main__":
    main()
