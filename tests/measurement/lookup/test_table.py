"""Tables are written down by hand, and sums worked out by hand."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from lookup_tables import PLACE, Document, document, entries, entry

from nasopt.errors import LookupTableError
from nasopt.measurement.lookup.table import Estimate, LookupTable, bracket, is_lookup_table, monotone


def table(*groups: list[Document]) -> LookupTable:
    return LookupTable.of_document(document(*groups), "here")


def predict(of: LookupTable, layers: list[tuple[int, int]], **place: Any) -> Estimate:
    return of.predict(layers, **{**PLACE, **place})


def test_latency_is_the_sum_of_the_parts() -> None:
    found = predict(table(), [(1, 64), (4, 128)])
    assert found.latency_ms == pytest.approx(1 + 0.5 + 0.25 + 2 * 0.1 + (2 + 5) + (3 + 5))
    assert found.parts_ms["attention"] == pytest.approx(7)
    assert found.parts_ms["ffn"] == pytest.approx(8)
    assert sum(found.parts_ms.values()) == pytest.approx(found.latency_ms)
    assert found.beyond == ""


def test_blocks_between_the_nodes_lie_on_the_line() -> None:
    found = predict(table(), [(2, 96)])
    assert found.parts_ms["attention"] == pytest.approx(2 + (5 - 2) / 3)
    assert found.parts_ms["ffn"] == pytest.approx(4)


def test_blocks_that_are_gone_cost_nothing_and_removed_layers_not_even_dispatch() -> None:
    assert predict(table(), [(0, 0)]).latency_ms == pytest.approx(1.75 + 0.1)
    assert predict(table(), []).latency_ms == pytest.approx(1.75)


def test_layers_add_up_in_any_order() -> None:
    one, two = [(1, 64), (3, 0)], [(4, 100), (0, 128), (2, 70)]
    fixed = predict(table(), []).latency_ms
    together = predict(table(), one + two).latency_ms
    assert together == pytest.approx(predict(table(), one).latency_ms + predict(table(), two).latency_ms - fixed)
    assert together == pytest.approx(predict(table(), two[::-1] + one).latency_ms)


def test_between_corners_of_the_grid_it_is_multilinear() -> None:
    # Latency = batch x length x its value at 1 x 1, so that any point inside is known.
    corners = [
        entries(batch * length, batch_size=batch, sequence_length=length) for batch in (2, 8) for length in (16, 64)
    ]
    found = predict(table(*corners), [(2, 96)], batch_size=3, sequence_length=40)
    assert found.latency_ms == pytest.approx(3 * 40 * (1.75 + 0.1 + 3 + 4))
    assert found.beyond == ""


def test_between_hidden_sizes_with_grids_of_different_heads() -> None:
    narrow = [item for item in entries(hidden_size=32) if (item["block"], item["size"]) != ("attention", 4)]
    narrow.append(entry("attention", 2, 3.0, hidden_size=32))
    found = predict(table(narrow, entries()), [(3, 64)], hidden_size=48)
    # 3 heads: 4 beyond the narrow grid's line (2, 3), 4 on the wide one's (2, ., ., 5); 3 is where the grids end.
    assert found.parts_ms["attention"] == pytest.approx((4 + 4) / 2)
    assert found.beyond == ""
    assert predict(table(narrow, entries()), [(4, 64)], hidden_size=48).beyond == "heads 4 > 3"


@pytest.mark.parametrize(
    ("layers", "place", "marks"),
    [
        ([(5, 64)], {}, ("heads 5 > 4",)),
        ([(1, 32)], {}, ("FFN width 32 < 64",)),
        ([(1, 64), (4, 256)], {"batch_size": 4}, ("batch size 4 > 2", "FFN width 256 > 128")),
        ([(1, 64)], {"sequence_length": 8, "hidden_size": 32}, ("hidden size 32 < 64", "sequence length 8 < 16")),
    ],
)
def test_extrapolation_is_marked(layers: list[tuple[int, int]], place: Document, marks: tuple[str, ...]) -> None:
    assert predict(table(), layers, **place).beyond == ", ".join(marks)


def test_beyond_the_grid_the_last_line_goes_on() -> None:
    assert predict(table(), [(6, 256)]).parts_ms["attention"] == pytest.approx(5 + 2)
    assert predict(table(), [(6, 256)]).parts_ms["ffn"] == pytest.approx(5 + 4)


def test_an_axis_of_one_node_is_taken_as_proportional() -> None:
    at_two = predict(table(), [(1, 64)]).latency_ms
    assert predict(table(), [(1, 64)], batch_size=6).latency_ms == pytest.approx(3 * at_two)


def test_noise_never_makes_removing_something_expensive() -> None:
    noisy = [item for item in entries() if item["block"] != "attention"]
    noisy += [entry("attention", size, ms) for size, ms in [(1, 2.0), (2, 4.0), (3, 3.0), (4, 5.0)]]
    latencies = [predict(table(noisy), [(heads, 64)]).parts_ms["attention"] for heads in range(5)]
    assert latencies == pytest.approx([0, 2, 3.5, 3.5, 5]), "neighbours that fall are replaced by their mean"


def test_monotone_is_the_closest_curve_that_never_falls() -> None:
    values = np.random.default_rng(0).normal(size=12)
    fitted = np.array(list(monotone(dict(enumerate(values))).values()))
    assert (np.diff(fitted) >= -1e-12).all()
    # By the min-max formula of isotonic regression.
    expected = [
        max(min(values[start : end + 1].mean() for end in range(at, 12)) for start in range(at + 1)) for at in range(12)
    ]
    assert fitted == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, [(2, 1.5), (4, -0.5)]),
        (2, [(2, 1.0)]),
        (3, [(2, 0.5), (4, 0.5)]),
        (7, [(4, 0.25), (8, 0.75)]),
        (10, [(4, -0.5), (8, 1.5)]),
    ],
)
def test_bracket(value: int, expected: list[tuple[int, float]]) -> None:
    assert bracket([2, 4, 8], value) == expected


def test_interval_comes_from_the_checks() -> None:
    stored = document()
    stored["checks"] = [{**stored["checks"][0], "measured_ms": 6.85 * ratio} for ratio in (1.1, 1 / 1.1, 1.1)]
    found = predict(LookupTable.of_document(stored, "here"), [(4, 128)])
    # Every error is log 1.1; Student's t for 3 degrees of freedom is 2.353 at 95 %.
    assert math.log(found.high / found.latency_ms) == pytest.approx(2.3534 * math.log(1.1), rel=1e-4)
    assert found.interval_percent == pytest.approx(100 * (1.1**2.3534 - 1), abs=0.06)
    assert found.low * found.high == pytest.approx(found.latency_ms**2)


def test_a_precision_that_was_not_measured_is_refused() -> None:
    with pytest.raises(LookupTableError, match=r"no int8; it has fp32; .*--precision int8"):
        predict(table(), [(1, 64)], precision="int8")


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "device.json"
    path.write_text(table().model_dump_json())
    assert LookupTable.read(path) == table()
    assert is_lookup_table(json.loads(path.read_text()))


def without(key: str) -> Callable[[Document], object]:
    return lambda stored: stored.pop(key)


def changed(index: int, **values: Any) -> Callable[[Document], object]:
    return lambda stored: stored["entries"][index].update(values)


def changed_check(**values: Any) -> Callable[[Document], object]:
    return lambda stored: stored["checks"][0].update(values)


def all_changed(**values: Any) -> Callable[[Document], object]:
    return lambda stored: [item.update(values) for item in stored["entries"]]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (without("threads"), "threads: field required"),
        (without("kind"), "not a look-up table"),
        (changed(4, latency_ms=-1.0), "entries.4.latency_ms: input should be greater than or equal to 0, not -1.0"),
        (changed(4, latency_ms=math.inf), "entries.4.latency_ms: input should be a finite number"),
        (changed(4, low_ms=3.0), "2.0 ms does not lie between 3.0 and 2.2"),
        (changed(4, size=0), "'attention' cannot have the size 0"),
        (changed(0, size=1), "'embedding' cannot have the size 1"),
        (changed(4, precision="fp8"), "entries.4.precision"),
        (changed(4, batch_size=0), "entries.4.batch_size"),
        (changed(4, size=4), "attention 4 stands there twice at hidden size 64, 2 x 16, fp32"),
        (lambda stored: stored["entries"].pop(3), "layer is missing at hidden size 64, 2 x 16, fp32"),
        (lambda stored: stored["entries"].extend(entries(batch_size=4, sequence_length=8)), "is missing at"),
        (lambda stored: stored["checks"].pop(), "checks"),
        (lambda stored: stored.update(reference_ms=0), "reference_ms"),
        (lambda stored: stored.update(created="yesterday"), "created"),
        (lambda stored: stored.update(colour="red"), "colour: extra inputs are not permitted"),
        (lambda stored: stored.update({"\x1b[31m": 1}), r"\x1b[31m: extra inputs are not permitted"),
        (
            lambda stored: stored.update(device="\x1b[31mred\a"),
            r"device: '\x1b[31mred\x07' holds characters that do not",
        ),
        (lambda stored: stored.update(model_type="bert\n"), r"model_type: 'bert\n' holds characters that do not print"),
        (lambda stored: stored.update(threads="9" * 10_000), "threads: "),
        (changed_check(precision="int8"), "a check is in int8, of which there is no entry"),
        (changed_check(batch_size=10**400), "checks.0.batch_size: input should be less than or equal to"),
        (changed_check(layers=[[10**400, 64]]), "checks.0.layers.0.0"),
        (changed_check(layers=[[-1, 64]]), "checks.0.layers.0.0: input should be greater than or equal to 0"),
        (changed_check(measured_ms=1e-320), "neither can be right"),
        (all_changed(latency_ms=0, low_ms=0), "the entries of a check add up to 0 ms"),
        (all_changed(latency_ms=1e-320, low_ms=0), "neither can be right"),
        (all_changed(latency_ms=1e308, high_ms=1e308), "latency_ms: input should be less than or equal to"),
    ],
)
def test_a_spoilt_file_is_refused_in_one_line(tmp_path: Path, spoil: Callable[[Document], object], words: str) -> None:
    stored = copy.deepcopy(document())
    spoil(stored)
    path = tmp_path / "device.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(LookupTableError) as refused:
        LookupTable.read(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert words in str(refused.value)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 300 + len(str(path))


def test_files_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(LookupTableError, match="nasopt device profile --out"):
        LookupTable.read(tmp_path / "absent.json")
    texts = {"text.json": "device", "list.json": "[]", "other.json": '{"kind": "analytic"}', "deep.json": "[" * 100_000}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(LookupTableError, match="not a look-up table"):
            LookupTable.read(tmp_path / name)
