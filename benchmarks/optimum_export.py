"""What a user of `optimum` would run, by an interpreter that has it; `benchmarks/cpu.py` starts this file.

    python benchmarks/optimum_export.py export MODEL TO     # TO/fp32/model.onnx and TO/int8/model_quantized.onnx
    python benchmarks/optimum_export.py logits MODEL INPUTS TO

`export` is optimum's exporter, and its dynamic quantisation with one scale for each channel for the instruction set of
this CPU. `logits` loads a folder with `ORTModelForSequenceClassification` and writes its logits for batches of tokens,
both as JSON. optimum needs another version of transformers than nasopt does, so that this file imports nothing of
nasopt, and has an environment of its own: `pip install 'optimum-onnx[onnxruntime]'`.
"""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("optimum", "optimum-onnx", "onnxruntime", "transformers", "torch")


def export(model: Path, to: Path) -> None:
    """Writes a model as ONNX files in fp32 and int8, and the versions that did so."""
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer

    ORTModelForSequenceClassification.from_pretrained(model, export=True).save_pretrained(to / "fp32")
    ORTQuantizer.from_pretrained(to / "fp32").quantize(save_dir=to / "int8", quantization_config=_dynamic())
    (to / "versions.json").write_text(json.dumps({name: version(name) for name in PACKAGES}))


def _dynamic() -> Any:
    """The configuration that optimum's documentation names for this CPU."""
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    make = AutoQuantizationConfig.avx512_vnni if "avx512_vnni" in flags else AutoQuantizationConfig.avx2
    return make(is_static=False, per_channel=True)


def logits(model: Path, inputs: Path, to: Path) -> None:
    """Writes the logits, (batch, outputs) each, of batches of inputs, (batch, tokens) each."""
    import torch
    from optimum.onnxruntime import ORTModelForSequenceClassification

    loaded = ORTModelForSequenceClassification.from_pretrained(model)
    batches = json.loads(inputs.read_text())
    tensors = [{name: torch.tensor(values) for name, values in batch.items()} for batch in batches]
    to.write_text(json.dumps([loaded(**batch).logits.tolist() for batch in tensors]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, paths in {"export": ("model", "to"), "logits": ("model", "inputs", "to")}.items():
        command = commands.add_parser(name)
        for path in paths:
            command.add_argument(path, type=Path)
    arguments = parser.parse_args()
    if arguments.command == "export":
        export(arguments.model, arguments.to)
    else:
        logits(arguments.model, arguments.inputs, arguments.to)


if __name__ == "__main__":
    main()
