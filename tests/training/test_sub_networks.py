"""Sub-networks of a study: from sensitivity and times, within their share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from lookup_tables import document

from nasopt.architecture.encoder import Architecture
from nasopt.config.study import LatencyConfig
from nasopt.errors import StudyFileError
from nasopt.training.context import Context
from nasopt.training.samples import SampleSettings
from nasopt.training.sub_networks import check_share, study_sub_networks

SETTINGS = SampleSettings(64, 16, 0)


def time_of(architecture: Architecture) -> float:
    """By the table of `lookup_tables`, in ms."""
    heads, neurons = (0.0, 2.0, 3.0, 4.0, 5.0), {0: 0.0, 64: 3.0, 128: 5.0}
    kept = [units for units in architecture.layers if units is not None]
    return 2.05 + sum(heads[len(units.heads)] + neurons[len(units.neurons)] for units in kept)


@pytest.fixture
def looked_up(context: Context, tmp_path: Path) -> Context:
    table = tmp_path / "device.json"
    table.write_text(json.dumps(document()))
    latency = context.config.latency[0].model_copy(update={"mode": "lut", "lut": str(table)})
    context.config = context.config.model_copy(update={"latency": (latency,)})
    return context


@pytest.mark.parametrize("criterion", ["fisher", "obs"])
def test_sub_networks_keep_to_their_share_of_the_time(looked_up: Context, criterion: str) -> None:
    networks = study_sub_networks(criterion, SETTINGS, "latency", looked_up)  # type: ignore[arg-type]
    assert networks.smallest_share == pytest.approx(2.05 / 32.05)
    assert networks.architecture(1.0) == Architecture.full(looked_up.shape)
    for share in (0.7, 0.4, 0.2):
        assert time_of(networks.architecture(share)) <= share * 32.05
    with pytest.raises(ValueError, match="smallest sub-network"):
        networks.architecture(0.05)


def test_shares_that_nothing_can_keep_to_are_refused(looked_up: Context) -> None:
    latency, shape = looked_up.config.latency[0], looked_up.shape
    check_share("lowest", 0.065, "latency", latency, shape)
    with pytest.raises(StudyFileError, match=r"lowest: 0\.06 of .* takes 0\.064 of it"):
        check_share("lowest", 0.06, "latency", latency, shape)
    # Nothing but the layers costs FLOPs; what is to be measured is not known yet.
    check_share("lowest", 0.001, "flops", latency, shape)
    check_share("lowest", 0.001, "latency", LatencyConfig(), shape)


def test_a_ladder_ends_where_sub_networks_end(looked_up: Context) -> None:
    networks = study_sub_networks("fisher", SETTINGS, "latency", looked_up)
    assert networks.shares(0.125, 3) == pytest.approx([0.25, 0.5, 0.125])
    assert networks.shares(None, 3)[-1] == pytest.approx(2.05 / 32.05)
    assert networks.shares(0.01, 3)[-1] == pytest.approx(2.05 / 32.05)
    found = networks.ladder([0.999, *sorted(networks.shares(0.01, 3), reverse=True), 0.07])
    assert [time_of(item) for item in found] == sorted({time_of(item) for item in found}, reverse=True)
    assert Architecture.full(looked_up.shape) not in found
