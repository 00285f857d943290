"""From a trial to a model folder: choosing it, rebuilding its artifact, evaluating it once on the test split."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from optuna.trial import FrozenTrial, TrialState

from nasopt.errors import ExportError, TrialNotFoundError
from nasopt.latency_objective import make_source
from nasopt.methods.base import Candidate, Lineage
from nasopt.objective import make_method
from nasopt.query import best_trial
from nasopt.storage import attributes
from nasopt.storage.checkpoints import CheckpointStore
from nasopt.storage.provenance import batch_words, runtime_words, source_words
from nasopt.study import OpenStudy
from nasopt.task_config import TaskConfig

if TYPE_CHECKING:
    from torch import nn

    from nasopt.tasks.base import Task

LOADING = """import nasopt

model, tokenizer = nasopt.load("this folder")
"""
VECTORS = """
texts = tokenizer(["{prefix}a text"], padding=True, return_tensors="pt")
hidden = model(**texts).last_hidden_state  # (texts, tokens, hidden size)
{pooling}
"""
POOLINGS = {
    "mean": """mask = texts["attention_mask"][..., None]
vectors = (hidden * mask).sum(dim=1) / mask.sum(dim=1)""",
    "cls": "vectors = hidden[:, 0]",
}
GENERATION = """
texts = tokenizer(["a text"], padding=True, return_tensors="pt")
print(tokenizer.batch_decode(model.generate(**texts), skip_special_tokens=True))
"""


def choose(opened: OpenStudy, number: int | None, condition: str | None) -> FrozenTrial:
    """The trial of that number, or the best one that satisfies a condition.

    Raises:
        TrialNotFoundError: it is missing, failed, or its checkpoint was not kept.
    """
    store = _store(opened)
    if condition is not None:
        names = opened.study.metric_names or []
        complete = attributes.feasible(attributes.complete_trials(opened.study))
        kept = [t for t in complete if t.user_attrs.get(attributes.CHECKPOINT) in store]
        return best_trial(kept, condition, names)
    trials = opened.study.get_trials(deepcopy=False)
    if number is None or number >= len(trials):
        last = f"0 to {len(trials) - 1}" if trials else "none; run `nasopt study optimize` first"
        raise TrialNotFoundError(f"--trial {number}: there is no such trial; the study has {last}")
    trial = trials[number]
    if trial.state != TrialState.COMPLETE:
        reason = trial.user_attrs.get(attributes.FAILURE, "")
        raise TrialNotFoundError(
            f"--trial {number}: it is {trial.state.name}, not COMPLETE{': ' * bool(reason)}{reason}"
        )
    if trial.user_attrs.get(attributes.CHECKPOINT) not in store:
        raise TrialNotFoundError(
            f"--trial {number}: its weights were not kept (only those on the Pareto front and in the population are); "
            "`nasopt study pareto` shows trials that can be exported"
        )
    return trial


def export(
    opened: OpenStudy, trial: FrozenTrial, to: Path, *, form: Literal["hf", "onnx"] = "hf", force: bool = False
) -> Path:
    """Writes a trial's model for `from_pretrained` or as an ONNX file, verified, with a model card.

    Raises:
        ExportError: the folder is not empty (and `force` is not set), the model read back differs, or it has no such
            form.
        CheckpointError: the checkpoint is damaged.
        MissingExtraError: the extra `onnx` is not installed.
    """
    from nasopt.export import check_target, export_hf
    from nasopt.models.vocabulary import tokenizer_of
    from nasopt.preparation import open_task

    check_target(to, force)
    if form == "onnx":
        return _export_onnx(opened, trial, to, force)
    task = open_task(opened.config, opened.folder)
    candidate = rebuild(opened, trial, task)
    device = make_source(opened.config.latency[0]).device
    artifact = make_method(opened.config).quantize(candidate, device)
    card = model_card(opened, trial, _test_qualities(opened, trial, task))
    tokenizer = tokenizer_of(task.tokenizer, candidate.architecture)
    return export_hf(artifact, tokenizer, candidate.architecture, to, card=card, force=force)


def _export_onnx(opened: OpenStudy, trial: FrozenTrial, to: Path, force: bool) -> Path:
    import torch

    from nasopt.export_onnx import check_convertible, export_onnx
    from nasopt.models.vocabulary import tokenizer_of
    from nasopt.preparation import open_task

    if opened.config.task.type == "translation":
        raise ExportError("a translation model cannot be written as ONNX, which has no generation; use --format hf")
    check_convertible(attributes.precision_of(trial))
    task = open_task(opened.config, opened.folder)
    candidate = rebuild(opened, trial, task)
    artifact = make_method(opened.config).quantize(candidate, torch.device("cpu"))

    def card(file: Path) -> str:
        return model_card(opened, trial, (None, None), _onnx_text(opened, trial, task, file, tokens))

    tokens = int(candidate.model.get_input_embeddings().weight.shape[0])
    tokenizer = tokenizer_of(task.tokenizer, candidate.architecture)
    return export_onnx(artifact, tokenizer, candidate.architecture, to, card=card, force=force)


def rebuild(opened: OpenStudy, trial: FrozenTrial, task: Task) -> Candidate:
    """The candidate of a complete trial, from its checkpoint."""
    weights, architecture = _store(opened).read(trial.user_attrs[attributes.CHECKPOINT])
    model = make_method(opened.config).module(architecture, task)
    model.load_state_dict(weights)
    model.eval()
    return Candidate(model, architecture.with_precision(attributes.precision_of(trial)), Lineage())


def _test_qualities(
    opened: OpenStudy, trial: FrozenTrial, task: Task, exported: nn.Module | None = None
) -> tuple[float | None, float | None]:
    """Quality on the test split of a trial and of the base model; None where there is no such split or checkpoint.

    `exported` is evaluated, on the CPU, instead of the trial's artifact.
    """
    import torch

    from nasopt.models.vocabulary import tokenizer_of

    if opened.config.task.dataset.splits.test is None or opened.config.task.metric == "encodechka":
        return None, None  # the benchmark has files of its own, and the search has seen them
    device, method = make_source(opened.config.latency[0]).device, make_method(opened.config)
    (opened.folder / "data").mkdir(exist_ok=True)

    def quality(which: FrozenTrial | None, exported: nn.Module | None = None) -> float | None:
        if which is None or which.user_attrs[attributes.CHECKPOINT] not in _store(opened):
            return None
        candidate = rebuild(opened, which, task)
        tokenizer = tokenizer_of(task.tokenizer, candidate.architecture)
        own = None if tokenizer is task.tokenizer else tokenizer
        split = task.encode(opened.folder / "data", own)["test"]
        if exported is not None:
            return task.evaluate(exported, split, torch.device("cpu"), own).quality
        # Quantised again: evaluating would repack the weights of the artifact that is exported.
        return task.evaluate(method.quantize(candidate, device), split, device, own).quality

    return quality(trial, exported), quality(attributes.base_of(opened.study))


def _onnx_text(opened: OpenStudy, trial: FrozenTrial, task: Task, file: Path, tokens: int) -> str:
    """What the model card says of an ONNX file: how to run it, and its own numbers, for the trial's were torch's.

    `tokens` is the size of its vocabulary.
    """
    import torch

    from nasopt.measurement.device import device_name
    from nasopt.measurement.latency import fixed_inputs, measure_latency
    from nasopt.models.onnx import OnnxModel

    cpu, base = torch.device("cpu"), task.load_model()
    special = task.tokenizer.all_special_ids
    model = OnnxModel(file)
    rows = [f"| file, MB | {_number(file.stat().st_size / 1e6)} | - |"]
    qualities = _test_qualities(opened, trial, task, model)
    if qualities[0] is not None:
        rows.append(
            f"| {opened.config.task.metric} on the test split | {_number(qualities[0])} | {_number(qualities[1])} |"
        )
    for shape in opened.config.latency:
        size, length, threads = shape.batch_size, shape.sequence_length, shape.threads or os.cpu_count() or 1
        inputs = fixed_inputs(size, length, vocab_size=tokens, special_ids=special, device=cpu)
        measured = measure_latency(OnnxModel(file, threads), base, inputs, device=cpu, threads=threads)
        rows.append(
            f"| latency, {size} x {length} tokens, {threads} threads, ms (median of {measured.repetitions}) "
            f"| {_number(measured.median_ms)} | {_number(measured.base_median_ms)} |"
        )
    return f"""
The numbers above are those of the search, which ran the model in torch. `model.onnx` takes
{", ".join(model.input_names)} (int64, batch x tokens) and gives {model.output_name}.
The file itself, in ONNX Runtime {version("onnxruntime")} on the CPU ({device_name(cpu)}), beside the base model in
torch {torch.__version__} (fp32), measured in alternation:

| | model.onnx | base model |
|---|---|---|
{chr(10).join(rows)}

```python
import onnxruntime
from transformers import AutoTokenizer

session = onnxruntime.InferenceSession("this folder/model.onnx")
tokenizer = AutoTokenizer.from_pretrained("this folder")
names = [item.name for item in session.get_inputs()]
texts = tokenizer(["a text"], padding=True, return_tensors="np")
(outputs,) = session.run(["{model.output_name}"], {{name: texts[name] for name in names}})
```
"""


def _store(opened: OpenStudy) -> CheckpointStore:
    return CheckpointStore(opened.folder / "checkpoints")


def model_card(
    opened: OpenStudy, trial: FrozenTrial, test_qualities: tuple[float | None, float | None], use: str | None = None
) -> str:
    """README.md of an exported model: what it is, its numbers beside the base model's, where they were measured, and
    how to `use` it."""
    task = opened.config.task
    base = attributes.base_of(opened.study)
    base_values = base.values if base else [None] * len(trial.values)
    latencies = trial.user_attrs.get(attributes.LATENCY, {})
    rows = [
        f"| {name}{_predicted(latencies.get(name))} | {_number(mine)} | {_number(its)} |"
        for name, mine, its in zip(opened.study.metric_names or [], trial.values, base_values, strict=True)
    ]
    if test_qualities[0] is not None:
        mine, its = test_qualities
        rows.insert(1, f"| {task.metric} on the test split | {_number(mine)} | {_number(its)} |")
    licence = _licence(task.model)
    seen = "the files of the benchmark" if task.metric == "encodechka" else "the validation split"
    front = f"---\nbase_model: {Path(task.model).name}\nlibrary_name: transformers\npipeline_tag: {task.type}\n"
    front += f"license: {licence}\n" if licence else ""
    environments = "\n".join(f"* {name}: {_environment(item)}" for name, item in latencies.items())
    return f"""{front}---
# {opened.config.name}, trial {trial.number}

Made from `{Path(task.model).name}` by nasopt's {opened.config.method} search, for {task.type} on
`{Path(task.dataset.path).name}`. Precision {attributes.precision_of(trial)},
{trial.user_attrs.get("parameters", 0):,} parameters.

| | this model | base model |
|---|---|---|
{chr(10).join(rows)}

`quality` is {task.metric} on {seen}, which the search has seen.

Latency is one forward pass of one batch, in alternation with the base model where it is measured:

{environments}
{use or _usage(task)}
Licence of the base model: {licence or "unknown"}.
"""


def _usage(task: TaskConfig) -> str:
    """How the exported folder is used, in Python."""
    code = LOADING
    if task.type == "sentence-similarity":
        settings = task.similarity
        code += VECTORS.format(prefix=settings.prefix, pooling=POOLINGS[settings.pooling])
        code += "vectors = vectors / vectors.norm(dim=-1, keepdim=True)\n" if settings.normalize else ""
    elif task.type == "translation":
        code += GENERATION
    return f"\n```python\n{code}```\n"


def _predicted(item: Mapping[str, Any] | None) -> str:
    return f" ({source_words(item)})" if item is not None and item["source"] == "predicted" else ""


def _environment(item: Mapping[str, Any]) -> str:
    where = f"{batch_words(item)} on {item['device']} ({runtime_words(item)})"
    if item["source"] == "predicted":
        return f"{where}; ratio to the base model {item['ratio']:.3f}; {source_words(item)}"
    return (
        f"{where}, {item['threads']} threads, torch {item['torch_version']}; "
        f"ratio to the base model {item['ratio']:.3f} "
        f"({item['ratio_low']:.3f} to {item['ratio_high']:.3f}, {item['repetitions']} pairs); {item['source']}"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _licence(model: str) -> str | None:
    """The licence that a local base model's own card states."""
    card = Path(model) / "README.md"
    if not card.is_file():
        return None
    for line in card.read_text(encoding="utf-8", errors="replace").splitlines()[:40]:
        if line.startswith("license:"):
            return line.partition(":")[2].strip()
    return None
