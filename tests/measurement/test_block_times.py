"""What blocks cost: from a table of round numbers, a profile, and in FLOPs against torch's own counter."""

from __future__ import annotations

import pytest
import torch
from lookup_tables import document
from transformers import BertConfig, BertForSequenceClassification

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.config.study import LatencyConfig
from nasopt.measurement.block_times import estimated_times, flops_times, measured_table, table_times
from nasopt.measurement.lookup.table import LookupTable
from nasopt.measurement.measured.flops import count_flops
from nasopt.measurement.measured.source import MeasuringSource
from nasopt.measurement.predicted.model import make_case, predict
from nasopt.measurement.predicted.source import PredictingSource, workload_of
from nasopt.measurement.sources import make_source

SHAPE = EncoderShape(num_layers=3, num_heads=4, ffn_size=128, hidden_size=64)
SHAPES = [(2, 16)]


def bert() -> BertForSequenceClassification:
    config = BertConfig(
        vocab_size=20, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128
    )
    return BertForSequenceClassification(config).eval()


def test_a_table_gives_its_own_entries() -> None:
    times = table_times(LookupTable.of_document(document(), "here"), SHAPE, SHAPES)
    assert times.heads == pytest.approx((0, 2, 3, 4, 5))  # 1 -> 2 ms, 4 -> 5 ms, a line between them
    assert times.neurons == pytest.approx((0, 3, 5))
    assert times.fixed == pytest.approx(1 + 0.5 + 0.25 + 3 * 0.1)


def test_flops_are_those_that_torch_counts() -> None:
    model = bert()
    batch = {"input_ids": torch.ones((2, 16), dtype=torch.long), "attention_mask": torch.ones((2, 16))}
    times = flops_times(SHAPE, SHAPES)
    rest = 2 * 2 * 64 * (64 + 2)  # pooler and head, which are left out
    assert 3 * (times.heads[-1] + times.neurons[-1]) + rest == count_flops(model, batch)
    assert times.heads[1] * 4 == times.heads[4]
    assert len(times.neurons) == 3
    longer = flops_times(SHAPE, [(2, 16), (2, 32)])
    assert longer.neurons[1] == pytest.approx(1.5 * times.neurons[1])


def test_the_last_block_of_an_odd_width_is_smaller() -> None:
    odd = EncoderShape(num_layers=1, num_heads=2, ffn_size=100, hidden_size=32)
    times = flops_times(odd, SHAPES)
    assert len(times.neurons) == 3
    assert times.neurons[2] == pytest.approx(times.neurons[1] * 100 / 64)


def test_a_profile_gives_the_times_of_whole_models() -> None:
    source = make_source(LatencyConfig(device="a100", batch_size=2, sequence_length=16))
    assert isinstance(source, PredictingSource)
    times = estimated_times(source, SHAPE, SHAPES)
    assert times is not None
    empty = Architecture((KeptUnits((), ()),) * 3)
    case = make_case(source.profile, source.runtime, "fp32", workload_of(empty, SHAPE, 16, 2))
    assert times.fixed == pytest.approx(predict(case).latency_ms)
    assert times.heads[0] == times.neurons[0] == 0
    assert all(item > 0 for item in (*times.heads[1:], *times.neurons[1:]))


def test_a_measuring_source_estimates_nothing() -> None:
    assert estimated_times(MeasuringSource(LatencyConfig(), torch.device("cpu")), SHAPE, SHAPES) is None


@pytest.mark.integration
def test_a_measured_table_has_the_shapes_of_the_model_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nasopt.measurement.block_times.SECONDS", 0.1)
    source = MeasuringSource(LatencyConfig(threads=1), torch.device("cpu"))
    told: list[int] = []
    table = measured_table(source, bert().config, SHAPE, SHAPES, lambda done, total, what: told.append(done))
    assert {(entry.hidden_size, entry.batch_size, entry.sequence_length) for entry in table.entries} == {(64, 2, 16)}
    assert len(told) == 13
    assert table_times(table, SHAPE, SHAPES).fixed > 0
