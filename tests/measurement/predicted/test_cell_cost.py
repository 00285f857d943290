"""Kernels of chains of cells: their arithmetic is the model's own, and more of anything takes no less time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nasopt.architecture.cells import OPERATIONS, CellArchitecture, model_flops
from nasopt.measurement.predicted.cell_cost import BEYOND, CellWorkload, cell_kernels
from nasopt.measurement.predicted.device_profiles import find_profile
from nasopt.measurement.predicted.model import Prediction, make_case, predict
from nasopt.measurement.predicted.software import SOFTWARE, Software
from nasopt.measurement.predicted.transformer_cost import Workload

EVERY = CellArchitecture(OPERATIONS, 64)
RUNTIMES = [(software, runtime) for software in SOFTWARE for runtime in software.fusions]


def prediction(
    architecture: CellArchitecture, length: int = 128, batch: int = 32, runtime: str = "tensorrt"
) -> Prediction:
    return predict(make_case(find_profile("a100"), runtime, "fp16", CellWorkload(architecture, length, batch)))


@pytest.mark.parametrize("rank", [None, 16])
@pytest.mark.parametrize(("software", "runtime"), RUNTIMES)
def test_the_arithmetic_is_what_torch_counts(software: Software, runtime: str, rank: int | None) -> None:
    architecture = replace(EVERY, embedding_rank=rank)
    found = cell_kernels(CellWorkload(architecture, 24, 3), software.fusions[runtime])
    assert sum(kernel.flops for kernel in found) == model_flops(architecture, num_labels=2, batch_size=3, tokens=24)


@pytest.mark.parametrize(("software", "runtime"), RUNTIMES)
def test_poolings_move_memory_and_skips_do_nothing(software: Software, runtime: str) -> None:
    fusion = software.fusions[runtime]
    empty = cell_kernels(CellWorkload(CellArchitecture((), 64), 24, 3), fusion)
    assert cell_kernels(CellWorkload(CellArchitecture(("skip", "skip"), 64), 24, 3), fusion) == empty
    pooled = cell_kernels(CellWorkload(CellArchitecture(("maxpool",), 64), 24, 3), fusion)
    added = [kernel for kernel in pooled if kernel not in empty]
    assert {kernel.kind for kernel in added} == {"stream"}
    assert all(kernel.activations >= 2 * 64 * 24 * 3 for kernel in added)


@pytest.mark.parametrize("runtime", ["tensorrt", "onnxruntime", "torchscript"])
def test_more_takes_no_less_time(runtime: str) -> None:
    few = prediction(CellArchitecture(("conv3",), 256), runtime=runtime).latency_ms
    for larger in (
        CellArchitecture(("conv3", "maxpool"), 256),
        CellArchitecture(("conv5",), 256),
        CellArchitecture(("conv3",), 512),
    ):
        assert prediction(larger, runtime=runtime).latency_ms >= few
    assert prediction(CellArchitecture(("conv3",), 256), length=256, runtime=runtime).latency_ms >= few
    assert prediction(CellArchitecture(("conv3",), 256), batch=64, runtime=runtime).latency_ms >= few


def test_a_student_is_far_faster_than_its_teacher() -> None:
    bert = Workload.uniform(12, 768, 12, 64, 3072, length=128, batch=32)
    teacher = predict(make_case(find_profile("a100"), "tensorrt", "fp16", bert))
    assert prediction(CellArchitecture(("conv3",) * 6, 256)).latency_ms < teacher.latency_ms / 5


def test_every_prediction_says_that_its_error_is_not_known() -> None:
    found = prediction(EVERY)
    assert (found.extrapolated, found.beyond) == (True, BEYOND)
    assert f"extrapolated ({BEYOND})" in found.note
    assert found.low < found.latency_ms < found.high
