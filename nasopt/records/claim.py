"""The claim of a study to its artifact folder: the file `study.json` in it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

CLAIM = "study.json"
"""Name of the file, in the study's artifact folder."""


@dataclass(frozen=True)
class Claim:
    """The identity of a study, which neither a copy of it has, nor a later study of its name.

    Attributes:
        id: the study's random text; a copy of the study carries it, too.
        number: the study's number in its database; a copy has another one.
        database: the text that tells its database from all others, for example the path of an SQLite file.
        relative: the path of an SQLite file, as seen from the artifact folder; None for other databases.
        study: the study's name when the file was written, for people.
        place: the database, without a password, for people.
    """

    id: str
    number: int
    database: str
    relative: str | None
    study: str
    place: str

    @classmethod
    def from_json(cls, text: str) -> Claim:
        """The claim that `to_json` gave.

        Raises:
            ValueError: the text is something else.
        """
        document = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(document, dict) or not known <= document.keys():
            raise ValueError(f"it does not say {', '.join(sorted(known))}")
        claim = cls(**{name: document[name] for name in known})
        if not isinstance(claim.id, str) or not isinstance(claim.number, int) or not isinstance(claim.database, str):
            raise ValueError("its id, number or database is of another kind")
        return claim

    def to_json(self) -> str:
        """The claim as JSON."""
        return json.dumps(asdict(self), indent=1) + "\n"

    def database_from(self, folder: Path) -> str:
        """The text that tells its database from all others, as seen from the folder in which the claim lies now.

        An SQLite file and its artifact folder that were moved or copied together belong together: the file then lies
        where it lay relative to the folder.
        """
        if self.relative is not None and (beside := Path(os.path.normpath(folder / self.relative))).is_file():
            return str(beside.resolve())
        return self.database
