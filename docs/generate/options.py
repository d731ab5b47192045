"""reference/options.md: every option of the configuration, from the dataclasses of its groups."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING as NO_DEFAULT
from dataclasses import Field, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

from docs.generate.class_fields import REPOSITORY, SourceClass, classes_in
from docs.generate.option_files import CONF, content_of
from docs.generate.value_kinds import cell, kind_in_words
from docs.generate.value_ranges import ranges_of
from kdwatts.config.experiment import Config

INTRODUCTION = """\
# Options

Every option of `python -m kdwatts`, by section. You set one on the command line as
`section.option=value`, or in a file of a group. [Groups](groups.md) lists these files and what
they set; [Configure runs](../how_to/configure.md) shows how to combine them.

- **Default** is the value if neither a file nor the command line sets the option. Where a file
  of the default choice sets it, the file is named.
- **null** is how YAML writes "no value". Each option says what null means.
- A path may begin with `~` and hold `$NAME`. A relative path begins in the folder in which you
  start the command.
- A wrong name, type or value is refused in one sentence before anything is loaded.
"""


@dataclass(frozen=True)
class Section:
    """A dataclass at one place of the configuration."""

    key: str
    """Dotted name, such as `paradigm.response`; empty for the whole."""
    settings: type


@dataclass(frozen=True)
class Option:
    """One option, in words."""

    key: str
    kind: str
    default: str
    meaning: str


def sections() -> list[Section]:
    """Every section in the order of the configuration, a section before those inside it."""
    return list(_below("", Config))


def options_of(section: Section) -> list[Option]:
    """The options of a section that hold a value, those inside its own sections left out."""
    source, ranges = _source(section.settings), ranges_of(section.settings)
    hints = typing.get_type_hints(section.settings)
    found = []
    for field, said in zip(fields(section.settings), source.fields, strict=True):
        inner, is_optional, _ = _taken_apart(hints[field.name])
        if is_dataclass(inner) and not is_optional:
            continue
        key = _joined(section.key, field.name)
        where = f"Section [{key}](#{key})." if is_dataclass(inner) else ""
        words = [said.words or "", *ranges.get(field.name, []), where]
        meaning = " ".join(word for word in words if word)
        kind = _kind(said.kind, field.name, inner)
        found.append(Option(key, kind, _default(key, field), meaning))
    return found


def anchor_of(key: str) -> str:
    """What an option or a section is linked to by: its dotted name, without marks of lists."""
    return key.replace("[]", "")


def page() -> str:
    """The page in Markdown."""
    parts = [INTRODUCTION]
    for section in sections():
        title = section.key or "The run as a whole"
        level = "##" if section.key.count(".") == 0 else "###"
        anchor = anchor_of(section.key) or "run"
        parts.append(f"{level} {title} {{#{anchor}}}\n\n{_source(section.settings).words}\n")
        options = options_of(section)
        if options:
            parts.append(_table(options))
    return "\n".join(parts)


def _table(options: list[Option]) -> str:
    lines = ["| option | type | default | what it sets |", "| --- | --- | --- | --- |"]
    for option in options:
        # A name may break after a dot. Of a section the heading is what is linked to.
        name = re.sub(r"\.", ".<wbr>", option.key)
        anchor = "" if "section" in option.kind else f' id="{anchor_of(option.key)}"'
        cells = (f"<code{anchor}>{name}</code>", option.kind, option.default)
        lines.append(f"| {' | '.join(cells)} | {cell(option.meaning)} |")
    return "\n".join(lines) + "\n"


def _below(key: str, settings: type) -> Iterator[Section]:
    yield Section(key, settings)
    hints = typing.get_type_hints(settings)
    for field in fields(settings):
        inner, _, is_list = _taken_apart(hints[field.name])
        if isinstance(inner, type) and is_dataclass(inner):
            name = _joined(key, field.name) + ("[]" if is_list else "")
            yield from _below(name, inner)


def _joined(key: str, name: str) -> str:
    return f"{key}.{name}" if key else name


def _taken_apart(hint: Any) -> tuple[Any, bool, bool]:
    """The type inside an optional or a list; whether it is optional or a list; whether a list."""
    if isinstance(hint, types.UnionType):
        (inner,) = [part for part in typing.get_args(hint) if part is not type(None)]
        return inner, True, False
    if typing.get_origin(hint) is list:
        return typing.get_args(hint)[0], True, True
    return hint, False, False


def _kind(annotation: str, name: str, inner: Any) -> str:
    if not is_dataclass(inner):
        return kind_in_words(annotation, name)
    words = "list of sections" if annotation.startswith("list") else "section"
    return f"{words}, or null" if annotation.endswith(" | None") else words


def _default(key: str, field: Field) -> str:
    own = _of_dataclass(field)
    file, value = _of_default_option(key)
    if own is MISSING and key.count(".") == 1 and field.name == "name":
        return "the option's name"
    if file is None or value == own:
        return "set by each option" if own is MISSING else _value(own)
    given = f"{_value(value)} with {file}"
    return given if own is MISSING else f"{_value(own)}<br>{given}"


def _of_dataclass(field: Field) -> Any:
    if field.default is not NO_DEFAULT:
        return field.default
    assert field.default_factory is not NO_DEFAULT
    return field.default_factory()


def _of_default_option(key: str) -> tuple[str | None, Any]:
    """The file of conf/ that sets an option where no choice is made, and its value there."""
    for file, tree in _default_files().items():
        value: Any = tree
        for name in key.split("."):
            value = value.get(name, NO_DEFAULT) if isinstance(value, dict) else NO_DEFAULT
        if value is not NO_DEFAULT:
            return file, value
    return None, None


@cache
def _default_files() -> dict[str, dict[str, Any]]:
    """What conf/config.yaml and the options that it names set; `${gpu.gres}` stays as written."""
    whole = content_of("config.yaml")
    chosen = dict(entry.popitem() for entry in whole["defaults"] if isinstance(entry, dict))
    found = {"`conf/config.yaml`": whole}
    for group, option in chosen.items():
        if (CONF / group / f"{option}.yaml").is_file():
            found[f"`{group}={option}`"] = {group: content_of(f"{group}/{option}.yaml")}
    return found


def _value(value: Any) -> str:
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if is_dataclass(value):
        return "the section's defaults"
    if isinstance(value, str | list | dict) and not value:
        return "empty"
    if isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)):
        return "set"
    return f"`{value}`"


def _source(settings: type) -> SourceClass:
    path = Path(inspect.getfile(settings)).relative_to(REPOSITORY)
    return classes_in(str(path))[settings.__name__]
