"""`nasopt device`: latencies on devices, here and elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasopt.cli.options import (
    Artifacts,
    Debug,
    Format,
    Output,
    Quiet,
    Storage,
    help_without_command,
    open_named,
    stdout,
)
from nasopt.cli.profile import profile as measure_profile

if TYPE_CHECKING:
    from nasopt.measurement.estimates import AnyCase

device_app = typer.Typer(help="Latencies on devices: measured tables, and predictions.", rich_markup_mode=None)
device_app.command("profile")(measure_profile)

PREDICT_HELP = """Predict the latency of a BERT-like encoder on a device that is not here.

One shape by options, many by --shapes, or a trial's by --study and --trial. Every value is an estimate with an
interval: 90 % of held-out published latencies lay within it.

  nasopt device predict --profile a100-40gb --layers 12 --hidden-size 768 --heads 12 --ffn-size 3072

  nasopt device predict --shapes shapes.csv -f csv

  nasopt device predict --profile a100 --study quickstart --trial 7

A profile may be a look-up table (a file that `nasopt device profile` wrote), too.
"""


device_app.callback(invoke_without_command=True)(help_without_command)


@device_app.command("predict", help=PREDICT_HELP)
def predict(
    profile: Annotated[str | None, typer.Option("--profile", help="Device: see `nasopt device list`.")] = None,
    runtime: Annotated[str | None, typer.Option("--runtime", help="Default: tensorrt.")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Default: the trial's own; else the row's; else fp16.")
    ] = None,
    layers: Annotated[int | None, typer.Option("--layers", min=1)] = None,
    hidden_size: Annotated[int | None, typer.Option("--hidden-size", min=1)] = None,
    heads: Annotated[int | None, typer.Option("--heads", min=1, help="Heads that are left in each layer.")] = None,
    head_size: Annotated[
        int | None, typer.Option("--head-size", min=1, help="Default: hidden size / heads; name it if heads are cut.")
    ] = None,
    ffn_size: Annotated[int | None, typer.Option("--ffn-size", min=1)] = None,
    sequence_length: Annotated[
        int | None, typer.Option("--sequence-length", min=1, help="Default: the study's; else 128.")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="Default: the study's; else 1.")] = None,
    shapes: Annotated[Path | None, typer.Option("--shapes", help="A CSV file of shapes.")] = None,
    study: Annotated[str | None, typer.Option("--study", help="Name of a study.")] = None,
    trial: Annotated[int | None, typer.Option("--trial", min=0, help="Number of its trial.")] = None,
    output: Output = Format.table,
    storage: Storage = None,
    artifacts: Artifacts = None,
    debug: Debug = False,
    quiet: Quiet = False,
) -> None:
    """Predict latencies; the help text is `PREDICT_HELP`."""
    from nasopt.measurement.estimates import predict_any
    from nasopt.report.printing import print_record

    sizes = {"layers": layers, "hidden_size": hidden_size, "heads": heads, "ffn_size": ffn_size}
    by_options = [_option(name) for name, value in (sizes | {"head_size": head_size}).items() if value is not None]
    ways = [bool(by_options), shapes is not None, study is not None or trial is not None]
    if sum(ways) > 1:
        raise typer.BadParameter("a shape comes from options, from --shapes or from --study: choose one")
    if shapes is not None:
        if sequence_length is not None or batch_size is not None:
            raise typer.BadParameter("--sequence-length and --batch-size are columns of --shapes")
        _predict_file(shapes, profile, runtime, precision, output)
        return
    if ways[2]:
        if study is None or trial is None:
            raise typer.BadParameter("a trial is named by --study NAME and --trial N, both")
        place = (storage, artifacts)
        case = _case_of_trial(study, trial, place, profile, runtime, precision, batch_size, sequence_length)
    else:
        passes = {"sequence_length": sequence_length or 128, "batch_size": batch_size or 1}
        case = _case_of_options(sizes, passes, head_size, profile, runtime, precision)
    print_record(predict_any([case])[0].to_dict(), output.value, stdout())


@device_app.command("list")
def list_devices(output: Output = Format.table, debug: Debug = False, quiet: Quiet = False) -> None:
    """List the devices that can be predicted, with what is known of the error, and the device at hand."""
    from nasopt.report.printing import print_records

    columns = {"profile": "name", "device": "product", "here": "here", "fitted on": "fitted_on"}
    columns |= {"held-out error": "held_out_error"}
    records = _device_records()
    if output is Format.csv:  # the errors of each family would be a column for each number
        records = [{key: value for key, value in record.items() if key != "held_out"} for record in records]
    print_records(records, output.value, columns, stdout())


def _case_of_options(
    sizes: dict[str, int | None],
    passes: dict[str, int],
    head_size: int | None,
    profile: str | None,
    runtime: str | None,
    precision: str | None,
) -> AnyCase:
    from nasopt.measurement.estimates import any_case
    from nasopt.measurement.predicted.shapes import head_size_of, uniform_workload

    missing = [_option(name) for name, value in sizes.items() if value is None]
    if missing:
        raise typer.BadParameter(f"a shape needs {', '.join(missing)} (or name --shapes FILE, or --study and --trial)")
    given = {name: value for name, value in sizes.items() if value is not None} | passes
    workload = uniform_workload(given, head_size or head_size_of(given["hidden_size"], given["heads"]))
    return any_case(_required(profile), runtime, precision, workload)


def _case_of_trial(
    study: str,
    number: int,
    place: tuple[str | None, Path | None],
    profile: str | None,
    runtime: str | None,
    precision: str | None,
    batch_size: int | None,
    sequence_length: int | None,
) -> AnyCase:
    from nasopt.measurement.estimates import any_case
    from nasopt.study.workload import find_trial, precision_of, trial_workload

    device = _required(profile)
    opened = open_named(place[0], study, place[1], read_only=True)
    setting = opened.config.latency[0]
    workload = trial_workload(
        opened, number, batch_size or setting.batch_size, sequence_length or setting.sequence_length
    )
    return any_case(device, runtime, precision or precision_of(find_trial(opened, number)), workload)


def _predict_file(path: Path, profile: str | None, runtime: str | None, precision: str | None, output: Format) -> None:
    """Every row of a file, printed with its prediction; options overrule columns."""
    from nasopt.errors import NasoptError
    from nasopt.measurement.estimates import any_case, predict_any
    from nasopt.measurement.predicted.shapes import SIZES, ShapesFileError, read_shapes
    from nasopt.report.printing import print_records

    rows = read_shapes(path)
    cases = []
    for row in rows:
        where = f"{path}: row {row.number}"
        name = profile or row.device
        if not name:
            raise ShapesFileError(f"{where}: no device; name one with --profile, or in a column `device`")
        try:
            cases.append(any_case(name, runtime or row.runtime, precision or row.precision, row.workload, row.source))
        except NasoptError as error:
            raise type(error)(f"{where}: {error}") from None
    # A row's own source says where a measured latency came from; these come from here.
    records = [
        {key: value for key, value in row.fields.items() if key != "source"} | row.sizes | prediction.to_dict()
        for row, prediction in zip(rows, predict_any(cases), strict=True)
    ]
    columns = {name: name for name in ("profile", "runtime", "precision", *SIZES, "latency_ms", "low", "high", "note")}
    print_records(records, output.value, columns, stdout())


def _device_records() -> list[dict[str, Any]]:
    """The devices at hand, then the profiles."""
    import torch

    from nasopt.measurement.device import device_name
    from nasopt.measurement.predicted.device_profiles import profiles
    from nasopt.measurement.predicted.fitted import fitted

    found = fitted()
    present = {"cpu": device_name(torch.device("cpu"))}
    present |= {f"cuda:{i}": torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())}
    empty: dict[str, Any] = {
        "here": "yes",
        "source": "measured",
        "fitted_on": None,
        "held_out_error": None,
        "held_out": {},
    }
    records: list[dict[str, Any]] = [{"name": name, "product": product} | empty for name, product in present.items()]
    for profile in profiles().values():
        families = [family for family, names in found.calibrated.items() if profile.name in names]
        errors = {family: found.held_out_shape.groups.get(family, found.held_out_shape.all) for family in families}
        errors = errors or {"all": found.held_out_device.all}
        shown = ", ".join(f"{family} {100 * error.median:.0f} %" for family, error in errors.items())
        records.append(
            {
                "name": profile.name,
                "product": profile.product,
                "here": "yes" if profile.product in present.values() else "no",
                "source": "predicted",
                "fitted_on": ", ".join(families) if families else "its datasheet only",
                "held_out_error": f"{'shape' if families else 'device'} left out, median: {shown}",
                "held_out": {family: error.model_dump() for family, error in errors.items()},
                "date": found.date,
            }
        )
    return records


def _required(profile: str | None) -> str:
    if profile is None:
        raise typer.BadParameter("name the device: --profile a100-40gb (`nasopt device list` shows them)")
    return profile


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
