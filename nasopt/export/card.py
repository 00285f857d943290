"""The model card of an exported model: what it is, its numbers beside the base model's, and how it is used."""

from __future__ import annotations

import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial

from nasopt.records import queries
from nasopt.records.trial import TrialRecord
from nasopt.study.opening import OpenStudy

if TYPE_CHECKING:
    from nasopt.tasks.base import Task


PROVISIONAL = """**Provisional:** the weights are a slice of a network that was trained for many candidates at once. A
training of its own would make this model better."""

LOADING = """import nasopt

model, tokenizer = nasopt.load("this folder")
"""


def onnx_text(
    opened: OpenStudy,
    task: Task,
    file: Path,
    tokens: int,
    qualities: tuple[float | None, float | None],
    *,
    is_artifact: bool,
) -> str:
    """The model card's part on an ONNX file: how to run it, and its numbers on this machine.

    Args:
        opened: the study.
        task: its task.
        file: the file.
        tokens: the size of its vocabulary.
        qualities: the file's and the base model's on the test split, if known.
        is_artifact: whether the trial was evaluated as this file, and not as torch modules.
    """
    import torch

    from nasopt.measurement.device import device_name
    from nasopt.measurement.measured.latency import fixed_inputs, measure_latency
    from nasopt.models.onnx import OnnxModel

    cpu, base = torch.device("cpu"), task.load_model()
    special = task.tokenizer.all_special_ids
    model = OnnxModel(file)
    rows = [f"| file, MB | {_number(file.stat().st_size / 1e6)} | - |"]
    if qualities[0] is not None:
        rows.append(f"| {task.quality_name} on the test split | {_number(qualities[0])} | {_number(qualities[1])} |")
    for shape in opened.config.latency:
        size, length, threads = shape.batch_size, shape.sequence_length, shape.threads or os.cpu_count() or 1
        inputs = fixed_inputs(size, length, vocab_size=tokens, special_ids=special, device=cpu)
        measured = measure_latency(OnnxModel(file, threads), base, inputs, device=cpu, threads=threads)
        rows.append(
            f"| latency, {size} x {length} tokens, {threads} threads, ms (median of {measured.repetitions}) "
            f"| {_number(measured.median_ms)} | {_number(measured.base_median_ms)} |"
        )
    source = (
        "The numbers above are those of this very file."
        if is_artifact
        else "The numbers above are those of the search, which ran the model in torch."
    )
    return f"""
{source} `model.onnx` takes
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


def model_card(
    opened: OpenStudy,
    task: Task,
    trial: FrozenTrial,
    test_qualities: tuple[float | None, float | None],
    use: str | None = None,
) -> str:
    """README.md of an exported model: its origin, its numbers beside the base model's, where they were measured, and
    how to `use` it (by the task's own code if None)."""
    settings = opened.config.task
    base = queries.base_of(opened.study)
    base_values = base.values if base else [None] * len(trial.values)
    record = TrialRecord.of(trial)
    latencies = record.latencies or {}
    caveats = {name: item.caveat for name, item in latencies.items()}
    rows = [
        f"| {name}{caveats.get(name, '')} | {_number(mine)} | {_number(its)} |"
        for name, mine, its in zip(opened.config.metric_names, trial.values, base_values, strict=True)
    ]
    if test_qualities[0] is not None:
        mine, its = test_qualities
        rows.insert(1, f"| {task.quality_name} on the test split | {_number(mine)} | {_number(its)} |")
    licence = _licence(settings.model)
    front = f"---\nbase_model: {Path(settings.model).name}\nlibrary_name: transformers\npipeline_tag: {settings.type}\n"
    front += f"license: {licence}\n" if licence else ""
    standing = f"{chr(10)}{PROVISIONAL}{chr(10)}" if record.provisional else ""
    environments = "\n".join(f"* {name}: {item.summary}" for name, item in latencies.items())
    return f"""{front}---
# {opened.name}, trial {trial.number}

Made from `{Path(settings.model).name}` by nasopt's {opened.config.method} search, for {settings.type} on
`{Path(settings.dataset.path).name}`. Precision {queries.precision_of(trial)},
{record.parameters or 0:,} parameters.
{standing}
| | this model | base model |
|---|---|---|
{chr(10).join(rows)}

`quality` is {task.quality_name} on {task.judged_on}, which the search has seen.

Latency is one forward pass of one batch, in alternation with the base model where it is measured:

{environments}
{use or f"{chr(10)}```python{chr(10)}{LOADING}{task.usage}```{chr(10)}"}
Licence of the base model: {licence or "unknown"}.
"""


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
