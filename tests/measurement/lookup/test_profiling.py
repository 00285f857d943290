"""A real, small table, measured once, and its parts."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from transformers import BertConfig, DistilBertConfig, PretrainedConfig

from nasopt.errors import LookupTableError
from nasopt.measurement.device import device_name
from nasopt.measurement.lookup.profiling import (
    Grid,
    Model,
    Session,
    measure_table,
    node_sizes,
    random_layers,
    random_model,
)
from nasopt.measurement.lookup.table import LookupTable, Place
from nasopt.measurement.measured.runtimes import RuntimeSettings
from nasopt.models.families import encoder_shape

pytestmark = pytest.mark.integration

CPU = torch.device("cpu")
ONE_THREAD = RuntimeSettings("eager", 1)
SIZES = {"vocab_size": 100, "max_position_embeddings": 64}


def bert(hidden: int = 32, layers: int = 3, heads: int = 2, ffn: int = 128) -> BertConfig:
    sizes = {"num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": ffn}
    return BertConfig(hidden_size=hidden, **sizes, **SIZES)


def distilbert() -> DistilBertConfig:
    return DistilBertConfig(dim=32, n_layers=2, n_heads=2, hidden_dim=128, **SIZES)


@pytest.fixture(scope="module")
def table() -> LookupTable:
    # Large enough that a layer costs more than calling it.
    config = bert(hidden=128, heads=4, ffn=512)
    grid = Grid((128,), (4,), (32,))
    return measure_table(config, grid, device=CPU, settings=ONE_THREAD, checks=3, seconds=0.3, seed=1)


def predicted(table: LookupTable, *layers: tuple[int, int]) -> float:
    place = {"hidden_size": 128, "batch_size": 4, "sequence_length": 32, "precision": "fp32"}
    return table.predict(layers, **place).latency_ms  # type: ignore[arg-type]


def test_a_table_holds_every_block_of_its_grid(table: LookupTable) -> None:
    sizes = Counter((entry.block, entry.size) for entry in table.entries)
    assert set(sizes.values()) == {1}
    assert {size for block, size in sizes if block == "attention"} == {1, 2, 3, 4}
    assert {size for block, size in sizes if block == "ffn"} == {64, 128, 256, 384, 512}
    assert {block for block, size in sizes if size == 0} == {"embedding", "pooler", "head", "layer"}
    assert len(table.checks) == 3


def test_a_table_says_where_it_comes_from(table: LookupTable) -> None:
    assert table.identity == f"{device_name(CPU)}, 1 thread"
    assert table.torch_version == torch.__version__
    assert (table.model_type, table.head_size) == ("bert", 32)


def test_more_of_anything_takes_longer(table: LookupTable) -> None:
    sizes = [(0, 0), (0, 512), (4, 512)]
    assert sorted(sizes, key=lambda layer: predicted(table, layer)) == sizes
    assert predicted(table, (4, 512)) < predicted(table, (4, 512), (4, 512))


@pytest.mark.parametrize("config", [bert(), distilbert()], ids=lambda config: config.model_type)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_models_of_any_family_and_precision_are_timed(config: PretrainedConfig, precision: str) -> None:
    place = Place(32, 2, 8, precision)  # type: ignore[arg-type]
    session = Session(
        config,
        Model(Place(32, 2, 8, "fp32"), ((2, 128),)),
        device=CPU,
        settings=ONE_THREAD,
        seconds=0.05,
        seed=0,
    )
    for model in (Model(place, (), "embedding"), Model(place, ((0, 0), (1, 64)))):
        assert session.time(model).ratio > 0
    assert session.reference_ms > 0


@pytest.mark.slow
def test_a_table_may_have_several_hidden_sizes() -> None:
    grid = Grid((32, 64), (2,), (8,))
    found = measure_table(bert(), grid, device=CPU, settings=ONE_THREAD, checks=2, seconds=0.05)
    heads = {(entry.hidden_size, entry.size) for entry in found.entries if entry.block == "attention"}
    assert heads == {(32, 1), (32, 2), (64, 1), (64, 2), (64, 3), (64, 4)}
    assert LookupTable.model_validate_json(found.model_dump_json()) == found


@pytest.mark.slow
def test_steps_are_told() -> None:
    steps: list[tuple[int, int]] = []

    def note(done: int, total: int, what: str) -> None:
        assert what
        steps.append((done, total))

    grid = Grid((32,), (2,), (8,))
    measure_table(bert(ffn=64), grid, device=CPU, settings=ONE_THREAD, checks=2, seconds=0.05, on_step=note)
    # 3 parts without layers, an empty layer, 1 and 2 heads, 64 neurons; 2 checks.
    assert steps == [(done, 9) for done in range(10)]


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(LookupTableError, match="hidden size 40: it must be a multiple of the size of a head, 16"):
        measure_table(bert(), Grid((40,), (2,), (8,)), device=CPU, settings=ONE_THREAD)
    with pytest.raises(LookupTableError, match="sequence length 65: the model reads at most 64 tokens"):
        measure_table(bert(), Grid((32,), (2,), (65,)), device=CPU, settings=ONE_THREAD)


@pytest.mark.parametrize(
    ("full", "step", "nodes"),
    [
        (12, 1, [1, 3, 6, 9, 12]),
        (1536, 64, [64, 384, 768, 1152, 1536]),
        (3072, 64, [64, 768, 1536, 2304, 3072]),
        (2, 1, [1, 2]),
        (1, 1, [1]),
        (32, 64, [32]),
        (100, 64, [64, 100]),
    ],
)
def test_nodes(full: int, step: int, nodes: list[int]) -> None:
    assert node_sizes(full, step) == nodes


def test_random_models_stay_on_the_grid() -> None:
    generator = random.Random(0)
    shape, grid = encoder_shape(bert(ffn=256)), Grid((32, 64), (2, 8), (16, 32), ("fp32", "bf16"))
    drawn = [random_model(shape, grid, "bf16", generator) for _ in range(200)]
    assert {len(model.layers) for model in drawn} == {1, 2, 3}
    assert {model.place.hidden_size for model in drawn} == {32, 64}
    assert {model.place.batch_size for model in drawn} == set(range(2, 9))
    assert {model.place.precision for model in drawn} == {"bf16"}
    for model in drawn:
        assert all(heads <= model.place.hidden_size // 16 for heads, _ in model.layers)
        assert all(width in range(0, 257, 64) for _, width in model.layers)
    assert random_layers(4, 256, 3, random.Random(1)) == random_layers(4, 256, 3, random.Random(1))
