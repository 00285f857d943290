"""What the fisher method's front is worth: the ladder, its members, the exhaustive front, and others in equal time.

Every finished piece is a line of JSON in the file of results; running a command again does only what is missing. All
commands but `report` print their table when they are done; `report` prints all of them. Needs `make quickstart`'s
environment, the data of `studies/fisher-sst2.toml`, and for `equal-time` the package `syne-tune`, in the same
environment (`pip install syne-tune`; its requirements do not conflict with ours).

With one thread, from the root of the repository. The minutes of one core are estimates from short runs on an AMD EPYC
that was shared; each command adds about two for the base model of a seed that is not there yet:

    python -m benchmarks.front ladder --seeds 0                                      4 a seed
    python -m benchmarks.front ladder --seeds 0 1 2 --lowest-share 0.25              4 a seed; its fourth rung is 0.5
    python -m benchmarks.front members --seeds 0 1 2 --weights cut                   15 a seed
    python -m benchmarks.front members --seeds 0 1 2 --weights elastic --study ELASTIC  60 a seed; 15 with --no-controls
    python -m benchmarks.front exhaustive --seeds 0 --masks 63 --trials 20           35; 18 with --masks 16
    python -m benchmarks.front equal-time --seeds 0 1 2 --minutes 10                 75 a seed: seven competitors
    python -m benchmarks.front report                                                0

ELASTIC is `studies/fisher-elastic-sst2.toml`.

`equal-time` counts seconds of wall-clock: run no more of it at once than there are free cores. Measurements of several
processes wait for each other, which is on the clock of all of them alike.

`--only` names some of the competitors of `equal-time`, so that several processes can share the work: they may share
`--results` and `--work` as well. `--tiny` uses a few examples, to see that
everything runs; its figures mean nothing, and it must have a `--results` and a `--work` of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.front import equal_time, exhaustive, ladder, members
from benchmarks.front.ground import Setting
from benchmarks.front.results import Results
from nasopt.host.logs import configure, quiet_optuna

RESULTS = Path("benchmarks/results/front.jsonl")
TABLES: dict[str, Callable[[Results], str]] = {
    "ladder": ladder.table,
    "members": lambda results: f"{members.table(results)}\n\n{members.budgets(results)}",
    "exhaustive": exhaustive.table,
    "equal-time": equal_time.table,
}


def main() -> None:
    """Runs one command."""
    arguments = _parser().parse_args()
    configure(debug=False, quiet=False)
    quiet_optuna(debug=False)
    torch.set_num_threads(arguments.threads)
    results = Results(arguments.results)
    setting = Setting(arguments.study, arguments.work, arguments.threads, arguments.tiny)
    for seed in () if arguments.command == "report" else arguments.seeds:
        _run(arguments, setting, results, seed)
    for piece, table in TABLES.items():
        if arguments.command in ("report", piece) and results.has(piece=piece):
            print(f"## {piece}\n\n{table(results)}\n")


def _run(arguments: argparse.Namespace, setting: Setting, results: Results, seed: int) -> None:
    setting.base(seed)  # on nobody's clock
    if arguments.command == "ladder":
        ladder.run(setting, results, seed, arguments.lowest_share)
    elif arguments.command == "members":
        members.run(setting, results, seed, arguments.weights, arguments.controls)
    elif arguments.command == "exhaustive":
        exhaustive.run(setting, results, seed, arguments.masks, arguments.trials)
    else:
        for name in arguments.only:
            print(f"seed {seed}: {name}", flush=True)
            equal_time.run(setting, results, seed, name, arguments.minutes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.front", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name in (*TABLES, "report"):
        command = commands.add_parser(name)
        command.add_argument("--results", type=Path, default=RESULTS)
        command.add_argument("--work", type=Path, default=Path("front-work"), help="base models and studies")
        command.add_argument("--study", type=Path, default=Path("studies/fisher-sst2.toml"))
        command.add_argument("--threads", type=int, default=1)
        command.add_argument("--tiny", action="store_true")
        command.add_argument("--seeds", type=int, nargs="+", default=[0])
        if name == "ladder":
            command.add_argument("--lowest-share", type=float, default=0.05, help="of the last of eight rungs")
        elif name == "members":
            command.add_argument("--weights", choices=("cut", "elastic"), default="cut")
            command.add_argument("--no-controls", dest="controls", action="store_false")
        elif name == "exhaustive":
            command.add_argument("--masks", type=int, default=16, help="how many are trained once more")
            command.add_argument("--trials", type=int, default=20)
        elif name == "equal-time":
            every = [*equal_time.OURS, *equal_time.RIVALS]
            command.add_argument("--minutes", type=float, default=10)
            command.add_argument("--only", nargs="+", choices=every, default=every, metavar="COMPETITOR")
    return parser
