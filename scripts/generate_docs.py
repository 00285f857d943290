"""Write the tables of docs/ that are read off the code: the keys of a study file and of the methods' options.

Each stands between `<!-- generated: NAME -->` and `<!-- end -->`; the text around it is written by hand.

Usage: python scripts/generate_docs.py [--check]        # --check: write nothing, exit 1 if a page is stale
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from nasopt.config.study import StudyConfig
from nasopt.methods.registry import available
from nasopt.samplers import mutations

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(<!-- generated: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)

NOUNS = {int: "integer", float: "number", bool: "true or false", str: "text"}
SIGNS = {annotated_types.Ge: "ge", annotated_types.Gt: "gt", annotated_types.Le: "le", annotated_types.Lt: "lt"}
SYMBOLS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The model of a key that is a table, or an array of tables."""
    for item in (annotation, *get_args(annotation)):
        if isinstance(item, type) and issubclass(item, BaseModel):
            return item
    return None


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel], FieldInfo | None]]:
    """Every table of a study file: its path, its model, and the field that holds it."""
    if not path:
        yield path, model, None
    for name, field in model.model_fields.items():
        nested = section_of(field.annotation)
        if nested is not None:
            inner = f"{path}.{name}" if path else name
            yield inner, nested, field
            yield from sections(nested, inner)


def allowed(annotation: Any, metadata: list[Any]) -> str:
    """The values that a key may hold, in words."""
    options = [item for item in get_args(annotation) if item is not NoneType]
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(f"`{item}`" for item in options)
    if get_origin(annotation) is tuple:
        return f"list of {allowed(options[0], [])}{_lengths(metadata)}"
    if options and get_origin(annotation) is not dict:
        return allowed(options[0], metadata)
    bounds = [
        f"{SYMBOLS[sign]} {getattr(item, sign)}"
        for item in metadata
        for kind, sign in SIGNS.items()
        if isinstance(item, kind)
    ]
    return " ".join([NOUNS.get(annotation, "table"), " and ".join(bounds)]).strip()


def _lengths(metadata: list[Any]) -> str:
    least = next((item.min_length for item in metadata if isinstance(item, annotated_types.MinLen)), None)
    most = next((item.max_length for item in metadata if isinstance(item, annotated_types.MaxLen)), None)
    if least is None:
        return ""
    return f", at least {least}" if most is None else f", {least} to {most}"


def default(field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    return "" if field.default is None else f"`{literal(field.default)}`"


def literal(value: Any) -> str:
    """A value as TOML writes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return "[" + ", ".join(literal(item) for item in value) + "]"
    return str(value)


def table(model: type[BaseModel]) -> list[str]:
    """The keys of a table that hold values."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if section_of(field.annotation) is None:
            value = allowed(field.annotation, field.metadata)
            cells = (f"`{field.alias or name}`", value, default(field), field.description or "")
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return rows


def study_file() -> list[str]:
    """The keys of every table; tables with the same keys stand together."""
    paths: dict[type[BaseModel], list[str]] = {}
    notes: dict[type[BaseModel], list[str]] = {}
    for path, model, field in sections(StudyConfig):
        paths.setdefault(model, []).append(path)
        if field is not None and isinstance(field.default, BaseModel):
            changed = field.default.model_dump(exclude_unset=True)
            for name, value in changed.items():
                notes.setdefault(model, []).append(f"In `[{path}]` the default of `{name}` is `{literal(value)}`.")
    lines: list[str] = []
    for model, places in paths.items():
        title = ", ".join(f"`[{path}]`" for path in places) if places != [""] else "Top level"
        lines += [f"## {title}", "", str(model.__doc__).strip().partition("\n\n")[0], "", *table(model), ""]
        if model in notes:
            lines += [" ".join(notes[model]), ""]
    return lines


def mutation_names() -> list[str]:
    """Each mutation with what stands below it in its module."""
    source = Path(mutations.__file__).read_text(encoding="utf-8")
    said = dict(re.findall(r'^(\w+) = \w+Mutation\(.*?\)\n"""(.+?)"""', source, re.MULTILINE | re.DOTALL))
    return ["| mutation | changes |", "|---|---|", *(f"| `{name}` | {said[name]} |" for name in mutations.MUTATIONS)]


BLOCKS: dict[str, Callable[[], list[str]]] = {
    "study file": study_file,
    "mutations": mutation_names,
    **{f"{name} options": partial(table, method.about.options) for name, method in available().items()},
}


def render(page: str) -> str:
    """The page with its generated blocks as the code says them now."""

    def block(match: re.Match[str]) -> str:
        lines = "\n".join(BLOCKS[match[2]]()).rstrip()
        return f"{match[1]}{lines}\n{match[3]}"

    return BLOCK.sub(block, page)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 if a page is stale")
    check = parser.parse_args().check
    stale = [path for path in sorted(DOCS.glob("*.md")) if render(path.read_text("utf-8")) != path.read_text("utf-8")]
    for path in stale:
        print(f"{path.name}: {'stale; run python scripts/generate_docs.py' if check else 'written'}")
        if not check:
            path.write_text(render(path.read_text("utf-8")), encoding="utf-8")
    return int(check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
