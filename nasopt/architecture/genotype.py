"""The genotype of a trial: a flat set of Optuna parameters. No torch here: samplers and reports read it too.

An encoder's are ``layer_<i>`` in {0, 1}, ``heads_<i>`` in 0..H, ``ffn_<i>`` in steps of :data:`FFN_STEP`,
``precision`` and ``training``: they hold *counts*, and :class:`nasopt.architecture.encoder.Architecture` says *which*
heads and neurons are kept. A chain of cells has ``cell_<i>``, the cell's operation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

FFN_STEP = 64
"""FFN widths are multiples of 64: nf4 kernels on AVX512-BF16 CPUs need `in_features` to be one."""

GENOTYPE_NAME = re.compile(r"(layer|heads|ffn|cell)_(0|[1-9]\d*)|precision|training")


def canonical(params: Mapping[str, Any]) -> dict[str, Any]:
    """The same genotype with one spelling: a removed layer has no heads and no neurons.

    Two genotypes that describe the same model are equal after this, whatever a sampler wrote for layers that are gone.
    """
    result = dict(params)
    for name in params:
        if name.startswith("layer_") and not params[name]:
            index = name.removeprefix("layer_")
            for part in ("heads", "ffn"):
                if f"{part}_{index}" in result:
                    result[f"{part}_{index}"] = 0
    return result
