"""Protocols: everything that a paper fixed, laid over a search's settings, so that its figures can be compared with.

A protocol is a YAML file in spaces/protocols. What it fixes can't be set otherwise: a search that says so is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import Field, model_validator

from spaces.backbone import piece
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from spaces.strict import Strict

SEARCHED = ("trained_blocks", "grad_checkpointing")
"""Dimensions that a protocol leaves to the search; warm-up follows from the data."""


class Warmup(Strict):
    """How long the learning rate rises: one of the two."""

    epochs: float | None = Field(default=None, ge=0)
    steps: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _one(self) -> Warmup:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("should have epochs or steps")
        return self


class OfDataset(Strict):
    """What a protocol says of one dataset alone."""

    settings: dict[str, Any]
    space: dict[str, Any] = {}
    warmup: Warmup
    not_reproduced: tuple[str, ...] = ()


class ProtocolSpec(Strict):
    """A file of spaces/protocols; its head says what the fields mean."""

    source: str
    settings: dict[str, Any]
    space: dict[str, Any]
    trial: dict[str, Any]
    not_reproduced: tuple[str, ...]
    datasets: dict[str, OfDataset]
    refused: dict[str, str]
    """Datasets that it can't be repeated on, and why."""


@cache
def protocol(name: str) -> ProtocolSpec:
    """A protocol by name."""
    return ProtocolSpec.parse(piece("protocols", f"{name}.yaml"), f"spaces/protocols/{name}.yaml")


def apply(config: SearchConfig) -> SearchConfig:
    """The settings with the protocol's laid over them; without a protocol, as they are.

    What is laid over once may be again: the result gives itself.

    Raises:
        Mistake: the protocol can't be repeated on this dataset, or settings that contradict it, all of them together.
    """
    if config.protocol == "own":
        return config
    spec, of_dataset = _specs(config)
    problems: list[str] = []
    said = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    data = config.plain()
    _lay(data, said, _over(spec.settings, of_dataset.settings), config.protocol, problems)
    for name, wanted in {**spec.space, **of_dataset.space}.items():
        _fix(data["space"], name, wanted, config.protocol, problems)
    if problems:
        raise Mistake(*problems)
    return SearchConfig.parse(data, f"protocol: {config.protocol}")


def with_warmup(config: SearchConfig, steps_an_epoch: int) -> SearchConfig:
    """The settings with the warm-up as a share of all steps, once it is known how many there are.

    Raises:
        Mistake: another warm-up was set, or the training is shorter than the warm-up.
    """
    if config.protocol == "own":
        return config
    _, of_dataset = _specs(config)
    warmup, steps = of_dataset.warmup, steps_an_epoch * config.budget.epochs
    if warmup.steps is not None and warmup.steps >= steps:
        raise Mistake(
            f"protocol: {config.protocol} warms up for {warmup.steps} steps, but {config.budget.epochs} epochs of "
            f"these images are {steps}: they are far fewer than the whole dataset. Use all of it."
        )
    share = warmup.steps / steps if warmup.steps is not None else (warmup.epochs or 0) / config.budget.epochs
    space = dict(config.space)
    problems: list[str] = []
    _fix(space, "warmup", share, config.protocol, problems)
    if problems:
        raise Mistake(*problems)
    return config.model_copy(update={"space": space})


def trial_fields(config: SearchConfig) -> dict[str, Any]:
    """Fields of each trial that follow from the protocol and aren't searched."""
    return {} if config.protocol == "own" else dict(protocol(config.protocol).trial)


def notes(config: SearchConfig) -> tuple[str, ...]:
    """What a person should know of a search by a protocol: whose it is, and what isn't as it was there."""
    if config.protocol == "own":
        return ()
    spec, of_dataset = _specs(config)
    different = "; ".join((*spec.not_reproduced, *of_dataset.not_reproduced))
    return (
        f"protocol: {config.protocol}: splits, labels and training of {spec.source}, for comparison with its figures "
        f"alone. Not as there: {different}.",
    )


def _specs(config: SearchConfig) -> tuple[ProtocolSpec, OfDataset]:
    spec, reader = protocol(config.protocol), config.dataset.reader
    if reader in spec.refused:
        raise Mistake(
            f"protocol: {config.protocol} can't be repeated on {reader}: {' '.join(spec.refused[reader].split())}. "
            "Leave protocol out."
        )
    if reader not in spec.datasets:
        raise Mistake(
            f"protocol: {config.protocol} is of {', '.join(spec.datasets)} alone, found {reader}; leave protocol out."
        )
    return spec, spec.datasets[reader]


def _over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings, `upper` laid over `lower`."""
    both = dict(lower)
    for key, value in upper.items():
        inside = both.get(key)
        both[key] = _over(inside, value) if isinstance(inside, Mapping) and isinstance(value, Mapping) else value
    return both


def _lay(
    data: dict[str, Any], said: Mapping[str, Any], wanted: Mapping[str, Any], name: str, problems: list[str],
    where: str = "",
) -> None:  # fmt: skip
    """Lays `wanted` over `data`, in place; what was said otherwise becomes a problem."""
    for key, value in wanted.items():
        if isinstance(value, Mapping) and value:
            _lay(data.setdefault(key, {}), said.get(key) or {}, value, name, problems, f"{where}{key}.")
            continue
        if said.get(key) is not None and said[key] != value:
            problems.append(f"{where}{key}: is {_shown(said[key])}, but {_fixes(name)} {_shown(value)}; leave it out.")
        data[key] = value


def _fix(space: dict[str, Any], name: str, wanted: Any, protocol_name: str, problems: list[str]) -> None:
    """Fixes a dimension, in place, or leaves what is narrower than the choice that it may have."""
    for key in [key for key in space if key.startswith(f"{name}@")]:
        problems.append(f"space: {key}: {_fixes(protocol_name)} {_shown(wanted)} for all; leave it out.")
    own = space.get(name, wanted)
    allowed = wanted["choice"] if isinstance(wanted, Mapping) else [wanted]
    if isinstance(own, Mapping):
        values = own.get("choice", [own.get("default")])
        within = not {"float", "int", "when"} & set(own)
    else:
        values, within = [own], True
    if not within or any(value not in allowed for value in values):
        problems.append(f"space: {name}: is {_shown(own)}, but {_fixes(protocol_name)} {_shown(wanted)}; leave it out.")
    space[name] = own if isinstance(wanted, Mapping) and name in space else wanted


def _fixes(name: str) -> str:
    return f"protocol: {name} has"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping) and set(value) == {"choice"}:
        return " or ".join(map(str, value["choice"]))
    return "nothing" if value is None else str(value)
