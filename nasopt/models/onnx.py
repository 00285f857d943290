"""Converts models to ONNX files, and runs ONNX files as models: torch's exporter and ONNX Runtime are called here only.

Batch and length stay open in a file. Files are verified in :mod:`nasopt.export.onnx`, not here.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from nasopt.errors import DeviceNotFoundError, ExportError, MissingExtraError

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LOGITS = "logits"
CUDA_PROVIDER = "CUDAExecutionProvider"
CPU = torch.device("cpu")
_OUTPUT_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_NUMPY_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.int64: "int64"}


class OnnxModel(nn.Module):
    """An ONNX file in ONNX Runtime, called like the model that it was made of.

    Its threads do not spin while they wait, so that it can be timed in alternation with another model.
    """

    def __init__(
        self, file: Path, threads: int | None = None, device: torch.device = CPU, *, tf32: bool = False
    ) -> None:
        """Reads the file, which is not needed afterwards.

        Args:
            file: an ONNX file with the inputs' names and one output, batch and length open, as :func:`convert` writes.
            threads: the threads of one operation on the CPU; None for as many as torch uses.
            device: the device that the model runs on, with its inputs and outputs.
            tf32: whether fp32 matrix products may be computed in TF32 on CUDA.
        """
        import onnxruntime

        super().__init__()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            check_cuda_provider()
            providers.insert(0, (CUDA_PROVIDER, {"device_id": device.index, "use_tf32": int(tf32)}))
        self.device = device
        self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        self.input_names = [item.name for item in self.session.get_inputs()]
        self.output_name: str = self.session.get_outputs()[0].name

    def forward(self, **inputs: Tensor) -> SequenceClassifierOutput | BaseModelOutput:
        """The logits (batch, outputs), or an encoder's last hidden states (batch, tokens, hidden size) without a head.

        Inputs are int64, of shape (batch, tokens); segments may be left out.
        """
        if "token_type_ids" in self.input_names and "token_type_ids" not in inputs:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        if self.device.type == "cuda":
            found = self._run_on_gpu(inputs)
        else:
            arrays = {name: inputs[name].numpy() for name in self.input_names}
            found = torch.from_numpy(self.session.run([self.output_name], arrays)[0])
        if self.output_name == LOGITS:
            return SequenceClassifierOutput(logits=found)
        return BaseModelOutput(last_hidden_state=found)

    def _run_on_gpu(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Runs on the GPU without a copy: inputs and outputs stay where they are. Returns when the GPU is done."""
        output = self.session.get_outputs()[0]
        given = inputs["input_ids"].shape
        shape = [size if isinstance(size, int) else given[axis] for axis, size in enumerate(output.shape)]
        found = torch.empty(shape, dtype=_OUTPUT_DTYPES[output.type], device=self.device)
        binding = self.session.io_binding()
        for bind, name, tensor in (
            *((binding.bind_input, name, inputs[name].contiguous()) for name in self.input_names),
            (binding.bind_output, self.output_name, found),
        ):
            dtype = _NUMPY_NAMES[tensor.dtype]
            bind(name, "cuda", self.device.index, dtype, tuple(tensor.shape), tensor.data_ptr())
        self.session.run_with_iobinding(binding)
        return found


def check_packages(packages: tuple[str, ...] = PACKAGES) -> None:
    """Makes sure that models can be converted and run.

    Raises:
        MissingExtraError: a package of the extra `onnx` is missing.
    """
    for package in packages:
        if find_spec(package) is None:
            raise MissingExtraError(package, "onnx")


def check_cuda_provider() -> None:
    """Makes sure that ONNX Runtime can use a GPU.

    Raises:
        DeviceNotFoundError: the installed one is built for CPUs.
    """
    import onnxruntime

    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        raise DeviceNotFoundError(
            f"onnxruntime {onnxruntime.__version__} cannot use the GPU: it has no {CUDA_PROVIDER}; "
            "pip install onnxruntime-gpu in its place, or set another `runtime` under [latency]"
        )


def convert(model: nn.Module, example: Mapping[str, Tensor], file: Path) -> None:
    """Writes a model as one ONNX file that gives `logits`, or `last_hidden_state` for an encoder without a head.

    Args:
        model: a model in eval mode, on the CPU, in fp32 or fp16.
        example: inputs of shape (batch, tokens), in the order in which the file takes them. No size may be 0 or 1,
            because the exporter would take it for a fixed one.
        file: the file to write; its weights may have 2 GB at most.

    Raises:
        ExportError: torch's exporter cannot convert the model.
    """
    names = list(example)
    with _quiet():
        try:
            program = torch.onnx.export(
                model,
                kwargs=dict(example),
                input_names=names,
                output_names=[output_name(model)],
                dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in names},
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            reason = next(iter(str(error.__cause__ or error).strip().splitlines()), type(error).__name__)
            raise ExportError(f"torch cannot convert the model to ONNX: {reason}") from error
    assert program is not None
    _strip(program.model)
    program.save(file)


def output_name(model: nn.Module) -> str:
    """The name of the output of a model's file; see :func:`convert`."""
    return LOGITS if type(model).__name__.endswith("ForSequenceClassification") else "last_hidden_state"


def _strip(model: Any) -> None:
    """Removes the exporter's notes from every part of an `onnx_ir.Model`.

    They are stack traces with this machine's paths, and a third of a small file.
    """
    nodes = list(model.graph.all_nodes())
    values = [*model.graph.inputs, *model.graph.initializers.values(), *(out for node in nodes for out in node.outputs)]
    for part in (model, model.graph, *nodes, *values):
        part.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter from warning about packages it could use and its own deprecated parts."""
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(level)
