"""Importing nasopt: no torch, and transformers knows our models whichever is imported first."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cases import mostly_slow

pytestmark = pytest.mark.integration


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_importing_nasopt_imports_no_torch() -> None:
    assert (
        python("import sys, nasopt; print({'torch', 'transformers', 'optuna'} & set(sys.modules) or 'none')") == "none"
    )


IMPORTS = [
    "import nasopt; from transformers import AutoConfig, AutoModel",
    "from transformers import AutoConfig, AutoModel; import nasopt",
    "import nasopt.models.surgery, nasopt.models.loading; from transformers import AutoConfig",
    "import nasopt.models.searchcell; from transformers import AutoConfig",
]


@pytest.mark.parametrize("imports", mostly_slow(IMPORTS, IMPORTS[:2]))
def test_transformers_knows_our_models(imports: str) -> None:
    code = "print(*(AutoConfig.for_model(name).model_type for name in ('nasopt-bert', 'nasopt-adabert')))"
    assert python(f"{imports}\n{code}") == "nasopt-bert nasopt-adabert"


def test_unknown_names_are_errors() -> None:
    import nasopt

    with pytest.raises(AttributeError, match="nonsense"):
        nasopt.nonsense  # noqa: B018
