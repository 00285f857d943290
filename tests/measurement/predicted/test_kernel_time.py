"""Time of kernels on small machines whose numbers can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from nasopt.measurement.predicted.kernel_time import Constants, Machine, pass_ms, smooth_max
from nasopt.measurement.predicted.transformer_cost import Kernel, KernelTable

PLENTY = 1e12
"""The amount of anything that must not matter."""


def milliseconds(found: list[Kernel], machine: dict[str, float] | None = None, **constants: float) -> float:
    """Time on a machine of one multiprocessor with 10^6 operations per us, where nothing else takes time."""
    datasheet = {"multiprocessors": 1, "clock_ghz": 1, "peak_tflops": 1, "bandwidth_gbs": PLENTY, "cache_mb": PLENTY}
    datasheet |= {"power_w": PLENTY, "element_bytes": 2} | (machine or {})
    fitted = {"arithmetic": 1, "attention": 1, "bandwidth": 1, "cache_bytes": PLENTY, "start_us": 0, "dispatch_us": 0}
    fitted |= {"call_ms": 0, "energy_pj": 0, "byte_energy_pj": 0} | constants
    columns = ({name: np.array([value], float) for name, value in row.items()} for row in (datasheet, fitted))
    return float(pass_ms(KernelTable.of([found]), Machine(**next(columns)), Constants(**next(columns)))[0])


def matmul(rows: int, columns: int, depth: int, count: int = 1) -> Kernel:
    return Kernel("m", "matmul", 1, rows, columns, depth, depth * columns, rows * (depth + columns), count)


def stream(activations: int, count: int = 1) -> Kernel:
    return Kernel("s", "stream", 1, 0, 0, 0, 0, activations, count)


def test_arithmetic_time_and_start() -> None:
    # 2 * 64 * 64 * 32 operations at half of 10^6 per us, and a start of 3 us
    assert milliseconds([matmul(64, 64, 32)], arithmetic=0.5, start_us=3) == pytest.approx((0.524288 + 3) / 1e3)


def test_a_partly_filled_tile_takes_as_long_as_a_whole_one() -> None:
    assert milliseconds([matmul(33, 64, 32)]) == milliseconds([matmul(64, 64, 32)])
    assert milliseconds([matmul(64, 64, 1)]) == milliseconds([matmul(64, 64, 32)])


def test_a_partly_filled_wave_takes_as_long_as_a_whole_one() -> None:
    two = {"multiprocessors": 2.0, "peak_tflops": 2.0}
    tile = 2 * 32 * 64 * 32 / 1e6
    # The smallest tiles are 32 x 64: five of them are three waves on two multiprocessors.
    assert milliseconds([matmul(5 * 32, 64, 32)], two) == pytest.approx(3 * tile / 1e3)
    assert milliseconds([matmul(6 * 32, 64, 32)], two) == pytest.approx(3 * tile / 1e3)
    assert milliseconds([matmul(7 * 32, 64, 32)], two) == pytest.approx(4 * tile / 1e3)


def test_a_long_inner_product_is_split_where_multiprocessors_are_free() -> None:
    four = {"multiprocessors": 4.0, "peak_tflops": 4.0}
    tile = 2 * 32 * 64 * 32 / 1e6
    assert milliseconds([matmul(32, 64, 32 * 8)], four) == pytest.approx(2 * tile / 1e3)


def test_memory_time() -> None:
    # 1000 numbers of 2 bytes at half of 1 GB/s: 4 us; the cache holds none of them
    slow = {"bandwidth_gbs": 1.0, "cache_mb": 1e-12}
    assert milliseconds([stream(1000)], slow, bandwidth=0.5) == pytest.approx(4e-3)
    # half of a cache of 0.002 MB holds half of them
    assert milliseconds([stream(1000)], slow | {"cache_mb": 2e-3}, bandwidth=0.5) == pytest.approx(2e-3)
    # the cache itself: 2000 bytes at 4 bytes per clock of 1 GHz
    assert milliseconds([stream(1000)], cache_bytes=4) == pytest.approx(0.5e-3)


def test_fused_heads_are_waves_of_thread_blocks() -> None:
    head = Kernel("a", "attention", 3, 32, 32, 16, 0, 0)
    two = {"multiprocessors": 2.0, "peak_tflops": 2.0}
    assert milliseconds([head], two, attention=0.25) == pytest.approx(2 * 4 * 32 * 32 * 16 / 0.25e6 / 1e3)


def test_dispatch_and_power_are_floors() -> None:
    assert milliseconds([stream(1, count=10)], dispatch_us=7) == pytest.approx(70e-3)
    product = matmul(64, 64, 32, count=5)
    joules = 5 * 2 * 64 * 64 * 32 * 2e-12
    assert milliseconds([product], {"power_w": 1e-6}, energy_pj=2) == pytest.approx(1e3 * joules / 1e-6)


def test_a_call_is_paid_once() -> None:
    assert milliseconds([stream(0, count=10)], call_ms=0.25) == pytest.approx(0.25)


def test_smooth_max_is_at_least_the_largest_and_grows_with_each() -> None:
    a, b = np.array([1.0, 2.0, 0.0]), np.array([3.0, 2.0, 0.0])
    assert np.all(smooth_max(a, b) >= np.maximum(a, b))
    assert smooth_max(a, b)[1] == pytest.approx(2 * 2 ** (1 / 8))
    assert np.all(smooth_max(a + 0.5, b) > smooth_max(a, b))
