"""Which units stay, by name: against the study's own order."""

from __future__ import annotations

import pytest

from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.models.surgery import choose_units, keep_first, keep_largest
from nasopt.training.context import Context
from nasopt.training.sensitivity import Criterion, sample_settings, study_sensitivity
from nasopt.training.unit_selection import unit_selector


@pytest.mark.parametrize("criterion", ["fisher", "obs"])
def test_the_most_sensitive_stay_and_come_back_first(context: Context, criterion: Criterion) -> None:
    sensitivity = study_sensitivity(criterion, sample_settings(None, context), context)
    select = unit_selector(criterion, context)
    params = {f"{part}_{layer}": full for layer in range(3) for part, full in (("layer", 1), ("heads", 2), ("ffn", 64))}
    params["precision"] = "fp32"
    full = Architecture.full(context.shape)
    found = choose_units(context.base_model, full, params, select)
    for layer, units in enumerate(found.layers):
        assert units is not None
        assert units.heads == tuple(sorted(sensitivity.heads[layer].order[:2]))
        assert units.neurons == tuple(sorted(sensitivity.neurons[layer].order[:64]))
    # Of a parent that lacks the most important head of layer 0, the child takes back just that one.
    first, *others = sensitivity.heads[0].order
    parent = Architecture((KeptUnits(tuple(sorted(others[:1])), found.layers[0].neurons), *found.layers[1:]))  # type: ignore[union-attr]
    again = choose_units(context.base_model, parent, params, select)
    assert again.layers[0] is not None
    assert set(again.layers[0].heads) == {first, others[0]}


def test_magnitude_and_functions_need_no_sensitivity(context: Context) -> None:
    assert unit_selector("magnitude", context) is keep_largest
    assert unit_selector("nasopt.models.surgery:keep_first", context) is keep_first
    assert not (context.folder / "sensitivity").exists()
