"""The runtimes in which a latency can be measured: the same model as a callable of each.

============  ==================================================================================================
eager         the model as torch runs it
compile       compiled whole by `torch.compile`: for its shape if there is only one, else one program for all
onnxruntime   an ONNX file, in ONNX Runtime's CPU or CUDA provider
============  ==================================================================================================

:mod:`nasopt.architecture.artifacts` says in which precisions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeAlias, get_args

import torch
from torch import Tensor, nn

from nasopt.errors import MissingToolError
from nasopt.measurement.measured.latency import MeasurementError, quiet_process
from nasopt.models.onnx import OnnxModel, check_cuda_provider, check_packages

Runtime: TypeAlias = Literal["eager", "compile", "onnxruntime"]
RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)
GRAPH_WARM_UP = 3
"""Passes before a CUDA graph is captured: libraries allocate and choose their kernels in the first ones."""
SHAPES_LIMIT = 64
"""Versions of one function that `torch.compile` may keep; beyond its own limit, 8, it would silently run eagerly."""


@dataclass(frozen=True)
class RuntimeSettings:
    """The settings that models run with while they are measured.

    Attributes:
        runtime: see the table of this module.
        threads: threads of one operation on the CPU.
        tf32: whether CUDA computes fp32 matrix products in TF32.
        cuda_graph: whether CUDA replays one captured graph instead of launching every kernel (eager and compile).
    """

    runtime: Runtime
    threads: int
    tf32: bool = False
    cuda_graph: bool = False


class GraphedModel(nn.Module):
    """A model's pass over inputs of one shape as a CUDA graph.

    Raises:
        MeasurementError: the pass does something that a graph cannot hold, such as waiting for the GPU.
    """

    def __init__(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._model = model  # the graph reads its weights, but does not keep them
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        try:
            self._graph, self._outputs = self._captured(next(iter(inputs.values())).device)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise MeasurementError(
                f"the model cannot be captured as a CUDA graph ({_last_words(error)}): create the study without "
                "`cuda_graph`"
            ) from error

    def _captured(self, device: torch.device) -> tuple[torch.cuda.CUDAGraph, object]:
        with torch.cuda.device(device), torch.inference_mode():
            aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(GRAPH_WARM_UP):
                    self._model(**self._inputs)
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                return graph, self._model(**self._inputs)

    def forward(self, **inputs: Tensor) -> object:
        """The outputs, which the next call overwrites."""
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor)
        self._graph.replay()
        return self._outputs


def check_runtime(runtime: Runtime, device: torch.device) -> None:
    """Makes sure that models can be run in this runtime on this machine.

    Raises:
        MissingExtraError: ONNX Runtime, or what writes its files, is not installed.
        DeviceNotFoundError: the installed ONNX Runtime cannot use the GPU.
        MissingToolError: `torch.compile` does not work.
    """
    if runtime == "onnxruntime":
        check_packages()
        if device.type == "cuda":
            check_cuda_provider()
    if runtime == "compile":
        _check_compiler(device)


@cache
def _check_compiler(device: torch.device) -> None:
    """Compiles a tiny function, because only that needs everything that compiling a model needs.

    `torch.compile` needs a C++ compiler for a CPU; for a GPU it needs a C compiler, Triton and Python's header files.
    It keeps what it has compiled once, so the compiler is looked for besides.
    """
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        if device.type == "cpu":
            get_cpp_compiler()
        with torch.inference_mode():
            torch.compile(_double)(torch.ones(2, device=device))
    except Exception as error:
        raise MissingToolError(
            f"latency.runtime: `compile` does not work on this machine ({_last_words(error)}); install a C++ compiler "
            "(such as g++), or choose the runtime eager or onnxruntime"
        ) from error
    finally:
        forget_compiled()


def _double(tensor: Tensor) -> Tensor:
    return tensor * 2


def _last_words(error: BaseException) -> str:
    """The first line of what the compiler's own error says, without the advice that torch adds below."""
    cause = error.__cause__ or error
    return (str(cause).strip() or type(cause).__name__).splitlines()[0]


def prepare(
    model: nn.Module,
    inputs: Sequence[Mapping[str, Tensor]],
    settings: RuntimeSettings,
    *,
    device: torch.device,
) -> nn.Module:
    """A callable with the model's inputs and logits that runs in a runtime.

    Call it, too, within :func:`numerics` and with the settings' threads, as
    :func:`nasopt.measurement.measured.latency.measure_latency` does.

    Args:
        model: in eval mode, on `device`, in its precision; for ONNX Runtime its file. Not changed.
        inputs: the batches that will be measured, on `device`: keyword arguments of the model, (batch, tokens) each.
        settings: the runtime, and how it runs.
        device: where it runs.

    Raises:
        MeasurementError: the model cannot be run in this way.
    """
    if settings.runtime == "onnxruntime":
        assert isinstance(model, OnnxModel)
        return model.opened(settings.threads, device, tf32=settings.tf32)
    if settings.runtime == "compile":
        model = _compiled(model, inputs, settings)
    if settings.cuda_graph and device.type == "cuda":
        if len({tuple(batch["input_ids"].shape) for batch in inputs}) > 1:
            raise MeasurementError("a CUDA graph has one shape, but batches of several are measured")
        return GraphedModel(model, inputs[0])
    return model


@contextmanager
def numerics(settings: RuntimeSettings) -> Iterator[None]:
    """Sets TF32 as the settings say, and restores it afterwards."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = settings.tf32
    try:
        yield
    finally:
        matmul.allow_tf32 = before


def forget_compiled() -> None:
    """Drops what `torch.compile` keeps of models that have been measured: it would count them against its limit."""
    torch._dynamo.reset()


def _compiled(model: nn.Module, inputs: Sequence[Mapping[str, Tensor]], settings: RuntimeSettings) -> nn.Module:
    """Compiled and run once for each shape, so that nothing is compiled while it is timed."""
    shapes = {tuple(batch["input_ids"].shape): batch for batch in inputs}
    limits = torch._dynamo.config.patch(recompile_limit=SHAPES_LIMIT, fail_on_recompile_limit_hit=True)
    # Threads and inference mode are part of the program.
    with limits, quiet_process(settings.threads), torch.inference_mode():
        model(**inputs[0])  # bitsandbytes repacks int4 weights in the first pass, which must not be traced
        compiled: nn.Module = torch.compile(model, dynamic=len(shapes) > 1)  # type: ignore[assignment]
        for batch in shapes.values():
            compiled(**batch)
    return compiled
