"""Studies of genotypes with made-up values, for tests of the genetic sampler."""

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution

from nasopt.architecture.genotype import canonical
from nasopt.samplers import GeneticSampler, parent_of
from nasopt.samplers.genotype import fit
from nasopt.samplers.mutations import MUTATIONS

DIRECTIONS = ["maximize", "minimize", "minimize"]


def make_space(layers=3, heads=4, ffn=256, lowest_ffn=0):
    space = {}
    for layer in range(layers):
        space[f"layer_{layer}"] = IntDistribution(0, 1)
        space[f"heads_{layer}"] = IntDistribution(0, heads)
        space[f"ffn_{layer}"] = IntDistribution(lowest_ffn, ffn, step=64)
    space["precision"] = CategoricalDistribution(["fp32", "bf16", "int8"])
    space["training"] = CategoricalDistribution(["none", "finetune", "distill"])
    return space


SPACE = make_space()
FULL = fit({}, SPACE)
ALL = tuple(MUTATIONS[name] for name in MUTATIONS if name != "quantize")


def evaluate(params):
    layers = sum(name.startswith("layer_") for name in params)
    size = 0.0
    for i in range(layers):
        size += params[f"layer_{i}"] * (1 + params[f"heads_{i}"] + params[f"ffn_{i}"] / 64 * (1 + 0.1 * i))
    cost = {"fp32": 4.0, "bf16": 2.0, "int8": 1.0}[params["precision"]]
    bonus = {"none": 0.0, "finetune": 0.01, "distill": 0.02}[params["training"]]
    return float(np.tanh(size / 10) - 0.02 / cost + bonus), size + 1, (size + 3) * cost


def run(study, trials, space=SPACE):
    for _ in range(trials):
        trial = study.ask(space)
        study.tell(trial, evaluate(trial.params))


def make_study(sampler=None, storage=None, **arguments):
    sampler = sampler or GeneticSampler(**{"population_size": 8, "mutations": ALL, "seed": 0, **arguments})
    return optuna.create_study(storage=storage, directions=DIRECTIONS, sampler=sampler)


def identities(study):
    return [(parent_of(trial), tuple(sorted(canonical(trial.params).items()))) for trial in study.trials]
