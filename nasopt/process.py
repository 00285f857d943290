"""This process: what it prints (our own words; what libraries say belongs to --debug), how it waits, who it is."""

from __future__ import annotations

import logging
import os
import socket
import sys
import warnings
from collections.abc import Mapping
from functools import cache
from typing import Any

import psutil


def configure(debug: bool, quiet: bool) -> None:
    """Sets up this process. To be called before torch and transformers are imported."""
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING, force=True)
    level = logging.DEBUG if debug else logging.ERROR if quiet else logging.INFO
    logging.getLogger("nasopt").setLevel(level)
    # A thread that waits for the others must not spin: on a busy machine that made training more than twice as slow.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if debug:
        return
    warnings.simplefilter("ignore")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for library in ("HF_DATASETS", "HF_HUB"):
        os.environ.setdefault(f"{library}_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")  # its retries; that they were in vain is our line
    for chatty in ("httpx", "huggingface_hub", "torch_pruning", "bitsandbytes"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def quiet_optuna(debug: bool) -> None:
    """Optuna sets its own level when it is imported, so this comes after."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO if debug else optuna.logging.ERROR)


@cache
def worker_identity() -> dict[str, str | int | float]:
    """This process, so that another one on this host can tell whether it is still alive."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def is_gone(worker: Mapping[str, Any]) -> bool:
    """Whether a process, by its identity, was one of this host and is no more."""
    if worker["host"] != socket.gethostname():
        return False
    try:
        started = psutil.Process(worker["pid"]).create_time()
    except psutil.NoSuchProcess:
        return True
    return abs(started - float(worker["started"])) > 1.0
