"""Downloads packages with pip, whose index, proxies and certificates are the user's own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class FetchError(Exception):
    """What is to be fetched cannot be had; the message is one line and says why."""


def pip_download(what: str, folder: Path, arguments: Sequence[str], timeout_s: float) -> None:
    """Download packages without their dependencies into `folder`.

    Args:
        what: their name in messages.
        folder: exists.
        arguments: of `pip download`: the requirements, and which kind of package is wanted.
        timeout_s: seconds after which it is given up.

    Raises:
        FetchError: pip failed, or took too long.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--dest", str(folder), *arguments]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        raise FetchError(f"pip could not download {what} within {timeout_s:g} s; check the network") from None
    if finished.returncode != 0:
        errors = [line for line in finished.stderr.splitlines() if line.startswith("ERROR:")]
        reason = errors[0].removeprefix("ERROR:").strip() if errors else f"exit code {finished.returncode}"
        raise FetchError(
            f"pip could not download {what} ({reason}); check the network and pip's index (`pip config list`)"
        )
