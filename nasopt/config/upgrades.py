"""Stored configurations of earlier schemas: defaults that have changed since are written out as they were.

So an older study goes on as it was created.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMER_DEFAULTS: dict[int, dict[str, dict[str, Any]]] = {
    2: {"genetic": {"pruning": "magnitude", "start": "base"}},
    3: {"genetic": {"pruning": "fisher", "mutations": ["remove_last"]}, "fisher": {"lowest_share": 0.1}},
    4: {"fisher": {"criteria": ["fisher", "obs"]}},
}
"""By the schema that changed them: the options, by method, and what they were when a study did not say."""


def upgraded(document: Mapping[str, Any], schema: int) -> dict[str, Any]:
    """A stored configuration as the present schema would say the same.

    Args:
        document: the configuration.
        schema: of the version that wrote it.
    """
    options = dict(document.get("method_options", {}))
    for changed_by, methods in sorted(FORMER_DEFAULTS.items()):  # of several changes the first one counts
        if schema < changed_by:
            options = {**methods.get(str(document.get("method")), {}), **options}
    return {**document, "method_options": options}
