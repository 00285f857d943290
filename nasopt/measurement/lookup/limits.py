"""The values that a look-up table may hold: a table may be anybody's file, and wrong ones are refused in one line."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, Field, ValidationError

from nasopt.host.terminal import printable

LARGEST_SIZE = 10**7
"""The largest count of heads, neurons, texts or tokens: far beyond any model, far below where arithmetic overflows."""
LONGEST_MS = 1e9
LARGEST_FACTOR = 1e6
"""A table whose 90 % interval reaches this many times its own predictions, or more, says nothing."""
SHOWN_CHARACTERS = 80
"""The number of characters of a wrong value that a message shows."""


def _prints(text: str) -> str:
    if not text.isprintable():
        raise ValueError(f"{text[:SHOWN_CHARACTERS]!r} holds characters that do not print")
    return text


Milliseconds: TypeAlias = Annotated[float, Field(ge=0, le=LONGEST_MS, allow_inf_nan=False)]
PositiveMilliseconds: TypeAlias = Annotated[float, Field(gt=0, le=LONGEST_MS, allow_inf_nan=False)]
Size: TypeAlias = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]
SizeOrNone: TypeAlias = Annotated[int, Field(ge=0, le=LARGEST_SIZE)]
"""A size; 0 where a block has none, or is gone."""
Text: TypeAlias = Annotated[str, Field(max_length=200), AfterValidator(_prints)]
"""A single line of printable characters, because it is shown on terminals."""


def in_words(error: ValidationError) -> str:
    """The first mistake in one line: the key, what is wrong with it, and the value, cut short if it is long."""
    first = error.errors()[0]
    key = ".".join(map(str, first["loc"])) or "table"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("missing", "value_error") else f", not {_short(repr(first['input']))}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return printable(f"{_short(key)}: {message[:1].lower()}{message[1:]}{given}{more}")


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."
