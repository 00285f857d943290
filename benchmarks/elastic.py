"""Sub-networks of an elastic base, as they are sliced and after healing: quality at shares of the base model's latency.

The base model is that of `benchmarks/sensitivity.py`, and is kept in the same folder. Settings are chosen on phrases of
the training data that no base model of ours has seen (`--validation "train[8000:14000]"`).

Example:
    python benchmarks/elastic.py --base /tmp/minilm-sst2 --validation "train[8000:14000]"
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from sensitivity import base_of, quality_of

from nasopt.measurement.device import device_name
from nasopt.training.context import Context
from nasopt.training.distillation import LossWeights, distillation_loss
from nasopt.training.elastic import ElasticSettings, elastic_base
from nasopt.training.loop import LossFunction
from nasopt.training.samples import SampleSettings
from nasopt.training.sub_networks import study_sub_networks
from nasopt.training.weights import Elastic, Stage, Trained


def main() -> None:
    arguments = parsed()
    torch.set_num_threads(arguments.threads)
    context = base_of(arguments.study, arguments.base, arguments.validation)
    print(f"{device_name(torch.device('cpu'))}, {arguments.threads} thread(s)")
    before = quality_of(context.base_model, context)
    print(f"base model: {before:.4f}", flush=True)
    sample = SampleSettings(1024, 32, context.config.seed)
    networks = study_sub_networks(arguments.criterion, sample, "latency", context)
    settings = ElasticSettings(
        criterion=arguments.criterion,
        sample=sample,
        cost="latency",
        lowest_share=None,
        epochs=arguments.epochs,
        random_prefixes=arguments.random_prefixes,
        loss=LossWeights(),
        learning_rate=arguments.learning_rate,
    )
    started = time.perf_counter()
    found = elastic_base(settings, context)
    passes = found.budget / len(context.splits["train"])
    print(f"elastic base: {time.perf_counter() - started:.0f} s, as {passes:.2f} epochs of the base model", flush=True)
    sliced = Elastic(settings)
    for share in arguments.shares:
        architecture = networks.architecture(share)
        for epochs in (0, *arguments.healing):
            healed = Trained(sliced, [Stage("distill", epochs, context.config.seed, loss_of, arguments.healing_rate)])
            started = time.perf_counter()
            candidate = healed.candidate(architecture, context)
            seconds, quality = time.perf_counter() - started, quality_of(candidate.model, context)
            points = 100 * (quality - before)
            print(
                f"share {share:4.2f}  healed {epochs} epochs  {quality:.4f} ({points:+.2f})  {seconds:5.1f} s",
                flush=True,
            )


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="folder in which everything that is made is kept")
    parser.add_argument("--study", type=Path, default=Path("studies/fisher-sst2.toml"))
    parser.add_argument("--validation", default="validation", help="the split on which quality is measured")
    parser.add_argument("--criterion", choices=["fisher", "obs"], default="fisher")
    parser.add_argument("--epochs", type=int, default=2, help="of the elastic base")
    parser.add_argument("--random-prefixes", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="of the elastic base")
    parser.add_argument("--healing", type=int, nargs="*", default=[1], help="epochs")
    parser.add_argument("--healing-rate", type=float, default=1e-4, help="learning rate")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.35, 0.2, 0.11])
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def loss_of(context: Context) -> LossFunction:
    return distillation_loss(LossWeights(), context.task, context.teachers())


if __name__ == "__main__":
    main()
