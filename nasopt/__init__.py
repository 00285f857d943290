"""nasopt: multi-objective neural architecture search for BERT-like models.

Importing this package imports neither torch nor transformers. It makes `AutoModel...from_pretrained` of transformers
recognise exported models, whether transformers is imported before or after it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nasopt.models import registration
from nasopt.version import __version__

if TYPE_CHECKING:
    from nasopt.config.study import StudyConfig
    from nasopt.models.loading import load
    from nasopt.trial.objective import Objective

__all__ = ["Objective", "StudyConfig", "__version__", "load"]

_HOMES = {"StudyConfig": "nasopt.config.study", "Objective": "nasopt.trial.objective", "load": "nasopt.models.loading"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nasopt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


registration.register_with_transformers()
