"""Measures members of a finished Taylor study against the teacher: weights, speed at equal precision, each score.

A study's latency compares a member, in its precision, with the fp32 base model; here both run in fp32, so that the
ratio is what cutting alone gives. Quality is the mean over encodechka's eight sentence tasks, for members and teacher
in bf16, whatever the study searched on; differences have the 95 % interval of the paired bootstrap.

Usage: python benchmarks/taylor.py STUDY_NAME [--storage URL] [--trials N ...] [--threads 1]
"""

from __future__ import annotations

import argparse
import copy

import torch
from transformers import PreTrainedModel

from nasopt.config.embedding import SENTENCE_TASKS
from nasopt.config.study import LatencyConfig
from nasopt.measurement.measured.latency import fixed_inputs, measure_latency
from nasopt.methods.registry import make_method
from nasopt.models.families import family_of
from nasopt.models.vocabulary import tokenizer_of
from nasopt.numerics.comparison import score_difference
from nasopt.records import queries
from nasopt.storage.rdb import parse_url
from nasopt.study.opening import open_study
from nasopt.tasks.base import Evaluation
from nasopt.tasks.similarity import SentenceSimilarity
from nasopt.trial.rebuilding import rebuild


def encoder_parameters(model: PreTrainedModel) -> int:
    """Weights of the encoder layers: neither embeddings nor head."""
    return sum(parameter.numel() for parameter in family_of(model).parts.encoder_layers(model).parameters())


def sizes_of(model: PreTrainedModel, base: PreTrainedModel, latency: LatencyConfig, threads: int) -> list[str]:
    """Factors of fewer weights in the encoder and in all, and of speed, with its interval."""
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


def difference_of(mine: Evaluation, teacher: Evaluation) -> str:
    assert mine.replicates is not None
    assert teacher.replicates is not None
    found = score_difference(mine.replicates, teacher.replicates)
    return f"{found.value:+.4f} ({found.low:+.4f} to {found.high:+.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study")
    parser.add_argument("--storage", default="sqlite:///nasopt.db")
    parser.add_argument("--trials", type=int, nargs="+", help="the Pareto front's unless given")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    opened = open_study(parse_url(arguments.storage), arguments.study)
    similarity = opened.config.task.similarity.model_copy(update={"encodechka_tasks": SENTENCE_TASKS})
    task = SentenceSimilarity(opened.config.task.model_copy(update={"similarity": similarity}))
    validation = task.encode(opened.folder / "data")["validation"]
    base = task.load_model()
    teacher: Evaluation | None = None
    heading = ["trial", "encoder", "all weights", "faster, fp32", "quality", "minus the teacher's", *SENTENCE_TASKS]
    print(f"| {' | '.join(heading)} |\n{'|---' * len(heading)}|")
    front = [trial for trial in queries.pareto_front(opened.study) if trial.params]
    chosen = [opened.study.trials[number] for number in arguments.trials] if arguments.trials else front
    for trial in [None, *sorted(chosen, key=lambda trial: -trial.values[0])]:
        name, sizes, model, tokenizer = "teacher", ["1x"] * 3, copy.deepcopy(base), task.tokenizer
        if trial is not None:
            name = f"{trial.number} {queries.label_of(trial) or ''}".strip()
            candidate = rebuild(make_method(opened.config), opened.checkpoints, trial, task)
            model, tokenizer = candidate.model, tokenizer_of(task.tokenizer, candidate.architecture)
            sizes = sizes_of(model, base, opened.config.latency[0], arguments.threads)
        found = task.evaluate(model.to(torch.bfloat16), validation, torch.device("cpu"), tokenizer)
        teacher = teacher or found
        cells = [name, *sizes, f"{found.quality:.4f}", difference_of(found, teacher)]
        scores = [f"{found.details[item]:.3f}" for item in SENTENCE_TASKS]
        print(f"| {' | '.join([*cells, *scores])} |", flush=True)


if __name__ == "__main__":
    main()
