"""Fetch the quickstart's data: short texts with human ratings of their sentiment, in three CSV files.

The texts (tweets, movie and product reviews, newspaper editorials) are the data of Hutto & Gilbert, "VADER: A
Parsimonious Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014. The archive lies in the source
distribution of `vaderSentiment==0.5`, so pip alone fetches it, with whatever index and proxy it is configured for.

Usage: python scripts/fetch_quickstart_data.py [FOLDER]        # default: quickstart/data
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import os
import sys
import tarfile
import tempfile
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pip_download import FetchError, pip_download

REQUIREMENT = "vaderSentiment==0.5"
ARCHIVE = "hutto_ICWSM_2014.tar.gz"
ARCHIVE_SHA256 = "d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa"
RATED_FILE = "_GroundTruth.txt"
MIN_RATING = 0.5
"""Ratings go from -4 to 4; texts whose mean is nearer to 0 are neutral and left out."""
SENTENCES = 19_136
"""Texts with a clear rating in the archive."""
SPLITS = {"train": 2000, "validation": 1000, "test": 1000}
LABELS = ("negative", "positive")
SEED = 0
DOWNLOAD_TIMEOUT_S = 300

Example = tuple[str, str]
"""A text and its label."""


def download_archive(folder: Path) -> bytes:
    """Download the source distribution with pip into `folder`; return the archive in it."""
    pip_download(REQUIREMENT, folder, ["--no-binary", ":all:", REQUIREMENT], DOWNLOAD_TIMEOUT_S)
    return archive_of(folder)


def archive_of(folder: Path) -> bytes:
    """The archive inside the only source distribution in `folder`."""
    for path in folder.glob("*.zip"):
        with zipfile.ZipFile(path) as distribution:
            for name in distribution.namelist():
                if name.endswith(f"/additional_resources/{ARCHIVE}"):
                    return distribution.read(name)
    raise FetchError(f"the source distribution of {REQUIREMENT} does not hold additional_resources/{ARCHIVE}")


def check_archive(archive: bytes, expected: str = ARCHIVE_SHA256) -> None:
    found = hashlib.sha256(archive).hexdigest()
    if found != expected:
        raise FetchError(f"{ARCHIVE} has SHA-256 {found}, but {expected} is expected; delete pip's cache and try again")


def read_examples(archive: bytes) -> list[Example]:
    """All clearly rated texts, in the archive's order. Members are read in memory: none can write to a file."""
    examples: list[Example] = []
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.name.endswith(RATED_FILE) else None
            if content is not None:
                examples.extend(_parse(content.read().decode("utf-8"), member.name))
    return examples


def _parse(document: str, name: str) -> Iterable[Example]:
    """The clearly rated texts of one file; each line is: id, mean rating, text, separated by tabs."""
    # Not splitlines(): it would also break a text at rarer separators such as U+0085.
    for number, line in enumerate(document.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            _, rating, text = line.split("\t", 2)
            score = float(rating)
        except ValueError:
            raise FetchError(f"{name}, line {number} is not `id, rating, text` separated by tabs") from None
        if abs(score) > MIN_RATING:
            yield text.strip(), LABELS[score > 0]


def without_duplicates(examples: Iterable[Example]) -> list[Example]:
    """The first of texts that differ in case and spaces only; none of them if their labels contradict each other."""
    labels: dict[str, set[str]] = defaultdict(set)
    firsts: dict[str, Example] = {}
    for text, label in examples:
        key = _key(text)
        labels[key].add(label)
        firsts.setdefault(key, (text, label))
    return [example for key, example in firsts.items() if len(labels[key]) == 1]


def split_examples(examples: Sequence[Example], sizes: Mapping[str, int] = SPLITS) -> dict[str, list[Example]]:
    """Disjoint random splits, each with the classes in the proportion of the whole; the same for the same examples.

    The order comes from hashes, not from `random`, whose shuffle may change between Python versions.
    """
    if sum(sizes.values()) > len(examples):
        raise FetchError(f"{len(examples)} texts are too few for splits of {', '.join(map(str, sizes.values()))}")
    by_label = {label: sorted((e for e in examples if e[1] == label), key=_shuffle_key) for label in LABELS}
    splits: dict[str, list[Example]] = {}
    for split, size in sizes.items():
        negatives = round(size * sum(e[1] == LABELS[0] for e in examples) / len(examples))
        chosen: list[Example] = []
        for label, count in zip(LABELS, (negatives, size - negatives), strict=True):
            chosen += by_label[label][:count]
            del by_label[label][:count]
        splits[split] = sorted(chosen, key=_shuffle_key)
    return splits


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def _shuffle_key(example: Example) -> str:
    return hashlib.sha256(f"{SEED}:{example[0]}".encode()).hexdigest()


def write_splits(splits: Mapping[str, Sequence[Example]], folder: Path) -> None:
    """Write `<split>.csv` with the columns text and label; each file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in splits.items():
        temporary = folder / f".{split}.csv.{os.getpid()}"
        try:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(("text", "label"))
                writer.writerows(examples)
            temporary.replace(folder / f"{split}.csv")
        finally:
            temporary.unlink(missing_ok=True)


def is_valid(folder: Path, sizes: Mapping[str, int] = SPLITS) -> bool:
    """Whether `folder` holds every split with its number of labelled texts, none of them twice."""
    seen: set[str] = set()
    for split, size in sizes.items():
        try:
            with (folder / f"{split}.csv").open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
        except (OSError, ValueError, csv.Error):
            return False
        if header != ["text", "label"] or len(rows) != size:
            return False
        if any(len(row) != 2 or row[1] not in LABELS for row in rows):
            return False
        seen.update(_key(row[0]) for row in rows)
    return len(seen) == sum(sizes.values())


def fetch(folder: Path) -> str:
    """Put the splits into `folder` unless they are there; return a line that says what was done."""
    if is_valid(folder):
        return f"{folder}: already there"
    with tempfile.TemporaryDirectory() as temporary:
        archive = download_archive(Path(temporary))
    check_archive(archive)
    examples = read_examples(archive)
    if len(examples) != SENTENCES:
        raise FetchError(f"{ARCHIVE} gave {len(examples)} clearly rated texts, but {SENTENCES} are expected")
    splits = split_examples(without_duplicates(examples))
    write_splits(splits, folder)
    parts = []
    for split, chosen in splits.items():
        counts = Counter(label for _, label in chosen)
        parts.append(f"{split} {len(chosen)} ({', '.join(f'{counts[label]} {label}' for label in LABELS)})")
    return f"{folder}: {'; '.join(parts)}; from {len(examples)} rated texts"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Fetch the quickstart's data with pip and write three CSV files.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("quickstart/data"), help="default: %(default)s")
    folder = parser.parse_args(arguments).folder
    try:
        print(fetch(folder))
    except (FetchError, OSError, tarfile.TarError, zipfile.BadZipFile) as error:
        print(f"fetch_quickstart_data: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
