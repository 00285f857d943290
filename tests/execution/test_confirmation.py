"""A whole search on looked-up latencies, confirmed at its end by measuring."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from command_line import assert_refused, read, run
from lookup_tables import PLACE, document, entries

from nasopt.records import names as attributes
from nasopt.records import queries

pytestmark = [pytest.mark.usefixtures("study_folder"), pytest.mark.integration]
WriteStudy = Callable[..., Path]

BASE_MS = 1.75 + 3 * (0.1 + 5 + 5)


def write_table(path: Path, **changes: Any) -> None:
    """A table of round numbers for the tests' tiny model, as if measured on this machine."""
    import torch

    from nasopt.measurement.device import device_name

    check = {**PLACE, "layers": [[4, 128]] * 3, "measured_ms": BASE_MS * 1.05}
    table = document(entries(), entries(precision="bf16"))
    table |= {"device": device_name(torch.device("cpu")), "checks": [check, check]}
    path.write_text(json.dumps({**table, **changes}))


def looked_up(write_study: WriteStudy, *, confirm: bool = True, latency: str = "") -> Path:
    keys = f'mode = "lut"\nlut = "device.json"\nconfirm = {str(confirm).lower()}\n{latency}\n[method_options]'
    return write_study(options='precisions = ["fp32", "bf16"]', **{"[method_options]": keys})


def study() -> optuna.Study:
    return optuna.load_study(study_name="tiny", storage="sqlite:///nasopt.db")


def test_a_search_on_a_table_is_confirmed_once(write_study: WriteStudy) -> None:
    write_table(Path("device.json"))
    assert run("study", "create", looked_up(write_study)).code == 0
    result = run("study", "optimize", "tiny", "--n-trials", "3", "--quiet")
    assert result.code == 0, result.err
    trials = queries.complete_trials(study())
    for trial in trials:
        record = trial.user_attrs[attributes.LATENCY]["latency_ms"]
        assert record["source"] == "predicted"
        assert record["profile"].endswith(", 1 thread")
        kept = [index for index in range(3) if trial.params[f"layer_{index}"]]
        # By hand: 1 + heads and 1 + neurons / 32 where they are on the table's lines.
        expected = 1.75 + 0.1 * len(kept)
        expected += sum(1 + trial.params[f"heads_{index}"] for index in kept if trial.params[f"heads_{index}"])
        expected += sum(1 + trial.params[f"ffn_{index}"] / 32 for index in kept if trial.params[f"ffn_{index}"])
        assert trial.values[1] == pytest.approx(expected)
    wanted = {trial.number for trial in queries.pareto_front(study())} | {0}
    confirmed = confirmations()
    assert set(confirmed) == wanted
    for number, found in confirmed.items():
        assert found["latency_ms"]["source"] == "measured"
        assert found["latency_ms"]["predicted_ms"] == study().trials[number].values[1]
    # A second call measures nothing again.
    assert run("study", "optimize", "tiny", "--n-trials", "1", "--quiet").code == 0
    again = confirmations()
    assert {number: again[number] for number in confirmed} == confirmed
    shown_by_pareto(again)


def confirmations() -> dict[int, dict[str, Any]]:
    prefix = attributes.CONFIRMED
    return {int(key.removeprefix(prefix)): value for key, value in study().user_attrs.items() if key.startswith(prefix)}


def shown_by_pareto(confirmed: dict[int, dict[str, Any]]) -> None:
    for record in read("study", "pareto", "tiny"):
        found, measured = record["confirmed"]["latency_ms"], confirmed[record["number"]]["latency_ms"]
        assert found["measured_ms"] == measured["value_ms"]
        assert found["error"] == pytest.approx(record["values"]["latency_ms"] / measured["value_ms"] - 1)
        assert record["source"] == "predicted"
    table = run("study", "pareto", "tiny").out
    assert "latency_ms measured" in table
    assert "% off" in table
    summary = read("study", "show", "tiny")["confirmed"]
    assert summary["trials"] == len(confirmed)
    assert 0 <= summary["median_error"] <= summary["largest_error"]


@pytest.mark.slow
def test_what_an_interruption_left_unconfirmed_is_confirmed_later(write_study: WriteStudy) -> None:
    write_table(Path("device.json"))
    assert run("study", "create", looked_up(write_study)).code == 0
    assert run("study", "optimize", "tiny", "--quiet").code == 0
    before = confirmations()
    dropped = max(before)
    # As if the process had been killed before the last one was written.
    with optuna.storages.RDBStorage("sqlite:///nasopt.db").engine.begin() as connection:
        connection.exec_driver_sql(
            "DELETE FROM study_user_attributes WHERE key = ?", (f"{attributes.CONFIRMED}{dropped}",)
        )
    assert set(confirmations()) == set(before) - {dropped}
    assert run("study", "optimize", "tiny", "--quiet").code == 0
    after = confirmations()
    assert set(after) == set(before)
    assert all(after[number] == before[number] for number in before if number != dropped)


def test_without_confirm_nothing_is_measured(write_study: WriteStudy) -> None:
    write_table(Path("device.json"), device="a machine far away")
    assert run("study", "create", looked_up(write_study, confirm=False)).code == 0
    assert run("study", "optimize", "tiny", "--n-trials", "1", "--quiet").code == 0
    assert confirmations() == {}
    record = study().trials[0].user_attrs[attributes.LATENCY]["latency_ms"]
    assert record["value_ms"] == pytest.approx(BASE_MS)
    assert record["device"] == "a machine far away"
    assert "a machine far away, 1 thread" in run("study", "trials", "tiny").out
    write_table(Path("device.json"), device="another machine")
    assert_refused(run("study", "optimize", "tiny"), "look-up table of latency_ms has changed")


def test_shapes_beyond_the_grid_are_marked(write_study: WriteStudy) -> None:
    write_table(Path("device.json"))
    path = looked_up(write_study, confirm=False)
    path.write_text(path.read_text().replace("batch_size = 2\n", "batch_size = 4\n"))
    assert run("study", "create", path).code == 0
    assert run("study", "optimize", "tiny", "--n-trials", "1", "--quiet").code == 0
    assert study().trials[0].user_attrs[attributes.LATENCY]["latency_ms"]["beyond"] == ["batch size 4 > 2"]
    assert "extrapolated" in run("study", "trials", "tiny").out


@pytest.mark.parametrize(
    ("changes", "latency", "words"),
    [
        ({"device": "an abacus"}, "", "measured on 'an abacus', but this machine has"),
        ({"model_type": "roberta"}, "", "of 'roberta' models, but the model is of the type 'bert'"),
        ({"head_size": 32}, "", "of heads of size 32, but the model's are of size 16"),
        ({"threads": 2}, "", "measured with threads = 2, but [latency] says 1"),
        ({"reference_ms": -1}, "", "reference_ms"),
        ({}, 'runtime = "compile"', "mode lut is for the runtime eager"),
    ],
)
def test_tables_that_do_not_fit_are_refused_at_create(
    write_study: WriteStudy, changes: dict[str, Any], latency: str, words: str
) -> None:
    write_table(Path("device.json"), **changes)
    assert_refused(run("study", "create", looked_up(write_study, latency=latency)), words)


def test_precisions_that_the_table_lacks_are_refused(write_study: WriteStudy) -> None:
    write_table(Path("device.json"))
    path = looked_up(write_study)
    path.write_text(path.read_text().replace('"bf16"]', '"int8"]'))
    assert_refused(run("study", "create", path), "has no int8, which the study needs")


def test_a_missing_table_is_told(write_study: WriteStudy) -> None:
    assert_refused(run("study", "create", looked_up(write_study)), "no such look-up table", "nasopt device profile")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ('mode = "lut"', "mode lut needs `lut`"),
        ('lut = "device.json"', "lut and confirm are for `mode` = lut"),
        ("confirm = true", "lut and confirm are for `mode` = lut"),
        ('mode = "magic"', "latency.0.mode: 'magic' is not allowed"),
    ],
)
def test_keys_that_do_not_go_together(write_study: WriteStudy, keys: str, words: str) -> None:
    assert_refused(run("study", "create", write_study(**{"[method_options]": f"{keys}\n[method_options]"})), words)
