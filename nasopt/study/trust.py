"""Decides which studies may run code of their own here.

A study names code in three places: functions among the method's options, `trust_remote_code`, and the model whose code
that is. Anyone who can write to a database could name any code, so a study that names code runs only where somebody has
said that this very code may run: by creating the study from a file, or by `--trust-study`. That is recorded outside the
database, for the study's id, in a file of the user's own; other code, or changed code, is asked for again.

So it is with an object store that the database alone names: a run would write to it with the user's keys.

Studies that name neither need no trust, and looking at a study runs nothing that it names.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from nasopt.config.functions import source_files
from nasopt.config.study import StudyConfig
from nasopt.errors import UntrustedStudyError
from nasopt.host.files import write_atomically
from nasopt.host.object_store import url_of
from nasopt.methods.registry import find, named_functions
from nasopt.records.study import StudyRecord
from nasopt.storage.rdb import shown
from nasopt.study.opening import OpenStudy

OWNER_ONLY = 0o700

logger = logging.getLogger("nasopt")


def code_of(config: StudyConfig) -> dict[str, str]:
    """The code that a study names: each place, in words, with a SHA-256 over the code's files. Runs none of it.

    A function's files are those that its import runs; a model's are all modules in its folder, and which of their
    classes its JSON files name. For a model on the hub only id and revision are known.
    """
    named = named_functions(find(config.method), config.method_options)
    code = {f"method_options.{option} = {name}": _digest(source_files(name)) for option, name in named.items()}
    task = config.task
    if task.trust_remote_code:
        place = task.model if task.revision is None else f"{task.model}, revision {task.revision}"
        code[f"task.trust_remote_code of {place}"] = _model_digest(Path(task.model))
    return code


def record(opened: OpenStudy) -> None:
    """Notes that the code which a study names now may run here, and that its files may lie where it says.

    That it cannot be noted is a warning.
    """
    code = {**code_of(opened.config), **_store_of(opened)}
    if not code:
        return
    path = _file_of(opened)
    try:
        path.parent.mkdir(mode=OWNER_ONLY, parents=True, exist_ok=True)
        write_atomically(path, json.dumps(code, indent=1), private=True)
    except OSError as error:
        logger.warning("%s: cannot be written (%s): the study's code will be asked for again", path, error.strerror)


def require(opened: OpenStudy, *, accept: bool) -> None:
    """Makes sure that the code which a study names may run here. Call it before anything of the study's runs.

    Args:
        opened: the study.
        accept: the option `--trust-study`: its code may run from now on, and its files may lie where it says.

    Raises:
        UntrustedStudyError: nobody has said so of this very code, or of the object store that the database names.
    """
    if accept:
        record(opened)
        return
    code = code_of(opened.config)
    trusted = _trusted(opened)
    if _store_of(opened).keys() - trusted.keys():
        url = url_of(opened.artifacts)
        raise UntrustedStudyError(
            f"the study {opened.name!r} keeps its files in {url}, as its database alone says, and a run writes there "
            f"with your keys: pass --artifacts {url} or, once, --trust-study if that is right"
        )
    unknown = [place for place, digest in code.items() if trusted.get(place) != digest]
    if unknown:
        changed = [place for place in unknown if place in trusted]
        why = "has changed since it was trusted" if changed == unknown else "is not trusted on this machine"
        raise UntrustedStudyError(
            f"the study {opened.name!r} would run code that {why}: {'; '.join(unknown)}; look at it, and "
            "pass --trust-study if it may run"
        )


def _store_of(opened: OpenStudy) -> dict[str, str]:
    """The object store of a study's files, if the database alone names it."""
    url = None if opened.place.is_known else url_of(opened.artifacts)
    return {} if url is None else {f"files in {url}": ""}


def _trusted(opened: OpenStudy) -> Mapping[str, str]:
    """The code that may run, by place; empty where there is no record, or none that can be read."""
    try:
        trusted = json.loads(_file_of(opened).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return trusted if isinstance(trusted, dict) else {}


def _file_of(opened: OpenStudy) -> Path:
    """The record of one study, named for its id, which is not what its file is called: it comes from the database."""
    name = hashlib.sha256(_identity(opened).encode()).hexdigest()
    return state_folder() / "trusted" / f"{name}.json"


def _identity(opened: OpenStudy) -> str:
    """The study's id; for a study that has none yet, its database and name."""
    identifier = StudyRecord.of(opened.study).id
    return str(identifier) if identifier is not None else f"{shown(opened.url)} {opened.name}"


def state_folder() -> Path:
    """The folder of this user's lasting notes: `$XDG_STATE_HOME/nasopt`, else `~/.local/state/nasopt`."""
    base = os.environ.get("XDG_STATE_HOME")
    root = Path(base) if base and Path(base).is_absolute() else Path.home() / ".local" / "state"
    return root / "nasopt"


def _model_digest(folder: Path) -> str:
    """A hash of the modules in a model's folder and the classes that its JSON files name; of nothing for a hub id."""
    if not folder.is_dir():
        return _digest(())
    named = {path.name: auto_map for path in sorted(folder.glob("*.json")) if (auto_map := _auto_map(path)) is not None}
    modules = sorted(path for path in folder.rglob("*.py") if path.is_file())
    return _digest(modules, json.dumps(named, sort_keys=True), root=folder)


def _auto_map(path: Path) -> object:
    """The classes of its own that a model's JSON file names; they may lie in another model on the hub."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return document.get("auto_map") if isinstance(document, dict) else None


def _digest(files: Iterable[Path], more: str = "", root: Path | None = None) -> str:
    digest = hashlib.sha256(more.encode())
    for path in files:
        name = path.name if root is None else str(path.relative_to(root))
        digest.update(f"\0{name}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
