"""Conformance tests for the authors of methods, tasks and latency sources.

An author subclasses a case, gives it one or two fixtures, and runs it with pytest, which this package needs::

    class TestMine(MethodTestCase):
        @pytest.fixture(scope="class")
        @classmethod
        def config(cls) -> StudyConfig:
            return read_study_file("small.toml")

Nothing else in nasopt imports this package. `docs/extending.md` says more.
"""

import pytest

pytest.register_assert_rewrite(
    "nasopt.testing.latency_sources", "nasopt.testing.methods", "nasopt.testing.small_study", "nasopt.testing.tasks"
)

from nasopt.testing.latency_sources import LatencySourceTestCase  # noqa: E402
from nasopt.testing.methods import MethodTestCase  # noqa: E402
from nasopt.testing.tasks import TaskTestCase  # noqa: E402

__all__ = ["LatencySourceTestCase", "MethodTestCase", "TaskTestCase"]
