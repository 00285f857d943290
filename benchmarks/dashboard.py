"""Seconds that the dashboard's pages take in a study of many trials, each with a note and attachments.

    python benchmarks/dashboard.py --sizes 2000 10000
    python benchmarks/dashboard.py --sizes 2000 --browser

It times them as `nasopt dashboard` serves them, and as optuna-dashboard alone does on the same database. *first* is the
first page after the start, which reads the whole study; *again* the same page once more; *news* what an open page asks
for every few seconds. `--browser` adds the time until the Pareto plot, and a trial's note, are on the screen.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from sampler import DIRECTIONS, FFN, HEADS, LAYERS, history

from nasopt.architecture.base import EncoderShape
from nasopt.architecture.encoder import Architecture, KeptUnits
from nasopt.records.latency import latencies_from_json
from nasopt.records.notes import TrialView, note_text
from nasopt.records.study import StudyRecord
from nasopt.records.trial import TrialRecord
from nasopt.report import dashboard, study_page
from nasopt.storage.rdb import open_storage, parse_url

SHAPE = EncoderShape(LAYERS, HEADS, FFN, 384)
LATENCY = {
    **{"value_ms": 2.5, "median_ms": 2.6, "p10_ms": 2.4, "p90_ms": 3.0, "repetitions": 40, "base_median_ms": 5.2},
    **{"ratio": 0.5, "ratio_low": 0.48, "ratio_high": 0.53, "device": "Some CPU", "driver": "", "source": "measured"},
    **{"torch_version": "2.13.0", "dtype": "int8", "threads": 2, "batch_size": 8, "sequence_length": 64},
}
Page = Callable[[str], float]


def fill(url: str, size: int) -> None:
    """A study of complete trials as nasopt leaves them."""
    storage = open_storage(parse_url(url))
    study = optuna.create_study(storage=storage, study_name="study", directions=DIRECTIONS)
    study.set_metric_names(["quality", "latency_ms", "memory_mb"])
    trials = history(size)
    for trial in trials:
        base = {"is_base": True} if trial is trials[0] else {"parent": 0}
        record = TrialRecord(latencies=latencies_from_json({"latency_ms": LATENCY}), checkpoint="0" * 64, **base)
        trial.user_attrs |= record.to_attributes()
    study.add_trials(trials)
    # With it the study is nasopt's, and its page has figures of its own.
    StudyRecord(configuration={"name": "study", "method": "genetic", "task": {"metric": "accuracy"}}).write_to(study)
    notes = []
    for trial in study.get_trials(deepcopy=False):
        prefix = f"dashboard:{trial._trial_id}:note"
        notes += [(f"{prefix}_str:0", note_of(trial)), (f"{prefix}_ver", 1)]
    rows = [{"study_id": study._study_id, "key": key, "value_json": json.dumps(value)} for key, value in notes]
    table = sqlalchemy.Table("study_system_attributes", sqlalchemy.MetaData(), autoload_with=storage.engine)
    with storage.engine.begin() as connection:
        connection.execute(table.insert(), rows)
    storage.engine.dispose()


def note_of(trial: optuna.trial.FrozenTrial) -> str:
    params = trial.params
    layers = [
        KeptUnits(tuple(range(params[f"heads_{layer}"])), tuple(range(params[f"ffn_{layer}"])))
        if params[f"layer_{layer}"]
        else None
        for layer in range(LAYERS)
    ]
    values = dict(zip(("quality", "latency_ms", "memory_mb"), trial.values, strict=True))
    architecture = Architecture(tuple(layers), params["precision"])
    latencies = latencies_from_json({"latency_ms": LATENCY})
    record = TrialRecord(parameters=1_000_000, flops=10**9, latencies=latencies, parent=0)
    return note_text(TrialView(record, architecture, SHAPE, values, values, "accuracy"))


def pages_of(application: Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]) -> Page:
    """A function from a path (with its query) to the seconds it takes to be answered."""

    def page(path: str) -> float:
        path, _, query = path.partition("?")
        environ = {
            **{"REQUEST_METHOD": "GET", "PATH_INFO": path, "QUERY_STRING": query, "SERVER_NAME": "localhost"},
            "HTTP_HOST": "localhost",  # others are refused
            **{"SERVER_PORT": "80", "wsgi.input": io.BytesIO(), "wsgi.errors": sys.stderr, "wsgi.url_scheme": "http"},
        }
        statuses: list[str] = []
        start = time.perf_counter()
        for _ in application(environ, lambda status, *_: statuses.append(status)):
            pass
        seconds = time.perf_counter() - start
        if statuses != ["200 OK"]:
            raise RuntimeError(f"{path}: {statuses}")
        return seconds

    return page


def measure(label: str, size: int, page: Page) -> None:
    root = "/api/studies/1"
    asked = {"first": root, "again": root, "news": f"{root}?after={size}"}
    times = "  ".join(f"{name} {page(path):6.2f} s" for name, path in asked.items())
    print(f"{size:6} trials  {label:28} {times}", flush=True)


def measure_page(url: str, size: int) -> None:
    """Seconds to draw and store the study's own figures and note, and the size of each."""
    study = optuna.load_study(study_name="study", storage=open_storage(parse_url(url)))
    study.get_trials(deepcopy=False)
    start = time.perf_counter()
    study_page.renew_page(study)
    seconds = time.perf_counter() - start
    figures = {name: len(draw(study, None).to_json()) for name, draw in study_page.FIGURES.items()}
    print(f"{size:6} trials  figures and note {seconds:6.2f} s, characters: {figures}", flush=True)


def measure_browser(url: str, size: int) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
    from screenshot_dashboard import console_errors, open_browser, pages, serve, wait_for_text

    with serve(url) as address, open_browser() as browser:
        for name, (path, texts) in pages(1, size - 1, ["quality", "latency_ms"]).items():
            start = time.perf_counter()
            browser.get(address + path)
            shown = [text for text in texts if text != "Artifacts"]  # there are none in this study
            wait_for_text(browser, *shown, seconds=300)
            print(
                f"{size:6} trials  in the browser, {name:12} {time.perf_counter() - start:6.2f} s",
                *console_errors(browser),
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000])
    parser.add_argument("--browser", action="store_true")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    import optuna_dashboard

    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            url = f"sqlite:///{folder}/study.db"
            fill(url, size)
            measure_page(url, size)
            # The order matters: what ours replaces in optuna-dashboard stays replaced.
            measure("optuna-dashboard", size, pages_of(optuna_dashboard.wsgi(open_storage(parse_url(url)))))
            with dashboard.make_dashboard(parse_url(url), 0) as server:
                measure("nasopt dashboard", size, pages_of(server.get_app()))
            if arguments.browser:
                measure_browser(url, size)


if __name__ == "__main__":
    main()
