"""A pickle that runs code where it is unpickled, and ways to see whether that has happened."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any


class Payload:
    """Unpickled, it makes the file `marker`."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.marker), "w")


def malicious(marker: Path) -> bytes:
    """A pickle that makes the file `marker`; that it does is tried once."""
    content = pickle.dumps(Payload(marker))
    pickle.loads(content).close()
    marker.unlink()
    return content
