"""Strict settings: unknown and repeated keys are refused, nothing is converted silently, all mistakes come at once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent

from spaces.mistakes import Mistake, nearest

MAX_YAML_BYTES = 1 << 20
IN_WORDS = {
    "tuple_type": "should be a list, as in [a, b]",
    "list_type": "should be a list, as in [a, b]",
    "too_short": "should have {min_length} or more entries",
    "too_long": "should have {max_length} entries or fewer",
    "model_type": "should hold keys with values of their own",
    "model_attributes_type": "should hold keys with values of their own",
    "dict_type": "should hold keys with values of their own",
    "float_parsing": "should be a number",
    "int_parsing": "should be a whole number",
    "float_type": "should be a number",
    "int_type": "should be a whole number",
    "int_from_float": "should be a whole number",
    "string_type": "should be text; put it into quotes",
    "bool_type": "should be true or false",
}
"""What YAML's readers call these kinds of mistakes, for those that pydantic names as a Python programmer would."""
MAX_YAML_DEPTH = 20  # the parser's time grows with the square of it, and Python's stack ends
NO_KEYS = " No keys are known there; leave it out."


class Strict(BaseModel):
    """A frozen settings class. Two are equal, and hash alike, when their canonical JSON is the same."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, data: Any, where: str, changed: Mapping[str, str] | None = None) -> Self:
        """Settings from plain data, as YAML or JSON gives it.

        Args:
            data: mappings, lists, strings, numbers, booleans and None.
            where: the file or key that the data came from; it begins every sentence.
            changed: by its dotted key, the option that gave a value in place of the file (`--set budget.trials`); it
                then begins the sentences about it.

        Raises:
            Mistake: with one sentence for each thing that is wrong.
        """
        try:
            # Through JSON, where a list is a tuple's only spelling, but a string is never a number.
            return cls.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            sentences = (_sentence(cls, dict(e), _came_from(e["loc"], where, changed or {})) for e in error.errors())
            raise Mistake(*sentences) from None
        except TypeError as error:
            raise Mistake(f"{where}: {error}; use numbers, strings, lists and mappings only.") from None

    def plain(self) -> dict[str, Any]:
        """The settings as plain data, ready for JSON or YAML."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return digest(self.plain())

    def __hash__(self) -> int:
        return int(self.digest()[:15], 16)


def digest(data: Any) -> str:
    """SHA-256 of plain data's canonical JSON, in hexadecimal."""
    return hashlib.sha256(json.dumps(data, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def read_yaml(path: Path) -> Any:
    """Plain data from a YAML 1.2 file, read safely.

    Raises:
        Mistake: no such file, not YAML, a repeated key, a tag, an anchor or alias, more than one MiB, or more than 20
            levels.
    """
    try:
        if path.stat().st_size > MAX_YAML_BYTES:
            raise Mistake(f"{path}: larger than 1 MiB; expected settings of a few hundred lines.")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise Mistake(
            f"{path}: no such file.{nearest(path.name, _names(path.parent)) or ' Give the path of a file of settings.'}"
        ) from None
    except IsADirectoryError:
        inside = _names(path)
        files = f"; in it: {', '.join(inside)}" if inside else ""
        raise Mistake(f"{path}: expected a file of settings, found a folder{files}. Give the path of a file.") from None
    except PermissionError:
        raise Mistake(f"{path}: may not be read by you; ask its owner for the right to, or give a copy.") from None
    except OSError as error:
        raise Mistake(f"{path}: can't be read ({error.strerror}); give the path of a file of settings.") from None
    except UnicodeDecodeError:
        raise Mistake(
            f"{path}: isn't text in UTF-8, as settings are; save it so, or give the path of a file of settings."
        ) from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """As `read_yaml`, from a string; `where` begins the sentence of a mistake."""
    yaml, depth = YAML(typ="safe", pure=True), 0
    try:
        for event in yaml.parse(text):
            tag = getattr(event, "tag", None)
            line = event.start_mark.line + 1
            depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
            if depth > MAX_YAML_DEPTH:
                raise Mistake(f"{where}: line {line}: more than {MAX_YAML_DEPTH} levels deep; expected a few.")
            if getattr(event, "anchor", None):
                raise Mistake(f"{where}: line {line}: anchors and aliases aren't allowed here; write the value out.")
            if tag:
                raise Mistake(f'{where}: line {line}: the tag "{tag}" isn\'t allowed here; write a plain value.')
        return YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        problem = str(error.problem).split(" with value")[0].replace("found duplicate key", "repeated key")
        raise Mistake(f"{where}: line {line}: {problem}; keep one of the two.") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise Mistake(
            f'{where}: line {line}: not valid YAML: {error.problem}; expected "key: value", indented by blanks.'
        ) from None
    except YAMLError as error:
        raise Mistake(f"{where}: not valid YAML: {str(error).splitlines()[0]}; take that out.") from None
    except ValueError as error:  # a value that looks like a date or a number, and is none
        raise Mistake(f"{where}: holds a value that can't be read ({error}); put it into quotes.") from None


def _names(folder: Path) -> list[str]:
    """Names of the YAML files in a folder."""
    return sorted(file.name for file in folder.glob("*.y*ml")) if folder.is_dir() else []


def _came_from(location: Sequence[str | int], where: str, changed: Mapping[str, str]) -> str:
    """Where a value was given: by an option, in the file, or, of several that don't go together, in both."""
    key = ".".join(map(str, location))
    for one, option in changed.items():
        if f"{key}.".startswith(f"{one}."):
            return option
    parts = [option for one, option in changed.items() if not key or one.startswith(f"{key}.")]
    return " with ".join([where, *parts])


def _sentence(cls: type[BaseModel], error: dict[str, Any], where: str) -> str:
    """What pydantic found, as one sentence."""
    location = [str(part) for part in error["loc"]]
    found = json.dumps(error.get("input"), default=str)
    found = found if len(found) <= 80 else found[:77] + "..."
    kind = error["type"]
    if kind == "extra_forbidden":
        parent = ".".join(location[:-1])
        known = _fields_at(cls, location[:-1])
        inside = f' in "{parent}"' if parent else ""
        return f'{where}: unknown key "{location[-1]}"{inside}.{nearest(location[-1], known) or NO_KEYS}'
    key = ".".join(location)
    if kind == "missing":
        return f'{where}: "{key}" is missing; it has no default.'
    if not location:  # how keys go together: what was found would be all of them
        return f"{where}: {in_words(error)}."
    place = where if where.endswith(f" {key}") else f"{where}: {key}"
    return f"{place}: {in_words(error)}; found {found}."


def in_words(error: Mapping[str, Any]) -> str:
    """What pydantic found wrong, as a clause without the place and the value."""
    words = IN_WORDS.get(error["type"])
    message = words.format(**error.get("ctx", {})) if words else str(error["msg"])
    return message.removeprefix("Value error, ").removeprefix("Input ").rstrip(".")


def _fields_at(cls: type[BaseModel], location: list[str]) -> list[str]:
    """Keys of the settings class that `location` leads to."""
    current: Any = cls
    for part in location:
        fields = getattr(current, "model_fields", {})
        field = next((field for name, field in fields.items() if part in (name, field.alias)), None)
        if field is None:
            continue  # a position in a list, or the name of a union's member
        candidates = [field.annotation, *getattr(field.annotation, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), current)
    return [field.alias or name for name, field in getattr(current, "model_fields", {}).items()]
