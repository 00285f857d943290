"""How fast, how large and how good a model is on a CPU, in every runtime and precision, whole and cut.

    python -m benchmarks.cpu run                                  # hours; every finished cell is kept
    python -m benchmarks.cpu run --shapes 8x64 --threads 1        # its most telling part
    python -m benchmarks.cpu run --optimum-python PYTHON          # optimum's own files beside ours
    python -m benchmarks.cpu report > benchmarks/results/cpu.md
    python -m benchmarks.cpu run --quick --results /tmp/cpu.jsonl --work /tmp/cpu-work    # whether it works

Every finished cell is a line of JSON in the file of results, with machine, date, versions and command; running again
does only what is missing. Run it from the root of the repository in `make quickstart`'s environment, with the data of
`studies/fisher-sst2.toml`.

The models are the base model of that study, made by `benchmarks/front`'s code, and the fisher method's sub-networks of
some shares of its latency at 8 x 64 tokens, distilled for the study's epoch. Latencies are medians of ratios to the
base model in torch and fp32, in alternation with it, each with its 95 % interval; accuracy is that of the artifact
itself in its runtime, and so are its bytes. PYTHON is an interpreter with `optimum-onnx[onnxruntime]`
(`benchmarks/optimum_export.py`): its exporter reads standard models only, so that it gets the base model, and every
folder that nasopt exports is loaded by it.
"""

from __future__ import annotations

import argparse
import datetime
import itertools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from benchmarks.cpu_tables import tables
from benchmarks.front.figures import packed
from benchmarks.front.ground import CPU, Setting
from benchmarks.front.results import Results, Row
from nasopt.architecture.artifacts import ARTIFACTS, precisions_of
from nasopt.architecture.encoder import Architecture
from nasopt.export.onnx import export_onnx
from nasopt.measurement.device import device_name
from nasopt.measurement.measured.latency import fixed_inputs, measure_latency
from nasopt.measurement.measured.runtimes import RuntimeSettings, forget_compiled, prepare
from nasopt.methods.fisher.options import FisherOptions
from nasopt.methods.fisher.weights import healed, refitted, sub_networks
from nasopt.models.example_inputs import named_batch
from nasopt.models.onnx import OnnxModel
from nasopt.tasks.batches import EncodedSplit
from nasopt.training.candidate import Candidate
from nasopt.training.context import Context
from nasopt.training.weights import Cut
from nasopt.trial import preparation
from nasopt.trial.artifact import make_artifact, make_onnx, size_mb

RESULTS = Path("benchmarks/results/cpu.jsonl")
BASE = "base"
SHARES = ("0.5", "0.35", "0.25")
SHAPES = ("8x64", "1x16", "1x128", "32x128")
THREADS = (1, 2)
OPTIMUM = "optimum"
COMPILED = "compile fp32"
FORMS = (
    *(f"eager {precision}" for precision in precisions_of("eager", "cpu") if precision != "fp16"),
    COMPILED,
    *(f"onnxruntime {precision}" for precision in precisions_of("onnxruntime", "cpu")),
)
"""Runtime and precision; no CPU computes in fp16."""
OPTIMUM_FILES = {f"{OPTIMUM} fp32": "fp32/model.onnx", f"{OPTIMUM} int8": "int8/model_quantized.onnx"}
SCRIPT = Path(__file__).with_name("optimum_export.py")
SAME = 1e-4
"""The largest difference of logits of one file in two environments."""


class Cell(NamedTuple):
    """One latency: a model in a form, at a shape (`batch x tokens`), with so many threads."""

    model: str
    form: str
    shape: str
    threads: int


@dataclass(frozen=True)
class Bench:
    """Models, their artifacts, and where they are kept.

    Attributes:
        setting: the study file and the folder for everything.
        results: the finished cells.
        seed: the base model's, and of the sub-networks' training.
        optimum_python: the interpreter that has optimum; None without.
    """

    setting: Setting
    results: Results
    seed: int
    optimum_python: Path | None

    @cached_property
    def folder(self) -> Path:
        """The benchmark's own folder, with a copy of the base model."""
        folder = self.setting.work / "cpu" / str(self.seed)
        if not folder.exists():
            shutil.copytree(self.setting.base(self.seed), folder)
        return folder

    @cached_property
    def context(self) -> Context:
        config = self.setting.config(self.seed, "base")
        return preparation.prepare(config, self.folder, lambda phase, done, total: None, has_trials=False)

    def candidate(self, model: str) -> Candidate:
        """The base model, or the distilled sub-network of a share, which is made once."""
        context = self.context
        if model == BASE:
            return Candidate(context.base_model, Architecture.full(context.shape), context.base_lineage)
        keys = self.folder / "sub-networks.json"
        known = json.loads(keys.read_text()) if keys.is_file() else {}
        if model not in known:
            made = self._sub_network(float(model))
            known[model] = context.checkpoints.write(made.model.state_dict(), made.architecture)
            keys.write_text(json.dumps(known))
        weights, architecture = context.checkpoints.read(known[model])
        restored = Cut.restore(architecture, weights, context.task.load_model())
        return Candidate(restored, architecture, context.base_lineage)

    def _sub_network(self, share: float) -> Candidate:
        options = FisherOptions.model_validate(self.context.config.method_options)
        criterion = options.trained_criterion
        architecture = sub_networks(criterion, options, self.context).architecture(share)
        start = refitted(criterion, options, self.context)
        return healed(start, self.context.config.training.epochs, options, self.context).candidate(
            architecture, self.context
        )

    def artifact(self, model: str, form: str) -> tuple[nn.Module, float, float]:
        """A model in a form, its MB, and the seconds that making it took; an ONNX file is kept for the next time."""
        runtime, precision = form.split()
        if runtime == OPTIMUM:
            found = OnnxModel(self.optimum_folder / OPTIMUM_FILES[form])
            return found, found.megabytes, 0.0
        file = self.folder / "files" / f"{model}-{precision}.onnx"
        if runtime == "onnxruntime" and file.is_file():
            return OnnxModel(file), file.stat().st_size / 1e6, 0.0
        candidate = self.candidate(model)
        candidate.architecture = candidate.architecture.with_precision(precision)
        started = time.perf_counter()
        if runtime != "onnxruntime":
            modules = make_artifact(candidate, CPU, None)
            return modules, size_mb(modules), time.perf_counter() - started
        names, training = self.context.task.tokenizer.model_input_names, self.context.splits["train"]
        texts = self.context.config.calibration_texts
        made = make_onnx(candidate, ARTIFACTS[runtime][precision], names, training, texts)
        seconds = time.perf_counter() - started
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(made.content)
        return made, size_mb(made), seconds

    @cached_property
    def optimum_folder(self) -> Path:
        """What optimum makes of the base model, by its own interpreter."""
        folder = self.folder / OPTIMUM
        if not (folder / "versions.json").is_file():
            self.context.base_model.save_pretrained(folder / "model")
            self.context.task.tokenizer.save_pretrained(folder / "model")
            self.run_optimum("export", folder / "model", folder)
        return folder

    def run_optimum(self, *arguments: str | Path) -> None:
        """Runs the script of optimum's environment."""
        assert self.optimum_python is not None
        subprocess.run([self.optimum_python, SCRIPT, *arguments], check=True, stdout=subprocess.DEVNULL)

    def inputs(self, shape: str) -> dict[str, torch.Tensor]:
        """A batch of random full-length texts of a shape."""
        batch, length = map(int, shape.split("x"))
        tokenizer, vocabulary = self.context.task.tokenizer, self.context.base_model.config.vocab_size
        return fixed_inputs(batch, length, vocab_size=vocabulary, special_ids=tokenizer.all_special_ids, device=CPU)


def quality(bench: Bench, model: str, form: str, phrases: int | None) -> Row:
    """What a model in a form gets right of the validation phrases, or of the first of them, and its bytes."""
    artifact, megabytes, seconds = bench.artifact(model, form)
    split = bench.context.splits["validation"]
    assert isinstance(split, EncodedSplit)
    if phrases is not None:
        split = split.select(torch.arange(min(phrases, len(split))))
    started = time.perf_counter()
    found = bench.context.task.evaluate(artifact, split, CPU)
    assert found.outputs is not None
    correct = found.outputs.argmax(axis=1) == split.labels.numpy()
    return {
        "quality": found.quality,
        "examples": len(split),
        "correct": packed(correct),
        "megabytes": megabytes,
        "parameters": bench.candidate(model).model.num_parameters(),
        "architecture": bench.candidate(model).architecture.brief(),
        "seconds_to_make": seconds,
        "seconds_to_evaluate": time.perf_counter() - started,
    }


def latency(bench: Bench, cell: Cell, seconds: float, against: str = "eager fp32") -> Row:
    """The time of a cell as a ratio to the base model's in another form, in alternation."""
    inputs = bench.inputs(cell.shape)
    model = _ready(bench, cell.model, cell.form, inputs, cell.threads)
    base = _ready(bench, BASE, against, inputs, cell.threads)
    found = measure_latency(
        model, base, inputs, device=CPU, threads=cell.threads, max_pairs=1000, time_budget_s=seconds
    )
    forget_compiled()
    return found.to_dict()


def _ready(bench: Bench, model: str, form: str, inputs: dict[str, torch.Tensor], threads: int) -> nn.Module:
    artifact, *_ = bench.artifact(model, form)
    if isinstance(artifact, OnnxModel):
        return artifact.opened(threads)
    runtime = "compile" if form == COMPILED else "eager"
    return prepare(artifact, [inputs], RuntimeSettings(runtime, threads), device=CPU)


def loads(bench: Bench, model: str, form: str) -> Row:
    """The largest difference between an exported folder's logits in optimum and in nasopt."""
    artifact, *_ = bench.artifact(model, form)
    assert isinstance(artifact, OnnxModel)
    candidate = bench.candidate(model)
    folder = bench.folder / "exported" / f"{model}-{form.split()[1]}"
    architecture = candidate.architecture.with_precision(form.split()[1])
    tokenizer = bench.context.task.tokenizer
    export_onnx(candidate.model, tokenizer, architecture, folder, card="", force=True, artifact=artifact)
    batches = [named_batch(candidate.model, artifact.input_names, *shape) for shape in ((1, 7), (4, 16))]
    written, read = folder.parent / "inputs.json", folder.parent / "logits.json"
    written.write_text(json.dumps([{name: item.tolist() for name, item in batch.items()} for batch in batches]))
    bench.run_optimum("logits", folder, written, read)
    pairs = zip(json.loads(read.read_text()), batches, strict=True)
    difference = max(float((torch.tensor(theirs) - artifact(**ours)[0]).abs().max()) for theirs, ours in pairs)
    return {"difference": difference, "loads": difference <= SAME}


def plan(bench: Bench, arguments: argparse.Namespace) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Names of the pieces of the benchmark, in the order in which they are done, and what does each."""
    files = OPTIMUM_FILES if bench.optimum_python is not None else {}
    wanted = [(model, form) for model in arguments.models for form in FORMS]
    wanted += [(BASE, form) for form in files if BASE in arguments.models]
    for index, (shape, threads) in enumerate(itertools.product(arguments.shapes, arguments.threads)):
        for model, form in wanted:
            cell = Cell(model, form, shape, threads)
            yield {"piece": "latency", **cell._asdict()}, lambda cell=cell: latency(bench, cell, arguments.seconds)
        for form in files:
            ours = Cell(BASE, form.replace(OPTIMUM, "onnxruntime"), shape, threads)
            yield (
                {"piece": "against-optimum", **ours._asdict()},
                lambda ours=ours, form=form: latency(bench, ours, arguments.seconds, form),
            )
        if index:
            continue  # the rest has neither shape nor threads
        for model, form in wanted:
            if form != COMPILED:  # the program of the same weights gives the same answers
                names = {"piece": "quality", "model": model, "form": form}
                yield names, lambda model=model, form=form: quality(bench, model, form, arguments.phrases)
        for model, form in wanted:
            if files and form.startswith("onnxruntime"):
                names = {"piece": "loads", "model": model, "form": form}
                yield names, lambda model=model, form=form: loads(bench, model, form)


def provenance(seed: int) -> Row:
    """Where, when and how a piece was done; of paths of this machine only the last part is of interest."""
    options = [Path(option).name if option.startswith("/") else option for option in sys.argv[1:]]
    return {
        "seed": seed,
        "machine": f"{device_name(CPU)}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {name: version(name) for name in ("torch", "transformers", "onnxruntime", "bitsandbytes")},
        "command": shlex.join(["python", "-m", "benchmarks.cpu", *options]),
    }


def main() -> None:
    """Runs what is missing, or prints the tables."""
    arguments = _parser().parse_args()
    results = Results(arguments.results)
    if arguments.command == "report":
        print(tables(results))
        return
    if arguments.quick:
        arguments.shapes, arguments.seconds, arguments.phrases = ["1x16"], 0.5, 200
    torch.set_num_threads(arguments.evaluation_threads)
    setting = Setting(arguments.study, arguments.work, threads=1, tiny=arguments.quick)
    bench = Bench(setting, results, arguments.seed, arguments.optimum_python)
    for names, do in plan(bench, arguments):
        if names["piece"] not in arguments.pieces or results.has(**names, seed=arguments.seed):
            continue
        started = time.perf_counter()
        found = do()
        results.add(**names, **found, **provenance(arguments.seed))
        print(*names.values(), f"{time.perf_counter() - started:.1f} s", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    report, run = commands.add_parser("report"), commands.add_parser("run")
    for command in (report, run):
        command.add_argument("--results", type=Path, default=RESULTS)
    run.add_argument("--work", type=Path, default=Path("front-work"), help="that of benchmarks.front, or another")
    run.add_argument("--study", type=Path, default=Path("studies/fisher-sst2.toml"))
    run.add_argument("--seed", type=int, default=0)
    run.add_argument("--models", nargs="+", default=[BASE, *SHARES], help="base, and shares of its latency")
    run.add_argument("--shapes", nargs="+", default=SHAPES)
    run.add_argument("--threads", type=int, nargs="+", default=THREADS)
    run.add_argument("--pieces", nargs="+", default=["latency", "against-optimum", "quality", "loads"])
    run.add_argument("--seconds", type=float, default=10.0, help="for each latency, at most")
    run.add_argument("--phrases", type=int, help="the first of the validation phrases; all unless given")
    run.add_argument("--evaluation-threads", type=int, default=1)
    run.add_argument("--optimum-python", type=Path, metavar="PYTHON")
    run.add_argument("--quick", action="store_true", help="few examples and one small shape")
    return parser


if __name__ == "__main__":
    main()
