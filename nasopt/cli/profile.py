"""`nasopt device profile`: measuring a look-up table on the device at hand."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nasopt.architecture.artifacts import TORCH_PRECISIONS
from nasopt.architecture.base import Precision
from nasopt.cli.options import Debug, Quiet, Settings, say
from nasopt.errors import choices

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DEFAULT_BATCH_SIZES = [1, 8, 32]
DEFAULT_SEQUENCE_LENGTHS = [32, 128]
DEFAULT_PRECISIONS = ["fp32"]


def profile(
    out: Annotated[Path, typer.Option("--out", help="File to write (JSON).")],
    model: Annotated[
        str | None, typer.Option("--model", help="Folder or hub id of the model whose candidates are to be predicted.")
    ] = None,
    hidden_size: Annotated[
        list[int] | None, typer.Option("--hidden-size", min=1, help="Repeat for several; default: the model's.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option("--heads", min=1, help="Without --model: heads at the first hidden size.")
    ] = None,
    ffn_size: Annotated[int | None, typer.Option("--ffn-size", min=1, help="Without --model: the FFN's width.")] = None,
    batch_size: Annotated[
        list[int], typer.Option("--batch-size", min=1, help="Repeat for several.")
    ] = DEFAULT_BATCH_SIZES,
    sequence_length: Annotated[
        list[int], typer.Option("--sequence-length", min=2, help="Repeat for several.")
    ] = DEFAULT_SEQUENCE_LENGTHS,
    precision: Annotated[list[str], typer.Option("--precision", help="Repeat for several.")] = DEFAULT_PRECISIONS,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores.")] = None,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="Seconds for each model that is timed.")] = 2.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of weights, tokens, order and checks.")] = 0,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Measure a look-up table of block latencies on the device at hand.

    Example: nasopt device profile --out device.json --model all-MiniLM-L6-v2 --batch-size 8 --sequence-length 64
    """
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise typer.BadParameter(f"--out {out}: not a file in an existing folder")
    config = _model_config(model, hidden_size, heads, ffn_size)
    from nasopt.host.files import write_atomically
    from nasopt.measurement.device import resolve_device
    from nasopt.measurement.lookup.profiling import Grid, measure_table
    from nasopt.measurement.measured.runtimes import RuntimeSettings

    grid = Grid(
        tuple(sorted(set(hidden_size or [config.hidden_size]))),
        tuple(sorted(set(batch_size))),
        tuple(sorted(set(sequence_length))),
        tuple(_precision(name) for name in dict.fromkeys(precision)),
    )
    with _progress() as on_step:
        table = measure_table(
            config,
            grid,
            device=resolve_device(device),
            settings=RuntimeSettings("eager", threads or os.cpu_count() or 1),
            seconds=seconds,
            seed=seed,
            on_step=on_step,
        )
    write_atomically(out, table.model_dump_json(indent=1))
    line = f"{table.identity}: {len(table.entries)} entries; {len(table.checks)} models off the grid were predicted"
    say(f"{line} to +-{table.relative_error:.0%}")
    print(out)


def _model_config(
    model: str | None, hidden_size: list[int] | None, heads: int | None, ffn_size: int | None
) -> PretrainedConfig:
    """The configuration of the model, or of a BERT of that shape."""
    if model is not None:
        if heads is not None or ffn_size is not None:
            raise typer.BadParameter("--model has its own --heads and --ffn-size: name the model or the shape")
        from nasopt.models.loading import load_config

        return load_config(model, None, False)
    if not hidden_size or heads is None or ffn_size is None:
        raise typer.BadParameter("name a model by --model, or a shape by --hidden-size, --heads and --ffn-size")
    if hidden_size[0] % heads:
        raise typer.BadParameter(f"--hidden-size {hidden_size[0]} must be a multiple of --heads {heads}")
    from transformers import BertConfig

    return BertConfig(hidden_size=hidden_size[0], num_attention_heads=heads, intermediate_size=ffn_size)


def _precision(name: str) -> Precision:
    for known in TORCH_PRECISIONS:  # of which tables are made
        if name == known:
            return known
    raise typer.BadParameter(f"--precision {name}: one of {choices(TORCH_PRECISIONS)}")


@contextmanager
def _progress() -> Iterator[Callable[[int, int, str], None]]:
    """A bar on a terminal, a line for each quarter elsewhere, on stderr."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    from nasopt.execution.progress import PREPARATION, make_view

    console = Console(stderr=True)
    if Settings.quiet or not console.is_terminal:
        view = make_view(console, 0, Settings.quiet)
        yield lambda done, total, what: view.phase(PREPARATION, "measuring", done, total)
        return
    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=console) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)
