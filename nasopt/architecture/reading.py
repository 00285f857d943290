"""The shape of a candidate, as data. No torch here: samplers and reports read it too.

The genotype of a trial is a flat set of Optuna parameters: ``layer_<i>`` in {0, 1}, ``heads_<i>`` in 0..H, ``ffn_<i>``
in steps of :data:`FFN_STEP`, ``precision`` and ``training``. It holds *counts*. An :class:`Architecture` also says
*which* heads and neurons of the base model were kept, so that a child can inherit its parent's weights and get back
from the base model what the parent lacks.
"""

from __future__ import annotations

import json

from nasopt.architecture.base import CandidateArchitecture
from nasopt.architecture.encoder import Architecture


def read_architecture(text: str) -> CandidateArchitecture:
    """The architecture, of whatever kind, that `to_json` wrote."""
    if json.loads(text).get("kind") == "cells":
        from nasopt.architecture.cells import CellArchitecture

        return CellArchitecture.from_json(text)
    return Architecture.from_json(text)
