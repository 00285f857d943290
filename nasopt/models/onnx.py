"""Converts models to ONNX files, and runs ONNX files as models.

Batch and length stay open in a file. A model is traced, which takes a second or two; where that fails, or the file
gives other outputs than the model at some shape, torch's slower exporter takes its place.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import (
    BaseModelOutput,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)

from nasopt.errors import DeviceNotFoundError, ExportError, MissingExtraError
from nasopt.models.example_inputs import named_batch
from nasopt.models.outputs import main_output
from nasopt.models.registration import HEADS

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LOGITS = "logits"
ANSWER_LOGITS = ("start_logits", "end_logits")
"""The outputs of a model that finds answers."""
CUDA_PROVIDER = "CUDAExecutionProvider"
CPU = torch.device("cpu")
SHAPES = ((1, 1), (1, 7), (4, 16), (16, 5), (3, 200))
"""Batch sizes and lengths at which a file is verified; 200 is beyond ModernBERT's local attention."""
FP32_TOLERANCE = 1e-4
"""Largest allowed difference of a file's outputs from the model's, in fp32."""
FP16_TOLERANCE = 2e-2
"""Largest allowed difference in fp16, as part of the largest output (or of 1, if that is more): torch rounds after
every operation, ONNX Runtime on a CPU after few."""
OPSET = 18
LARGEST_MB = 1500
"""Weights beyond this would go into a second file: one ONNX file holds 2 GiB, and torch's exporter keeps a distance."""
_OUTPUT_DTYPES = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_NUMPY_NAMES = {torch.float32: "float32", torch.float16: "float16", torch.int64: "int64"}


class OnnxModel(nn.Module):
    """An ONNX file in ONNX Runtime, called like the model that it was made of.

    Its threads do not spin while they wait, so that it can be timed in alternation with another model.
    """

    def __init__(
        self,
        file: Path | bytes,
        threads: int | None = None,
        device: torch.device = CPU,
        *,
        tf32: bool = False,
        arena: bool = True,
    ) -> None:
        """Reads the file, which is not needed afterwards.

        Args:
            file: an ONNX file, or its bytes, with batch and length open, as :func:`convert` writes.
            threads: the threads of one operation on the CPU; None for as many as torch uses.
            device: the device that the model runs on, with its inputs and outputs.
            tf32: whether fp32 matrix products may be computed in TF32 on CUDA.
            arena: whether memory is kept between passes, as usual; without it, what one pass needs can be measured.
        """
        import onnxruntime

        super().__init__()
        self.content = file.read_bytes() if isinstance(file, Path) else file
        self._settings = (threads or torch.get_num_threads(), device, tf32, arena)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._settings[0]
        options.inter_op_num_threads = 1
        options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers: list[Any] = ["CPUExecutionProvider"]
        if device.type == "cuda":
            check_cuda_provider()
            providers.insert(0, (CUDA_PROVIDER, {"device_id": device.index, "use_tf32": int(tf32)}))
        self.device = device
        self.session = onnxruntime.InferenceSession(self.content, options, providers=providers)
        self.input_names = [item.name for item in self.session.get_inputs()]
        self.output_names = [item.name for item in self.session.get_outputs()]

    @property
    def megabytes(self) -> float:
        """The size of the file in MB (10^6 bytes)."""
        return len(self.content) / 1e6

    def opened(
        self, threads: int | None, device: torch.device = CPU, *, tf32: bool = False, arena: bool = True
    ) -> OnnxModel:
        """The same file with other settings, which are those of :class:`OnnxModel`; this one if they are the same."""
        wanted = (threads or torch.get_num_threads(), device, tf32, arena)
        if wanted == self._settings:
            return self
        return OnnxModel(self.content, threads, device, tf32=tf32, arena=arena)

    def forward(self, **inputs: Tensor) -> ModelOutput:
        """The logits of texts (batch, outputs) or of tokens (batch, tokens, outputs), or of an answer's start and end
        (batch, tokens); without a head an encoder's last hidden states (batch, tokens, hidden size).

        Inputs are int64, of shape (batch, tokens); segments may be left out.
        """
        if "token_type_ids" in self.input_names and "token_type_ids" not in inputs:
            inputs["token_type_ids"] = torch.zeros_like(inputs["input_ids"])
        if self.device.type == "cuda":
            found = self._run_on_gpu(inputs)
        else:
            arrays = {name: inputs[name].numpy() for name in self.input_names}
            found = [torch.from_numpy(array) for array in self.session.run(self.output_names, arrays)]
        if len(found) == len(ANSWER_LOGITS):
            return QuestionAnsweringModelOutput(start_logits=found[0], end_logits=found[1])
        if self.output_names == [LOGITS]:
            kind = TokenClassifierOutput if found[0].ndim == 3 else SequenceClassifierOutput
            return kind(logits=found[0])
        return BaseModelOutput(last_hidden_state=found[0])

    def _run_on_gpu(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """Runs on the GPU without a copy: inputs and outputs stay where they are. Returns when the GPU is done."""
        given, found = inputs["input_ids"].shape, []
        for output in self.session.get_outputs():
            shape = [size if isinstance(size, int) else given[axis] for axis, size in enumerate(output.shape)]
            found.append(torch.empty(shape, dtype=_OUTPUT_DTYPES[output.type], device=self.device))
        binding = self.session.io_binding()
        for bind, name, tensor in (
            *((binding.bind_input, name, inputs[name].contiguous()) for name in self.input_names),
            *((binding.bind_output, name, tensor) for name, tensor in zip(self.output_names, found, strict=True)),
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


def convert(model: PreTrainedModel, names: Sequence[str], file: Path) -> None:
    """Writes a model as one ONNX file that gives `logits`, the two of :data:`ANSWER_LOGITS` if it finds answers, or
    `last_hidden_state` without a head.

    Args:
        model: a model in eval mode, on the CPU, in fp32 or fp16.
        names: the inputs that the model takes, in its order; the file takes those of them that the model uses.
        file: the file to write; its weights may have 2 GB at most.

    Raises:
        ExportError: torch's exporter cannot convert the model.
    """
    # No size may be 0 or 1, because an exporter would take it for a fixed one.
    example = named_batch(model, names, 4, 16)
    with _quiet(), _plain_attention(model):
        if not _is_traced(model, example, file):
            _export_program(model, example, file)


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """Computes attention step by step: torch's fused function comes with checks for texts without any token, over all
    scores of every layer, which took 3 to 7 % of a file's time."""
    before = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.config._attn_implementation = before


def _is_traced(model: PreTrainedModel, example: Mapping[str, Tensor], file: Path) -> bool:
    """Writes a trace of the model; whether that worked, and gives what the model gives at every shape of `SHAPES`."""
    names, outputs, axes = list(example), output_names(model), {0: "batch", 1: "sequence"}
    output_axes = {0: "batch"} if _gives_one_output_a_text(model) else axes
    try:
        torch.onnx.export(
            model,
            (),
            str(file),
            kwargs=dict(example),
            input_names=names,
            output_names=outputs,
            dynamic_axes=dict.fromkeys(names, axes) | dict.fromkeys(outputs, output_axes),
            opset_version=OPSET,
            dynamo=False,
        )
        found = OnnxModel(file)
        return all(_agree(model, found, named_batch(model, names, *shape)) for shape in SHAPES)
    except Exception:  # Tracing fails in as many ways as there are models; the other exporter says what is wrong.
        return False


def _agree(model: PreTrainedModel, found: OnnxModel, inputs: Mapping[str, Tensor]) -> bool:
    with torch.inference_mode():
        expected = main_output(model(**inputs))
        given = main_output(found(**inputs))
    return float((given.float() - expected.float()).abs().max()) <= tolerance(expected)


def tolerance(expected: Tensor) -> float:
    """The difference that a file's outputs may have from these, which the model gave."""
    if expected.dtype == torch.float16:
        return FP16_TOLERANCE * max(1.0, float(expected.abs().max()))
    return FP32_TOLERANCE


def _export_program(model: PreTrainedModel, example: Mapping[str, Tensor], file: Path) -> None:
    """Writes the file by torch's exporter of whole programs.

    Raises:
        ExportError: it cannot convert the model.
    """
    names = list(example)
    try:
        program = torch.onnx.export(
            model,
            kwargs=dict(example),
            input_names=names,
            output_names=output_names(model),
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


def output_names(model: nn.Module) -> list[str]:
    """The names of the outputs of a model's file; see :func:`convert`."""
    if type(model).__name__.endswith(HEADS[2]):
        return list(ANSWER_LOGITS)
    return [LOGITS if type(model).__name__.endswith(HEADS) else "last_hidden_state"]


def _gives_one_output_a_text(model: nn.Module) -> bool:
    return type(model).__name__.endswith(HEADS[0])


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
