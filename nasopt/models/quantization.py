"""Stores a model in fewer bits.

====  ==========================================================================================================
fp32  as trained
bf16  every float tensor in bfloat16
fp16  every float tensor in float16 (several times slower than fp32 on CPUs)
int8  linear layers of the encoder by bitsandbytes' LLM.int8 (one scale per output, no outlier columns); the rest
      in bfloat16
int4  linear layers of the encoder in bitsandbytes' NF4 (one scale per 64 weights, no double quantisation); the
      rest in bfloat16
====  ==========================================================================================================

Only linear layers are quantised: the convolutions of AdaBERT's students stay in bfloat16, as embeddings do, so that
int8 and int4 gain next to nothing there. The head (the modules above the encoder: the pooler is part of the encoder,
the classifier is not) is never quantised. On GPUs without bfloat16 "the rest" is in float16.

On CPUs with AVX512-BF16 bitsandbytes packs NF4 weights in blocks of 32 outputs x 64 inputs, and crashes on anything
else. Therefore int4 leaves linear layers whose `in_features` are no multiple of 64 or whose `out_features` are no
multiple of 32 in bfloat16, on every device, so that a model is the same wherever it is made. This concerns pruned
attention: with heads of size 32 (MiniLM) an odd number of heads leaves the output projection in bfloat16.
"""

from __future__ import annotations

import copy
import logging
import sys
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from nasopt.architecture.base import Precision
from nasopt.errors import MissingToolError, NasoptError

NF4_INPUTS = 64
NF4_OUTPUTS = 32

_FLOAT_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@cache
def bitsandbytes() -> ModuleType:
    """The package bitsandbytes, imported so that it fetches nothing.

    On CPUs with AVX512-BF16 its first import asks the package `kernels`, if that is installed, for code from the hub.
    That package is hidden during the import; afterwards transformers may use it.
    """
    missing = object()
    kernels = sys.modules.get("kernels", missing)
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    disabled = logger.disabled
    sys.modules["kernels"] = None  # type: ignore[assignment]
    logger.disabled = True  # it warns that it found no `kernels`
    try:
        import bitsandbytes as package
    finally:
        logger.disabled = disabled
        if kernels is missing:
            del sys.modules["kernels"]
        else:
            sys.modules["kernels"] = kernels  # type: ignore[assignment]
    # Each forward pass of an int8 layer would warn that bf16 inputs become fp16.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    return package  # type: ignore[no-any-return]


def quantize(model: PreTrainedModel, precision: Precision, device: torch.device | str) -> PreTrainedModel:
    """A copy of a model in a precision, in eval mode and frozen, on a device.

    Weights are quantised on the CPU whatever the device, so that the bits do not depend on it.

    Args:
        model: a model in fp32; not changed.
        precision: one of the table in the module's docstring.
        device: the copy's device. It decides between bf16 and fp16 for tensors that int8 and int4 do not quantise.
    """
    device = torch.device(device)
    smaller: PreTrainedModel = copy.deepcopy(model).eval().requires_grad_(False)
    smaller.zero_grad(set_to_none=True)
    if precision in _FLOAT_DTYPES:
        return _converted(smaller, device, _FLOAT_DTYPES[precision])
    rest = rest_dtype(device)
    build = _BITSANDBYTES[precision]
    quantized = {
        name: build(module, device, rest)
        for name, module in _encoder_linears(smaller).items()
        if precision == "int8" or is_nf4_legal(module)
    }
    _converted(smaller, device, rest)
    for name, linear in quantized.items():
        smaller.set_submodule(name, linear)
    return smaller.eval()


def _converted(model: PreTrainedModel, device: torch.device, dtype: torch.dtype) -> PreTrainedModel:
    """Moves all tensors in place, and converts those that are stored.

    Tables that are computed (ModernBERT's angles) keep their dtype, as they do where `from_pretrained` computes them.
    """
    stored = model.state_dict().keys()
    computed = {name: buffer for name, buffer in model.named_buffers() if name not in stored}
    model.to(device=device, dtype=dtype)
    for name, buffer in computed.items():
        owner, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(owner), attribute, buffer.to(device))
    return model


@cache
def check_kernels(precision: Precision, device: torch.device) -> None:
    """Runs one small layer in a precision, to see whether bitsandbytes works on this machine.

    Raises:
        MissingToolError: it does not.
    """
    if precision in _FLOAT_DTYPES:
        return
    build = _BITSANDBYTES[precision]
    try:
        rest = rest_dtype(device)
        layer = build(nn.Linear(NF4_INPUTS, NF4_OUTPUTS), device, rest)
        with torch.inference_mode():
            layer(torch.zeros(2, NF4_INPUTS, device=device, dtype=rest))
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise MissingToolError(
            f"method_options.precisions: bitsandbytes cannot run {precision} on {device} here ({reason}); leave it out"
        ) from error


def rest_dtype(device: torch.device) -> torch.dtype:
    """The dtype of tensors that int8 and int4 do not quantise: bf16, or fp16 on GPUs that lack bf16."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def is_nf4_legal(linear: nn.Linear) -> bool:
    """Whether NF4 kernels work on a linear layer of these sizes on every device."""
    return linear.in_features % NF4_INPUTS == 0 and linear.out_features % NF4_OUTPUTS == 0


def stored_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Exactly the tensors that export writes: parameters, persistent buffers, and the scales of quantised weights.

    A parameter in several places is there once, under its first name. Call it before the first forward pass, because
    on some CPUs that pass repacks NF4 weights in place and rounds their scales.
    """
    seen: set[int] = set()
    repeated = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            repeated.add(name)
        seen.add(id(parameter))
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in model.state_dict().items():
        if name in repeated:
            continue
        # Other tensors with one memory (NF4's table of 16 values) are written for each name, as readers expect them.
        pointer = tensor.untyped_storage().data_ptr()
        tensors[name] = tensor.clone() if pointer in storages else tensor.contiguous()
        storages.add(pointer)
    return tensors


def check_storable(model: nn.Module, precision: Precision) -> None:
    """Refuses a model that a user's quantisation function returned if an exported folder cannot hold it.

    Raises:
        NasoptError: safetensors and `from_pretrained` do not restore one of its modules or tensors as it was.
    """
    if not isinstance(model, PreTrainedModel):
        raise NasoptError(
            f"the quantisation function must return a transformers model, but returned {type(model).__name__}"
        )
    bnb = bitsandbytes()
    linears = (bnb.nn.Linear8bitLt, bnb.nn.Linear4bit)
    for name, module in model.named_modules():
        kind = type(module)
        foreign = kind.__module__.startswith(("bitsandbytes.", "torch.ao.", "torchao.", "torch.jit."))
        if foreign and not isinstance(module, linears):
            raise _not_storable(precision, name, f"a {kind.__module__}.{kind.__qualname__}")
    allowed = (nn.Parameter, bnb.nn.Int8Params, bnb.nn.Params4bit)
    for name, parameter in model.named_parameters():
        if type(parameter) not in allowed or type(parameter.data) not in (Tensor, *allowed):
            raise _not_storable(precision, name, f"a tensor of the kind {type(parameter.data).__name__}")
    quantization_settings(model)
    dtypes = {str(dtype).removeprefix("torch.") for dtype in _float_dtypes(model)}
    if len(dtypes) > 1:
        raise NasoptError(
            f"the quantisation function for {precision} returned float weights of several types "
            f"({', '.join(sorted(dtypes))}), but an exported model has one; convert them all to one of these"
        )


def stored_dtype(model: nn.Module) -> torch.dtype:
    """The dtype of the float tensors that are not quantised."""
    return next(iter(_float_dtypes(model)))


def quantization_settings(model: nn.Module) -> dict[str, Any] | None:
    """The `quantization_config` with which `from_pretrained` builds the same modules; None if none is quantised.

    Raises:
        NasoptError: modules are quantised in different ways.
    """
    bnb = bitsandbytes()
    found: list[dict[str, Any]] = []
    skipped = []
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear8bitLt):
            settings = {
                "load_in_8bit": True,
                "llm_int8_threshold": module.state.threshold,
                "llm_int8_has_fp16_weight": module.state.has_fp16_weights,
            }
        elif isinstance(module, bnb.nn.Linear4bit):
            settings = {
                "load_in_4bit": True,
                "bnb_4bit_quant_type": module.weight.quant_type,
                "bnb_4bit_use_double_quant": module.weight.compress_statistics,
                "bnb_4bit_compute_dtype": str(module.compute_dtype or stored_dtype(model)).removeprefix("torch."),
                "bnb_4bit_quant_storage": str(module.weight.quant_storage).removeprefix("torch."),
            }
        else:
            if isinstance(module, nn.Linear):
                skipped.append(name)
            continue
        if settings not in found:
            found.append(settings)
    if len(found) > 1:
        raise NasoptError(
            f"the quantisation function mixes settings ({found[0]} and {found[1]}), but an exported model has one"
        )
    if getattr(model, "pooler", skipped) is None:
        # The class has a pooler, which an encoder of vectors lost: transformers draws one, which it cannot in int8.
        skipped.append("pooler")
    return {"quant_method": "bitsandbytes", **found[0], "llm_int8_skip_modules": skipped} if found else None


def _not_storable(precision: Precision, name: str, what: str) -> NasoptError:
    return NasoptError(
        f"the quantisation function for {precision} returned a model whose {name!r} is {what}, which an exported "
        "folder cannot hold; use torch dtypes, bitsandbytes' Linear8bitLt or Linear4bit"
    )


def _float_dtypes(model: nn.Module) -> dict[torch.dtype, None]:
    """The dtypes of float weights, in order of appearance, except packed NF4 weights, which may have one too."""
    packed = bitsandbytes().nn.Params4bit
    return {p.dtype: None for p in model.parameters() if p.is_floating_point() and not isinstance(p, packed)}


def _encoder_linears(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """The linear layers below the head, by name."""
    inside = {id(module) for module in model.base_model.modules()}
    return {
        name: module for name, module in model.named_modules() if type(module) is nn.Linear and id(module) in inside
    }


def _int8_linear(linear: nn.Linear, device: torch.device, rest: torch.dtype) -> nn.Module:
    bnb = bitsandbytes()
    module = bnb.nn.Linear8bitLt(
        linear.in_features, linear.out_features, linear.bias is not None, has_fp16_weights=False, device="meta"
    )
    weight = bnb.nn.Int8Params(linear.weight.detach().cpu().clone(), requires_grad=False, has_fp16_weights=False)
    # NOTE: the first `to` quantises. Moving the whole module instead would leave the scales behind.
    module.weight = weight.to("cpu").to(device)
    return _with_bias(module, linear, device, rest)


def _nf4_linear(linear: nn.Linear, device: torch.device, rest: torch.dtype) -> nn.Module:
    bnb = bitsandbytes()
    module = bnb.nn.Linear4bit(
        linear.in_features,
        linear.out_features,
        linear.bias is not None,
        compute_dtype=rest,
        compress_statistics=False,
        quant_type="nf4",
        device="meta",
    )
    weight = bnb.nn.Params4bit(
        linear.weight.detach().cpu().clone(), requires_grad=False, compress_statistics=False, quant_type="nf4"
    ).to("cpu")
    weight.quant_state.dtype = rest  # the dtype after dequantising
    module.weight = weight.to(device)
    module.weight.module = module
    module.quant_state = module.weight.quant_state
    return _with_bias(module, linear, device, rest)


def _with_bias(module: Any, linear: nn.Linear, device: torch.device, rest: torch.dtype) -> nn.Module:
    if linear.bias is not None:
        module.bias = nn.Parameter(linear.bias.detach().to(device=device, dtype=rest, copy=True), requires_grad=False)
    return module  # type: ignore[no-any-return]


_BITSANDBYTES = {"int8": _int8_linear, "int4": _nf4_linear}
"""What builds a linear layer, by precision; int8-static is for ONNX files alone."""
