"""The work of a pass, checked against counts worked out from the model's formulas."""

from __future__ import annotations

import pytest

from nasopt.measurement.predicted.transformer_cost import Fusion, Kernel, KernelTable, LayerShape, Workload, kernels

FUSED = Fusion(qkv=True, attention=True, epilogue=True, norm_kernels=1)
FRAMEWORK = Fusion(qkv=False, attention=False, epilogue=False, norm_kernels=1)


def flops(found: list[Kernel]) -> int:
    return sum(kernel.flops * kernel.count for kernel in found)


@pytest.mark.parametrize("fusion", [FUSED, FRAMEWORK])
def test_arithmetic_is_that_of_the_model_whatever_is_fused(fusion: Fusion) -> None:
    layers, hidden, ffn, batch, length = 12, 768, 3072, 8, 128
    tokens = batch * length
    layer = 8 * tokens * hidden**2 + 4 * tokens * hidden * ffn + 4 * tokens * length * hidden
    ends = 2 * batch * hidden**2 + 2 * batch * hidden * 2
    workload = Workload.uniform(layers, hidden, 12, 64, ffn, length=length, batch=batch)
    assert flops(kernels(workload, fusion)) == layers * layer + ends


def test_weights_are_those_of_the_linear_layers() -> None:
    workload = Workload.uniform(2, 64, 4, 16, 256, length=16, batch=1)
    weights = sum(kernel.weights * kernel.count for kernel in kernels(workload, FUSED))
    assert weights == 2 * (4 * 64 * 64 + 2 * 64 * 256) + 64 * 64 + 64 * 2


def test_layers_may_differ_and_lose_blocks() -> None:
    layers = (LayerShape(4, 16, 128), LayerShape(1, 16, 64), LayerShape(0, 16, 64), LayerShape(2, 16, 0))
    found = kernels(Workload(layers, 64, sequence_length=8, batch_size=2), FUSED)
    tokens = 16
    heads = sum(8 * tokens * 64 * 16 * n + 4 * 2 * n * 8 * 8 * 16 for n in (4, 1, 2))
    neurons = sum(4 * tokens * 64 * width for width in (128, 64, 64))
    assert flops(found) == heads + neurons + 2 * 2 * 64 * 64 + 2 * 2 * 64 * 2
    assert sum(kernel.count for kernel in found if kernel.name == "attention") == 3
    assert sum(kernel.count for kernel in found if kernel.name == "ffn up") == 3


def test_a_runtime_that_fuses_less_starts_more_kernels_and_moves_more() -> None:
    workload = Workload.uniform(3, 64, 4, 16, 128, length=32, batch=4)
    fused, framework = kernels(workload, FUSED), kernels(workload, FRAMEWORK)
    assert sum(kernel.count for kernel in fused) == 3 * 7 + 3
    assert sum(kernel.count for kernel in framework) > 2 * sum(kernel.count for kernel in fused)
    moved = [sum(kernel.activations * kernel.count for kernel in found) for found in (fused, framework)]
    assert moved[1] > moved[0]


def test_the_table_has_a_row_for_each_kernel() -> None:
    passes = [kernels(Workload.uniform(n, 64, 4, 16, 128, length=8, batch=1), FUSED) for n in (1, 2)]
    table = KernelTable.of(passes)
    assert table.passes.tolist() == [0] * len(passes[0]) + [1] * len(passes[1])
    assert table.flops.tolist() == [kernel.flops for found in passes for kernel in found]
