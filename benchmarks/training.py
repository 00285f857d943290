"""Measures how fast training is: ratios of real (not padding) tokens per second, measured in one run.

Two comparisons with the same model, data, batch size and number of epochs:

* fine-tuning: our loop against `transformers.Trainer` at its defaults (fp32, random order, padded to the batch);
* distillation: our loop with the cached teacher (its one pass over the data included) against a plain fp32 loop in
  random order that runs the teacher at every step.

Example:
    python benchmarks/training.py --model quickstart/all-MiniLM-L6-v2 --data quickstart/data --text text --seeds 3
"""

from __future__ import annotations

import argparse
import copy
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch import nn
from transformers import DataCollatorWithPadding, Trainer, TrainingArguments

from nasopt.config.study import TrainingConfig
from nasopt.config.task import TaskConfig
from nasopt.measurement.device import device_name
from nasopt.methods.genetic.options import GeneticOptions
from nasopt.tasks.batches import Batch, EncodedSplit
from nasopt.tasks.classification import TextClassification
from nasopt.training.distillation import distillation_loss
from nasopt.training.loop import train
from nasopt.training.losses import hidden_cosine, prediction_kl
from nasopt.training.teacher import make_teacher, run_with_hidden

CPU = torch.device("cpu")


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads or torch.get_num_threads())
    logging.getLogger("nasopt").setLevel(logging.ERROR)
    task = open_task(arguments)
    with tempfile.TemporaryDirectory() as folder:
        splits = task.encode(Path(folder))
        base = task.load_model()
        settings = TrainingConfig(epochs=arguments.epochs, batch_size=arguments.batch_size, learning_rate=5e-5)
        rows = []
        for seed in range(arguments.seeds):
            row = {"seed": seed}
            row |= compare_finetuning(task, base, splits, settings, seed)
            row |= compare_distillation(task, base, splits, settings, seed, Path(folder))
            rows.append(row)
            print(json.dumps(row), flush=True)
    print(f"\n{device_name(CPU)}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name in ("finetuning_ratio", "distillation_ratio", "accuracy_difference"):
        values = [row[name] for row in rows]
        print(f"{name}: median {statistics.median(values):.3f}, from {min(values):.3f} to {max(values):.3f}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder with train.csv and validation.csv")
    parser.add_argument("--text", default="sentence")
    parser.add_argument("--train-size", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    return parser.parse_args()


def open_task(arguments: argparse.Namespace) -> TextClassification:
    dataset = {
        "path": arguments.data,
        "text": (arguments.text,),
        "max_samples": {"train": arguments.train_size, "validation": 2000},
    }
    return TextClassification(TaskConfig.model_validate({"model": arguments.model, "dataset": dataset}))


def compare_finetuning(
    task: TextClassification, base: nn.Module, splits: dict[str, EncodedSplit], settings: TrainingConfig, seed: int
) -> dict[str, float]:
    ours = copy.deepcopy(base)
    result = train(ours, splits["train"], task.training_loss, settings, device=CPU, seed=seed)
    theirs = copy.deepcopy(base)
    seconds = trainer_seconds(theirs, task, splits["train"], settings, seed)
    accuracy = [task.evaluate(model, splits["validation"], CPU).quality for model in (ours, theirs)]
    return {
        "finetuning_ratio": seconds / result.seconds,
        "our_tokens_per_second": result.tokens / result.seconds,
        "our_accuracy": accuracy[0],
        "trainer_accuracy": accuracy[1],
        "accuracy_difference": accuracy[0] - accuracy[1],
    }


def trainer_seconds(
    model: nn.Module, task: TextClassification, split: EncodedSplit, settings: TrainingConfig, seed: int
) -> float:
    """Seconds that `transformers.Trainer` takes at its defaults."""
    rows = [unpadded(split, index) for index in range(len(split))]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=settings.epochs,
            per_device_train_batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            seed=seed,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_strategy="no",
        )
        trainer = Trainer(model, arguments, DataCollatorWithPadding(task.tokenizer), rows)
        started = time.perf_counter()
        trainer.train()
        return time.perf_counter() - started


def unpadded(split: EncodedSplit, index: int) -> dict[str, list[int] | int]:
    start, end = split.offsets[index : index + 2].tolist()
    columns = {name: values[start:end].tolist() for name, values in split.columns.items()}
    return {**columns, "attention_mask": [1] * (end - start), "labels": int(split.labels[index])}


def compare_distillation(
    task: TextClassification,
    base: nn.Module,
    splits: dict[str, EncodedSplit],
    settings: TrainingConfig,
    seed: int,
    folder: Path,
) -> dict[str, float]:
    split = splits["train"]
    started = time.perf_counter()
    teacher = make_teacher(
        base, split, folder / f"teacher-{seed}", "base", num_outputs=task.num_outputs, device=CPU, max_bytes=2**33
    )
    cached = time.perf_counter() - started
    loss = distillation_loss(GeneticOptions(), task, [teacher])
    result = train(copy.deepcopy(base), split, loss, settings, device=CPU, seed=seed)
    plain = plain_distillation_seconds(task, copy.deepcopy(base), base, split, settings, seed)
    return {"distillation_ratio": plain / (result.seconds + cached), "teacher_cache_seconds": cached}


def plain_distillation_seconds(
    task: TextClassification,
    student: nn.Module,
    teacher: nn.Module,
    split: EncodedSplit,
    settings: TrainingConfig,
    seed: int,
) -> float:
    """The loop one writes first: fp32, random order, the teacher at every step."""
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(student.parameters(), lr=settings.learning_rate)
    student.train()
    started = time.perf_counter()
    for _ in range(settings.epochs):
        for indices in torch.randperm(len(split)).split(settings.batch_size):
            batch: Batch = split.batch(indices)
            with torch.no_grad():
                teacher_logits, (*_, teacher_hidden) = run_with_hidden(teacher, batch)
            logits, (*_, hidden) = run_with_hidden(student, batch)
            loss = task.loss(logits, batch.labels) + prediction_kl(logits, teacher_logits, 1.0)
            loss = loss + hidden_cosine(hidden, teacher_hidden, batch.attention_mask)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), settings.gradient_clipping)
            optimizer.step()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
