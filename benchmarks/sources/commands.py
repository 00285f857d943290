"""The sources' experiments: all methods in the same time on one task, and what two sources chose.

Every finished run is a line of JSON in the file of results; running a command again does only what is missing. Commands
print their table when they are done, `report` prints all of them, `figure` draws the methods. Studies are made and run
by `nasopt study create`, `optimize` and `export`. Needs the package of MiniLM (`make quickstart`) and GLUE's SST-2 as
CSV (train, validation and test with the columns sentence and label); `figure` needs the extra `images`.

With one thread, from the root of the repository, one command at a time: seconds of wall-clock count.

    python -m benchmarks.sources methods --seeds 0 1 2 --minutes 6       70 minutes a seed: ten competitors
    python -m benchmarks.sources genetic-weights --seeds 0 --minutes 6   20 a seed: b = 0 and c = 0 beside both 1
    python -m benchmarks.sources genetic-population --seeds 0 --minutes 6  20 a seed: populations of 4, 8 and 16
    python -m benchmarks.sources taylor-units --seeds 0 1 2             7 a seed: chosen units against random ones
    python -m benchmarks.sources report
    python -m benchmarks.sources figure --to sources.png

A run that had less than 0.85 of a core is kept, not compared, and made again by the next call of its command.
The first run of a seed adds about three minutes for its base model. `--only` names some of the competitors. `--tiny`
uses a few examples, to see that everything runs; its figures mean nothing, and it must have a `--results` and a
`--work` of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.front.results import Results
from benchmarks.sources import genetic, methods, taylor
from benchmarks.sources.picture import picture
from benchmarks.sources.setting import Setting
from nasopt.host.logs import configure, quiet_optuna

RESULTS = Path("benchmarks/results/sources.jsonl")
DATA = Path("../shared/data/sst2")
TABLES: dict[str, Callable[[Results], str]] = {
    methods.PIECE: methods.table,
    genetic.WEIGHTS: genetic.table_of_weights,
    genetic.POPULATION: genetic.table_of_populations,
    taylor.PIECE: taylor.table,
}


def main(arguments: list[str] | None = None) -> None:
    """Runs one command."""
    chosen = _parser().parse_args(arguments)
    configure(debug=False, quiet=False)
    quiet_optuna(debug=False)
    results = Results(chosen.results)
    if chosen.command == "figure":
        rows = [row for row in results.rows(piece=methods.PIECE) if methods.had_its_cores(row)]
        picture([row for row in rows if row["minutes"] == rows[-1]["minutes"]]).write_image(
            chosen.to, width=1200, height=520, scale=1.5
        )
        return
    if chosen.command != "report":
        torch.set_num_threads(chosen.threads)
        setting = Setting(chosen.data, chosen.work, chosen.threads, chosen.train, chosen.tiny)
        for seed in chosen.seeds:
            _run(chosen, setting, results, seed)
    for piece, table in TABLES.items():
        if chosen.command in ("report", piece) and results.has(piece=piece):
            print(f"## {piece}\n\n{table(results)}\n")


def _run(chosen: argparse.Namespace, setting: Setting, results: Results, seed: int) -> None:
    setting.base(seed)  # on nobody's clock
    if chosen.command == genetic.WEIGHTS:
        genetic.run_weights(setting, results, seed, chosen.minutes)
    elif chosen.command == genetic.POPULATION:
        genetic.run_population(setting, results, seed, chosen.minutes)
    elif chosen.command == taylor.PIECE:
        taylor.run(setting, results, seed)
    else:
        for name in chosen.only:
            print(f"seed {seed}: {name}", flush=True)
            methods.run(setting, results, seed, name, chosen.minutes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sources", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in (*TABLES, "report", "figure"):
        command = commands.add_parser(name)
        command.add_argument("--results", type=Path, default=RESULTS)
        if name == "figure":
            command.add_argument("--to", type=Path, required=True, help="a png or svg file")
        if name not in TABLES:
            continue
        command.add_argument("--work", type=Path, default=Path("sources-work"), help="base models and studies")
        command.add_argument("--data", type=Path, default=DATA, help="the folder of the splits")
        command.add_argument("--train", type=int, default=4000, help="training phrases")
        command.add_argument("--threads", type=int, default=1)
        if name != taylor.PIECE:
            command.add_argument("--minutes", type=float, default=6)
        command.add_argument("--tiny", action="store_true")
        command.add_argument("--seeds", type=int, nargs="+", default=[0])
        if name == methods.PIECE:
            every = [*methods.METHODS, *methods.GENERIC]
            command.add_argument("--only", nargs="+", choices=every, default=every, metavar="COMPETITOR")
    return parser
