"""What may leave this machine about a search: names that are listed here, numbers, and words that can't be a path."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from spaces.backbone import pieces
from spaces.config import SearchConfig
from spaces.library import assemble
from spaces.mistakes import Mistake
from spaces.strict import digest, parse_yaml
from spaces.words import written

SETTINGS = re.compile(
    r"dataset\.(reader|policy|fit|crop|side|split\..+)|budget\..+|stopping\..+|resources\..+|sampler|seed|expert_first|"
    r"strategy|protocol"
)
CHANGES = re.compile(r"name|metric|backbones|(comparison|operating_point|space)\..+")
"""Settings whose changes may be told besides."""
WORDS = ("pretrained", "random", "local", "off")  # of weights and of MLflow, for which else a path or an address stands
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,99}")
LABEL = re.compile(r"[\w .,()+-]{1,100}")
PATH_LIKE = re.compile(r"[/\\~]|\.\w*[A-Za-z]")
ERROR_CLASS = re.compile(r"(?:\w+\.)*([A-Z][A-Za-z]*(?:Error|Exception|Mistake))\b")
PLAIN_WORD = re.compile(r"(?:[a-z][a-z_'-]*|[+-]?\d{1,5}(?:\.\d+)?%?|NaN|nan|inf)[,;:.]?")
WITHHELD = "withheld"
OPTIONS = "dataset.options"


@dataclass(frozen=True)
class SearchFacts:
    """What MLflow is told of a search."""

    identifier: str
    """Name and a mark of the record's creation: two searches of one name stay apart."""
    name: str
    metric: str
    direction: str
    backbones: tuple[str, ...]
    data_digest: str = ""
    split_digest: str = ""
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    """Images by class of each part: train, validation, test."""
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    """By dotted names; of all settings those that `SETTINGS` allows."""
    searched: frozenset[str] | None = None
    """Names of the dimensions that are searched, and not fixed; None where that isn't known."""
    command: str = ""
    """What was typed to start it, without paths; empty where that isn't known."""


def facts(config: SearchConfig, identity: dict[str, Any]) -> SearchFacts:
    """From a search's settings and its record's identity."""
    settings = {k: public_value(v) for k, v in _flatten(config.plain()) if SETTINGS.fullmatch(k) and v is not None}
    return SearchFacts(
        identifier=f"{config.name}-{identity.get('id', digest(identity))[:12]}",
        name=config.name,
        metric=identity.get("metric") or config.metric or "value",
        direction=identity.get("direction") or config.direction or "maximize",
        backbones=config.backbones,
        data_digest=identity.get("data") or "",
        split_digest=identity.get("split") or "",
        counts=identity.get("counts") or {},
        versions=identity.get("versions") or {},
        settings=settings,
        searched=_searched(config),
        command=identity.get("command") or "",
    )


@lru_cache(maxsize=16)
def _searched(config: SearchConfig) -> frozenset[str] | None:
    try:
        return frozenset(assemble(config).searched)
    except Mistake:  # of a search that an earlier version has made
        return None


def _flatten(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in data.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def public_value(value: Any) -> str:
    """A parameter's or setting's value as text, or `withheld` where it is neither a number nor a plain name."""
    if isinstance(value, list | tuple):
        return ", ".join(public_value(v) for v in value)
    if value is None or isinstance(value, bool | int | float) or NAME.fullmatch(str(value)):
        return str(value)
    return WITHHELD


def public_parameter(name: str, value: Any) -> str:
    """A value of the parameter of that name as text, or `withheld`; a backbone's name is no path, though it may have a
    `/` (`timm/convnext_tiny.in12k`)."""
    return public_backbone(str(value)) if name == "backbone" else public_value(value)


def public_backbone(name: str) -> str:
    """A backbone's name: plain, or a plain one after the name of a family; `withheld` where it is neither."""
    family, slash, model = name.partition("/")
    known = bool(slash) and NAME.fullmatch(model) is not None and family in pieces("backbones")
    return name if known else public_value(name)


def public_command(settings: Path, changes: Sequence[str], address: str | None) -> str:
    """`medtune search` as it was typed: the settings by their file's name, changes as far as they may be told, of a
    cluster only that one was named.

    Args:
        settings: the file.
        changes: as for `--set`.
    """
    words = ["medtune", "search", settings.name if NAME.fullmatch(settings.name) else "search.yaml"]
    for change in changes:
        key, _, text = change.partition("=")
        shown = written(_public_change(key, parse_yaml(text, f"--set {key}")))
        words += ["--set", f"{_public_key(key)}={shown}"]
    return shlex.join(words + (["--address", "ADDRESS"] if address is not None else []))


def _public_change(key: str, value: Any) -> Any:
    """What a setting was changed to, `withheld` in the place of what may not be told."""
    if _of_options(key):
        return WITHHELD
    if isinstance(value, Mapping):
        return {
            _public_key(f"{key}.{name}").removeprefix(f"{key}."): _public_change(f"{key}.{name}", one)
            for name, one in value.items()
        }
    if value is None or isinstance(value, bool) or value in WORDS:
        return value
    if not (SETTINGS.fullmatch(key) or CHANGES.fullmatch(key)):
        return WITHHELD
    if isinstance(value, list):
        return [_public_change(key, one) for one in value]
    return value if isinstance(value, int | float) else public_backbone(str(value))


def _public_key(key: str) -> str:
    """A setting's dotted name; a dimension's may be for one backbone or family alone (`space.head_lr@mae`). What a
    reader is told may be names of columns or people, on either side."""
    if _of_options(key):
        return OPTIONS
    name, scoped, scope = key.partition("@")
    known = NAME.fullmatch(name) and (not scoped or public_backbone(scope) == scope)
    return key if known else WITHHELD


def _of_options(key: str) -> bool:
    """Whether a setting is what a reader is told, or a part of it."""
    return key == OPTIONS or key.startswith(f"{OPTIONS}.")


def public_cause(cause: str) -> str:
    """What may leave this machine of why a trial ended: of an error, its class alone; of a sentence with anything like
    a path in it, nothing; of another one, its words up to the first that is neither lower case nor a number."""
    if error := ERROR_CLASS.match(cause):
        return error[1]
    if PATH_LIKE.search(cause):
        return f"{WITHHELD}; see medtune status"
    words = cause.split()
    plain = next((i for i, word in enumerate(words) if not PLAIN_WORD.fullmatch(word)), len(words))
    return " ".join(words[:plain]) + (" ..." if plain < len(words) else "")


def public_label(label: str) -> str:
    """A class's name, or `withheld` where it looks like a path."""
    return label if LABEL.fullmatch(label) and not PATH_LIKE.search(label) else WITHHELD


def public_uri(uri: str) -> str:
    """Without user and password."""
    return re.sub(r"//[^/]*@", "//", uri)
