"""Whatever a genetic search is given, and however its trials end, its invariants hold."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import numpy as np
import optuna
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState
from transformers import BertConfig, BertForSequenceClassification

from nasopt.architecture.base import PRECISIONS, TRAININGS
from nasopt.architecture.encoder import Architecture
from nasopt.models.families import encoder_shape
from nasopt.models.surgery import choose_units, cut, expand, keep_largest, layer_counts
from nasopt.samplers import GeneticSampler, is_exhausted, parent_of
from nasopt.samplers.genotype import fit
from nasopt.samplers.mutations import GUIDED, MUTATIONS, Limits, OwnMutation

pytestmark = pytest.mark.integration

Space = dict[str, BaseDistribution]
Params = dict[str, Any]
DIRECTIONS = ["maximize", "minimize", "minimize"]
REMOVALS = sorted(name for name in MUTATIONS if name.startswith("remove") and name not in GUIDED)


def make_space(layers: int, heads: int, blocks: int, remainder: int, precisions: list[str], lowest: int = 0) -> Space:
    """Parameters that the genetic method suggests for an encoder of this shape."""
    space: Space = {}
    for layer in range(layers):
        space[f"layer_{layer}"] = IntDistribution(lowest, 1)
        space[f"heads_{layer}"] = IntDistribution(0, heads)
        space[f"ffn_{layer}"] = IntDistribution(remainder, remainder + 64 * blocks, step=64)
    space["precision"] = CategoricalDistribution(precisions)
    space["training"] = CategoricalDistribution(TRAININGS)
    return space


PRECISION_LISTS = st.sampled_from([["fp32"], ["fp32", "int8"], list(PRECISIONS)])
SPACES = st.builds(
    make_space,
    layers=st.integers(1, 4),
    heads=st.integers(1, 4),
    blocks=st.integers(1, 4),
    remainder=st.sampled_from([0, 16]),
    precisions=PRECISION_LISTS,
    lowest=st.sampled_from([0, 0, 0, 1]),
)
SAMPLERS = st.builds(
    GeneticSampler,
    population_size=st.integers(2, 8),
    mutation_prob=st.sampled_from([0.5, 0.9, 1.0]),
    quantization_prob=st.sampled_from([0.0, 0.5, 1.0]),
    crossover_prob=st.sampled_from([0.0, 0.5, 1.0]),
    mutations=st.lists(st.sampled_from(list(MUTATIONS.values())), min_size=1, max_size=4),
    max_layers=st.integers(1, 3),
    max_heads=st.integers(1, 3),
    max_units=st.integers(1, 9),
    selection=st.sampled_from(["pareto", "fitness"]),
    seed=st.integers(0, 2**32 - 1),
)


def sizes(params: Params) -> dict[str, int]:
    """The units that are kept, block by block; none of a layer that is gone."""
    return {
        name: int(value) * int(params[f"layer_{name.rpartition('_')[2]}"])
        for name, value in params.items()
        if name not in ("precision", "training")
    }


def values_of(params: Params) -> tuple[float, float, float]:
    """Quality, latency and memory of an invented model: less of it is faster, smaller and worse."""
    kept = sum(sizes(params).values())
    precision = 1 + PRECISIONS.index(params["precision"])
    gain = {"none": 0.0, "finetune": 0.05, "distill": 0.1}[params["training"]]
    return 1 - math.exp(-kept / 100) + gain - 0.01 * precision, 1.0 + kept, (1.0 + kept) / precision


@settings(max_examples=60, deadline=None, derandomize=True)
@given(space=SPACES, limits=st.builds(Limits, st.integers(1, 3), st.integers(1, 3), st.integers(1, 5)), data=st.data())
def test_chains_of_mutations(space: Space, limits: Limits, data: st.DataObject) -> None:
    """Removals only remove, restoring only restores, and another precision is nothing else."""
    rng = np.random.RandomState(data.draw(st.integers(0, 999)))
    genotype = fit({}, space)
    for name in data.draw(st.lists(st.sampled_from(sorted(MUTATIONS)), max_size=15)):
        mutation = MUTATIONS[name]
        assert isinstance(mutation, OwnMutation)
        mutation = mutation.limited(limits)
        before = dict(genotype)
        child = mutation(genotype, space, rng)
        assert genotype == before
        outcomes = list(mutation.outcomes(genotype, space))
        if child is None:
            assert outcomes == []
            continue
        assert outcomes if name in GUIDED else child in outcomes
        check_genotype(child, space)
        mine, parents = sizes(child), sizes(genotype)
        if name == "quantize":
            assert child == {**genotype, "precision": child["precision"]} != genotype
        else:
            sign = 1 if name.startswith("restore") else -1
            assert child["precision"] == genotype["precision"]
            assert all(sign * (mine[part] - parents[part]) >= 0 for part in mine)
            assert mine != parents
        if name in REMOVALS:
            gone = [part for part in mine if part.startswith("layer_") and mine[part] < parents[part]]
            assert len(gone) <= limits.layers
            stays = [part for part in mine if part.startswith("heads_") and mine[f"layer_{part[6:]}"]]
            assert all(parents[part] - mine[part] <= limits.heads for part in stays)
        if name in GUIDED:
            assert 1 <= units(child, genotype, space) <= limits.units
        genotype = child


def units(one: Params, other: Params, space: Space) -> int:
    """How many heads and steps of FFN neurons two genotypes differ by."""
    counts = {name: item for name, item in space.items() if name.startswith(("heads_", "ffn_"))}
    return sum(abs(one[name] - other[name]) // item.step for name, item in counts.items())  # type: ignore[attr-defined]


def check_genotype(params: Params, space: Space) -> None:
    """Within bounds, in one spelling, and something is left of the encoder."""
    assert params.keys() == space.keys()
    for name, distribution in space.items():
        assert distribution._contains(distribution.to_internal_repr(params[name])), name
    assert any(value for name, value in params.items() if name.startswith("layer_"))
    for name, distribution in space.items():
        if isinstance(distribution, IntDistribution) and not params[f"layer_{name.rpartition('_')[2]}"]:
            assert params[name] == distribution.low


@st.composite
def endings(draw: st.DrawFn) -> list[tuple[int, int, TrialState]]:
    """Steps of a search: how many trials begin, which of those under way ends, and how."""
    ends = st.sampled_from([TrialState.COMPLETE] * 4 + [TrialState.FAIL, TrialState.PRUNED])
    return draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5), ends), min_size=5, max_size=25))


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(space=SPACES, sampler=SAMPLERS, steps=endings(), first=st.sampled_from([True, True, True, False]))
def test_searches(space: Space, sampler: GeneticSampler, steps: list[Any], first: bool) -> None:
    """Trials begin and end in any order, some fail: the children stay legal, new, and younger than their parents."""
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    under_way = [study.ask(space)]
    end(study, under_way.pop(), TrialState.COMPLETE if first else TrialState.FAIL)
    known: set[Any] = set()
    for begun, which, state in steps:
        for _ in range(begun):
            complete = {trial.number for trial in study.trials if trial.state == TrialState.COMPLETE}
            trial = study.ask(space)
            parent = parent_of(trial)
            assert parent is None or (parent in complete and parent < trial.number)
            assert parent is not None or not complete
            under_way.append(trial)
        if under_way:
            end(study, under_way.pop(which % len(under_way)), state)
    assert study.trials[0].params == fit({}, space)
    for frozen in study.trials:
        check_genotype(frozen.params, space)
        if is_exhausted(frozen):
            continue
        work = (origin(study.trials, parent_of(frozen), space), *sorted(frozen.params.items()))
        if frozen.number:
            check_operators(frozen, study.trials, space)
            assert work not in known, "the same work twice"
        known.add(work)


def end(study: optuna.Study, trial: optuna.Trial, state: TrialState) -> None:
    study.tell(trial, values_of(trial.params) if state == TrialState.COMPLETE else None, state=state)


def genotype_of(trials: list[FrozenTrial], number: int | None, space: Space) -> Params:
    return fit({}, space) if number is None else trials[number].params


def origin(trials: list[FrozenTrial], number: int | None, space: Space) -> int | None:
    """The trial whose weights a trial has: one that changed the precision only has its parent's."""
    while number is not None:
        trial, parent = trials[number], parent_of(trials[number])
        if trial.params["training"] != "none" or sizes(trial.params) != sizes(genotype_of(trials, parent, space)):
            return number
        number = parent
    return None


def check_operators(child: FrozenTrial, trials: list[FrozenTrial], space: Space) -> None:
    """A child's training tells how it was made."""
    parent = genotype_of(trials, parent_of(child), space)
    changed = sizes(child.params) != sizes(parent)
    if child.params["training"] == "none":
        assert not changed
        assert child.params["precision"] != parent["precision"]


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_every_child_can_be_cut_from_its_parent(seed: int) -> None:
    """Real surgery along the lines of descent: the models have the shapes that the genotypes say, and work."""
    sizes_of_model = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 144}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = BertForSequenceClassification(BertConfig(vocab_size=50, **sizes_of_model)).eval()
    full = Architecture.full(encoder_shape(base.config))
    mutations = [item for name, item in MUTATIONS.items() if name != "quantize"]
    sampler = GeneticSampler(population_size=4, mutations=mutations, max_layers=2, seed=seed)
    study = optuna.create_study(directions=DIRECTIONS, sampler=sampler)
    space = make_space(3, 4, 2, 16, list(PRECISIONS))
    born: dict[int | None, tuple[dict[str, torch.Tensor], Architecture]] = {None: (base.state_dict(), full)}
    for _ in range(8):
        trial = study.ask(space)
        weights, inherited = born[parent_of(trial)]
        model = expand(base, weights, inherited)
        architecture = choose_units(model, inherited, trial.params, keep_largest)
        child = cut(model, architecture)
        kept = [layer for layer in range(3) if trial.params[f"layer_{layer}"]]
        assert layer_counts(child) == (
            [trial.params[f"heads_{layer}"] for layer in kept],
            [trial.params[f"ffn_{layer}"] for layer in kept],
        )
        if inherited.contains(architecture):
            assert child.num_parameters() <= sum(tensor.numel() for tensor in weights.values())
        # A block that shrank holds some of the parent's units, one that grew all of them.
        for mine, parents in zip(architecture.layers, inherited.layers, strict=True):
            if mine and parents:
                for units, owned in ((mine.heads, parents.heads), (mine.neurons, parents.neurons)):
                    assert set(units) <= set(owned) or set(units) >= set(owned)
        with torch.inference_mode():
            assert child(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()
        born[trial.number] = child.state_dict(), architecture
        study.tell(trial, values_of(trial.params))
