"""Sets up a command's process: it prints our own messages (those of libraries with --debug only), and waits idly."""

from __future__ import annotations

import logging
import os
import sys
import warnings

from nasopt.host.terminal import LINES, printable


class _Formatter(logging.Formatter):
    """A formatter that keeps the data that messages quote from steering a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep=LINES)


def configure(debug: bool, quiet: bool) -> None:
    """Sets up this process. Call it before torch and transformers are imported."""
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, force=True)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Formatter("%(message)s"))
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
    os.environ.setdefault("HF_HUB_VERBOSITY", "critical")  # it reports retries; we report it if they fail
    for chatty in ("httpx", "huggingface_hub", "torch_pruning", "bitsandbytes"):
        logging.getLogger(chatty).setLevel(logging.ERROR)


def quiet_optuna(debug: bool) -> None:
    """Sets Optuna's log level, which it would reset if it were imported later."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.INFO if debug else optuna.logging.ERROR)
