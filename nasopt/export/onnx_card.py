"""The model card's part on an ONNX file: its inputs and outputs, code that runs it without nasopt, its own numbers.

The code needs onnxruntime, tokenizers and numpy alone.
"""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from nasopt.export.card import number, quality_of
from nasopt.study.opening import OpenStudy

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from nasopt.models.onnx import OnnxModel
    from nasopt.tasks.base import Evaluation, Task

CODE = """
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

folder = Path("this folder")
tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
tokenizer.enable_truncation({truncation})
tokenizer.enable_padding(pad_id={pad_id}, pad_token={pad_token!r})
session = onnxruntime.InferenceSession(folder / "model.onnx", providers=onnxruntime.get_available_providers())

texts = {texts}
encoded = tokenizer.encode_batch(texts)
{windows}inputs = {{
{inputs}
}}
{outputs} = session.run({names}, inputs)
"""
WINDOWS = """windows = [(number, window) for number, text in enumerate(encoded) for window in (text, *text.overflowing)]
of_text, encoded = zip(*windows)
"""
LABELS = """
import json

names = json.loads((folder / "config.json").read_text(encoding="utf-8"))["id2label"]
labels = [names[str(index)] for index in outputs.argmax(axis=1)]
"""
_ATTRIBUTES = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
"""What tokenizers call a model's inputs."""
_DTYPES = {"tensor(int64)": "int64", "tensor(float)": "float32", "tensor(float16)": "float16"}


def onnx_text(
    opened: OpenStudy,
    task: Task,
    file: Path,
    tokens: int,
    tested: tuple[Evaluation | None, Evaluation | None],
    *,
    is_artifact: bool,
) -> str:
    """The model card's part on an ONNX file: how to run it, and its numbers on this machine.

    Args:
        opened: the study.
        task: its task.
        file: the file.
        tokens: the size of its vocabulary.
        tested: the file's evaluation and the base model's on the test split, if known.
        is_artifact: whether the trial was evaluated as this file, and not as torch modules.
    """
    import torch

    from nasopt.measurement.device import device_name
    from nasopt.measurement.measured.latency import fixed_inputs, measure_latency
    from nasopt.models.onnx import OnnxModel

    cpu, base = torch.device("cpu"), task.load_model()
    model = OnnxModel(file)
    rows = [f"| file, MB | {number(file.stat().st_size / 1e6)} | - |"]
    if tested[0] is not None:
        rows.append(f"| {task.quality_name} on the test split | {' | '.join(map(quality_of, tested))} |")
    for shape in opened.config.latency:
        size, length, threads = shape.batch_size, shape.sequence_length, shape.threads or os.cpu_count() or 1
        special = task.tokenizer.all_special_ids
        inputs = fixed_inputs(size, length, vocab_size=tokens, special_ids=special, device=cpu)
        measured = measure_latency(OnnxModel(file, threads), base, inputs, device=cpu, threads=threads)
        rows.append(
            f"| latency, {size} x {length} tokens, {threads} threads, ms (median of {measured.repetitions}) "
            f"| {number(measured.median_ms)} | {number(measured.base_median_ms)} |"
        )
    source = (
        "The numbers above are those of this very file."
        if is_artifact
        else "The numbers above are those of the search, which ran the model in torch."
    )
    return f"""
{source} The file in ONNX Runtime {version("onnxruntime")} on the CPU ({device_name(cpu)}), beside the base model in
torch {torch.__version__} (fp32), measured in alternation:

| | model.onnx | base model |
|---|---|---|
{chr(10).join(rows)}
{running_text(task, model, base.config)}"""


def running_text(task: Task, model: OnnxModel, config: PretrainedConfig) -> str:
    """The inputs, outputs, labels and longest text of a file, and code that runs it.

    Args:
        task: the study's.
        model: the file.
        config: the configuration beside it, or the base model's, which has the same labels.
    """
    limit = min(task.config.max_length, task.max_positions)
    rows = [f"| input | `{item.name}` | {_DTYPES[item.type]} | texts x tokens |" for item in model.session.get_inputs()]
    outputs = model.session.get_outputs()
    for output in outputs:
        last = str(output.shape[-1]) if len(outputs) == 1 else "tokens"
        shape = " x ".join(("texts", "tokens", last)[:: 1 if len(output.shape) == 3 else 2])
        rows.append(f"| output | `{output.name}` | {_DTYPES[output.type]} | {shape} |")
    labels = ", ".join(f"{index} is `{name}`" for index, name in sorted(config.id2label.items()))
    has_classes = task.probabilities is not None and len(outputs) == 1 and task.num_outputs > 1
    told = f"\nClasses, as `id2label` of config.json names them: {labels}.\n" if has_classes else ""
    cut = "longer texts were cut there" if task.window_overlap is None else "longer ones are read in windows"
    return f"""
| `model.onnx` | name | type | shape |
|---|---|---|---|
{chr(10).join(rows)}

A text has at most {limit} tokens, special ones among them: {cut}.
{told}
It needs `pip install onnxruntime tokenizers numpy`:

```python
{_code(task, model, config, limit).strip()}
```
"""


def _code(task: Task, model: OnnxModel, config: PretrainedConfig, limit: int) -> str:
    knows_segments = getattr(config, "type_vocab_size", 0) > 1
    lines = []
    for name in model.input_names:
        array = f'np.array([text.{_ATTRIBUTES[name]} for text in encoded], dtype="int64")'
        if name == "token_type_ids" and not knows_segments:
            array = 'np.zeros((len(encoded), len(encoded[0].ids)), dtype="int64")'
        lines.append(f'    "{name}": {array},')
    prefixes = task.prefixes if task.embedding is not None else ("", "")
    texts = [prefix + text for prefix, text in zip(prefixes, ("a text", "another text"), strict=True)]
    overlap = task.window_overlap
    pairs = len(task.config.dataset.text) == 2 and task.embedding is None
    code = CODE.format(
        truncation=limit if overlap is None else f'{limit}, stride={overlap}, strategy="only_second"',
        windows="" if overlap is None else WINDOWS,
        pad_id=task.tokenizer.pad_token_id,
        pad_token=str(task.tokenizer.pad_token),
        texts=json.dumps([texts] if pairs else texts),
        inputs="\n".join(lines),
        outputs=", ".join(model.output_names) if len(model.output_names) > 1 else "(outputs,)",
        names=json.dumps(model.output_names),
    )
    return code + (LABELS if task.is_classification else task.array_usage)
