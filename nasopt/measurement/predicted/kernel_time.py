"""Milliseconds of a list of kernels on a device that is known by its datasheet.

A kernel takes the larger of its arithmetic time and its memory time (the roofline: Williams, Waterman & Patterson,
"Roofline: An Insightful Visual Performance Model for Multicore Architectures", CACM 52(4), 2009), plus a start. The
arithmetic comes in tiles, one for each thread block, and tiles in waves, one tile for each multiprocessor (NVIDIA,
"Matrix Multiplication Background User's Guide", sections on tile and wave quantization). All kernels together take no
less time than the host needs to dispatch them, and no less than the board's power allows.

Every step only sums, rounds up or takes a maximum or minimum of terms that grow with the shape: more layers, heads,
neurons, tokens or sequences never take less time.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from nasopt.measurement.predicted.transformer_cost import KINDS, Floats, KernelTable

TILES = ((128, 256), (256, 128), (128, 128), (64, 128), (128, 64), (64, 64), (32, 64), (64, 32))
"""Rows x columns of the result that one thread block computes: the usual sizes in cuBLAS and CUTLASS."""
SPLITS = (1, 2, 4)
"""Parts that the inner dimension may be cut into, for more thread blocks (CUTLASS: split-K)."""
DEPTH_STEP = 32
"""Elements of the inner dimension that a tensor core's main loop takes at a time."""
SHARPNESS = 8.0
"""The p of the p-norm, a smooth maximum that lets a fit see both sides of a limit; 9 % too high where both meet."""


@dataclass(frozen=True)
class Machine:
    """The datasheet of each pass's device, in its precision; every field has shape `(n_passes,)`.

    Args:
        multiprocessors: The number of them.
        clock_ghz: Boost clock.
        peak_tflops: Dense peak rate of matrix products in the precision.
        bandwidth_gbs: The memory's bandwidth, in 10^9 bytes per second.
        cache_mb: Second-level cache, in 10^6 bytes.
        power_w: The power that the board may draw.
        element_bytes: Bytes of a number.
    """

    multiprocessors: Floats
    clock_ghz: Floats
    peak_tflops: Floats
    bandwidth_gbs: Floats
    cache_mb: Floats
    power_w: Floats
    element_bytes: Floats


@dataclass(frozen=True)
class Constants:
    """The constants that the datasheets do not have; every field has shape `(n_passes,)`.

    Args:
        arithmetic: Part of the peak rate that matrix products reach within a tile, in (0, 1].
        attention: The same for a fused attention kernel, relative to `arithmetic`.
        bandwidth: Part of the memory bandwidth that is reached, in (0, 1].
        cache_bytes: Bytes that a multiprocessor gets from the second-level cache in one clock.
        start_us: The time from the end of one kernel to the work of the next one, on the device.
        dispatch_us: The time the host needs to start one kernel; hidden as long as the device is slower.
        call_ms: The time each pass takes once for inputs, outputs and a server.
        energy_pj: Energy of one floating-point operation, in 10^-12 J.
        byte_energy_pj: Energy of one byte that memory moves, in 10^-12 J.
    """

    arithmetic: Floats
    attention: Floats
    bandwidth: Floats
    cache_bytes: Floats
    start_us: Floats
    dispatch_us: Floats
    call_ms: Floats
    energy_pj: Floats
    byte_energy_pj: Floats


Columns = TypeVar("Columns", Machine, Constants)


def pass_ms(table: KernelTable, machine: Machine, constants: Constants) -> Floats:
    """Milliseconds of each pass, shape `(n_passes,)`."""
    count = len(machine.power_w)
    mine, found = _take(machine, table.passes), _take(constants, table.passes)
    matmul, attention = (table.kind == KINDS.index(kind) for kind in ("matmul", "attention"))
    arithmetic = np.zeros(len(table.kind))
    arithmetic[matmul] = _matmul_us(table, mine, found, matmul)
    arithmetic[attention] = _attention_us(table, mine, found, attention)
    kernel = smooth_max(arithmetic, _memory_us(table, mine, found)) + found.start_us

    def per_pass(values: Floats) -> Floats:
        return np.bincount(table.passes, values * table.count, minlength=count).astype(float)

    device = per_pass(kernel)
    dispatch = per_pass(np.ones(len(kernel))) * constants.dispatch_us
    joules = table.flops * found.energy_pj + _moved_bytes(table, mine) * found.byte_energy_pj
    power = per_pass(joules) * 1e-6 / machine.power_w
    return smooth_max(device, dispatch, power) / 1e3 + constants.call_ms


def smooth_max(*terms: Floats) -> Floats:
    """The p-norm of non-negative terms, element by element: grows with each, and is at least the largest."""
    stacked = np.stack(terms)
    largest = np.maximum(stacked.max(axis=0), 1e-30)
    return np.asarray(largest * ((stacked / largest) ** SHARPNESS).sum(axis=0) ** (1 / SHARPNESS))


def _matmul_us(table: KernelTable, machine: Machine, constants: Constants, chosen: NDArray[Any]) -> Floats:
    """Waves of tiles, with the tile size and split that take the least time."""
    rows, columns, depth, products = (x[chosen] for x in (table.rows, table.columns, table.depth, table.products))
    machine, constants = _take(machine, chosen), _take(constants, chosen)
    rate, feed = _rates(machine, constants)
    steps = np.ceil(depth / DEPTH_STEP)
    best = np.full(len(rows), np.inf)
    for height, width in TILES:
        tiles = products * np.ceil(rows / height) * np.ceil(columns / width)
        step = DEPTH_STEP * (2 * height * width / rate + (height + width) * machine.element_bytes / feed)
        for split in SPLITS:
            waves = np.ceil(tiles * split / machine.multiprocessors)
            # A split's parts are added up through the cache: written, read and written again, 4 bytes each.
            merge = (split > 1) * 12 * height * width / feed
            best = np.minimum(best, waves * (np.ceil(steps / split) * step + merge))
    return best


def _attention_us(table: KernelTable, machine: Machine, constants: Constants, chosen: NDArray[Any]) -> Floats:
    """Waves of fused heads: one thread block for each head, as in TensorRT's fused multi-head attention."""
    machine, constants = _take(machine, chosen), _take(constants, chosen)
    rate, _ = _rates(machine, constants)
    size = 16 * np.ceil(table.depth[chosen] / 16)
    length = 16 * np.ceil(table.rows[chosen] / 16)
    waves = np.ceil(table.products[chosen] / machine.multiprocessors)
    return np.asarray(waves * 4 * length**2 * size / (rate * constants.attention))


def _memory_us(table: KernelTable, machine: Machine, constants: Constants) -> Floats:
    """The time to move a kernel's operands: the memory's or the second-level cache's, whichever is larger."""
    memory = _moved_bytes(table, machine) / (machine.bandwidth_gbs * 1e3 * constants.bandwidth)
    cache = (
        table.activations
        * machine.element_bytes
        / (machine.multiprocessors * machine.clock_ghz * 1e3 * constants.cache_bytes)
    )
    return np.asarray(np.maximum(memory, cache))


def _moved_bytes(table: KernelTable, machine: Machine) -> Floats:
    """The bytes that memory moves: parameters, and the activations that half of the cache does not hold."""
    spilled = np.maximum(table.activations * machine.element_bytes - machine.cache_mb * 1e6 / 2, 0.0)
    return np.asarray(table.weights * machine.element_bytes + spilled)


def _rates(machine: Machine, constants: Constants) -> tuple[Floats, Floats]:
    """FLOPs, and bytes from the cache, of one multiprocessor in a microsecond."""
    rate = machine.peak_tflops * 1e6 * constants.arithmetic / machine.multiprocessors
    return rate, machine.clock_ghz * 1e3 * constants.cache_bytes


def _take(columns: Columns, index: NDArray[Any]) -> Columns:
    return type(columns)(**{field.name: getattr(columns, field.name)[index] for field in fields(columns)})
