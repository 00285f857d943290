"""Records and how they are printed."""

from __future__ import annotations

import csv
import io
import json

import optuna
import pytest
from rich.console import Console

from nasopt.report.printing import WIDTH, flatten, print_record, print_records
from nasopt.report.tables import not_trained, trial_columns, trial_record, with_totals

NAMES = ["quality", "latency_ms", "memory_mb"]


def trial() -> optuna.trial.FrozenTrial:
    integer = optuna.distributions.IntDistribution(0, 12)
    params = {"layer_0": 1, "heads_0": 4, "ffn_0": 2, "layer_1": 0, "heads_1": 0, "ffn_1": 0}
    return optuna.trial.create_trial(
        values=[0.9, 12.5, 40.0], params=params, distributions=dict.fromkeys(params, integer), user_attrs={"parent": 3}
    )


def test_a_trial_as_a_record() -> None:
    record = trial_record(trial(), NAMES)
    assert record["values"] == {"quality": 0.9, "latency_ms": 12.5, "memory_mb": 40.0}
    assert (record["parent"], record["control"], record["failure"], record["source"]) == (3, None, None, None)
    assert list(record)[:5] == ["number", "state", "values", "params", "parent"]
    provenance = ["source", "predicted", "device_change", "memory"]
    assert list(record)[5:] == ["precision", *provenance, "control", "provisional", "failure", "duration_s", "feasible"]


def test_a_failed_trial_has_no_values() -> None:
    failed = optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, user_attrs={"failure": "it broke"})
    record = trial_record(failed, NAMES)
    assert (record["values"], record["failure"]) == (None, "it broke")


def test_totals_count_kept_layers_only() -> None:
    record = with_totals(trial_record(trial(), NAMES))
    assert (record["layers"], record["heads"], record["ffn"]) == (1, 4, 2)


def test_flatten() -> None:
    assert flatten({"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {}}) == {"a": 1, "b.c": 2, "b.d.e": 3, "f": None}


def test_json_and_csv_hold_every_record(capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"name": "a", "best": {"quality": 0.5}}, {"name": "b", "best": {}}]
    print_records(records, "json", {}, Console())
    assert json.loads(capsys.readouterr().out) == records
    print_records(records, "csv", {}, Console())
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert rows[0]["best.quality"] == "0.5"
    assert rows[1]["name"] == "b"


def test_csv_of_nothing_has_a_header(capsys: pytest.CaptureFixture[str]) -> None:
    print_records([], "csv", {"name": "name", "best": "best.quality"}, Console())
    assert capsys.readouterr().out == "name,best.quality\n"


def test_a_column_that_nobody_fills_is_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    records = [{"a": 1, "b": None, "c": {}}, {"a": None, "b": None, "c": {}}]
    print_records(records, "table", {"A": "a", "B": "b", "C": "c"}, Console(width=200))
    assert capsys.readouterr().out.split() == ["A", "1", "-"]
    print_records([], "table", {"A": "a", "B": "b"}, Console(width=200))
    assert capsys.readouterr().out.split() == ["A", "B"]


def test_tables_round_and_show_gaps(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(width=200)
    print_records([with_totals(trial_record(trial(), NAMES))], "table", trial_columns(NAMES), console)
    shown = capsys.readouterr().out
    assert "0.9000" in shown
    assert "12.500" in shown
    print_record({"best": {"quality": {"value": 0.5, "trial": 3}}, "base": None}, "table", console)
    shown = capsys.readouterr().out
    assert "quality 0.5000 (trial 3)" in shown
    assert "-" in shown


def test_tables_are_narrow(capsys: pytest.CaptureFixture[str]) -> None:
    texts = {f"column {number}": f"{number} " + "x" * 24 for number in range(9)}
    records = [{"number": 7, **texts}, {"number": 12, **texts}]
    columns = {"trial": "number", **{name: name for name in texts}}
    print_records(records, "table", columns, Console(width=400))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    tables = [table.splitlines() for table in "\n".join(lines).split("\n\n")]
    assert len(tables) == 3
    for head, first, second in tables:
        assert (head.split()[0], first.split()[0], second.split()[0]) == ("trial", "7", "12")
    assert sum(head.count("column") for head, _, _ in tables) == len(texts)


def test_long_texts_wrap_below_themselves(capsys: pytest.CaptureFixture[str]) -> None:
    print_records([{"a": 1, "b": "word " * 60}], "table", {"A": "a", "B": "b"}, Console(width=400))
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split() == ["A", "B"]
    assert max(map(len, lines)) <= WIDTH
    assert sum(line.count("word") for line in lines) == 60
    assert lines[1].startswith("   word")


def test_a_predicted_latency_says_so_in_every_form() -> None:
    shared = {"value_ms": 0.5, "median_ms": 0.5, "base_median_ms": 1.0, "ratio": 0.5, "dtype": "fp32"}
    shared |= {"batch_size": 8, "sequence_length": 64}
    predicted = {"source": "predicted", "profile": "a100-40gb", "interval_percent": 12.4, "beyond": []}
    predicted |= {"device": "a100-40gb", "fitted": "2026-11-20", "low_ms": 0.4, "high_ms": 0.6}
    measured = {"source": "measured", "device": "A CPU", "driver": "", "torch_version": "2.13.0", "threads": 1}
    measured |= {"p10_ms": 0.4, "p90_ms": 0.6, "ratio_low": 0.4, "ratio_high": 0.6, "repetitions": 10}
    guess, known = trial(), trial()
    guess.user_attrs["latency"] = {"latency_ms": shared | predicted}
    known.user_attrs["latency"] = {"latency_ms": shared | measured}
    record = trial_record(guess, NAMES)
    assert (record["source"], record["predicted"]) == ("predicted", "predicted, a100-40gb, +-12 %")
    assert "predicted, a100-40gb, +-12 %" in table_of([record])
    assert "latency is" not in table_of([trial_record(known, NAMES)]), "a column only where it says something"


def test_a_changed_device_is_shown() -> None:
    changed = trial()
    changed.user_attrs["device_change"] = "latency_ms: measured, another CPU"
    assert "latency_ms: measured, another CPU" in table_of([trial_record(changed, NAMES)])


def table_of(records: list[dict[str, object]]) -> str:
    console = Console(file=io.StringIO(), width=400)
    print_records(records, "table", trial_columns(NAMES), console)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_the_parts_of_a_candidate_on_one_line() -> None:
    record = trial_record(trial(), NAMES)
    mask = with_totals({**record, "params": {"layer_0": 1, "layer_1": 0, "layer_2": 1}})
    assert mask["layers"] == 2
    assert "heads" not in mask  # nothing is known of them, which is not the same as 0
    whole = with_totals({**record, "params": {"heads_kept": 70, "ffn_kept": 640, "learning_rate": 1e-4}})
    assert (whole["heads"], whole["ffn"], "layers" in whole) == (70, 640, False)
    student = with_totals({**record, "params": {"cell_0": "conv3", "cell_1": "skip"}})
    assert student["cells"] == "conv3 skip"


def test_a_provisional_trial_is_marked_and_a_screened_one_says_why() -> None:
    stands, given_up = trial(), trial()
    stands.user_attrs["provisional"] = True
    given_up.user_attrs["screened"] = "trial 3 costs no more and is better"
    records = [with_totals(trial_record(item, NAMES)) for item in (stands, given_up)]
    assert [record["provisional"] for record in records] == [True, False]
    shown = table_of(records)
    assert "provisional" in shown
    assert "trial 3 costs no more and is better" in shown
    assert not_trained([stands, given_up])["screened"] == 1
