"""Puts the space of a search together from the shipped pieces and the person's own changes.

Pieces are merged in this order, a later one winning: common.yaml, the family's backbones/<family>.yaml, the single
backbone's row in it, datasets/<reader>.yaml, and `space:` of the search's own file. Within a piece, a dimension is

    head_lr: {float: [1e-4, 3e-2], log: true, default: 2e-3}    a range (also int: [low, high])
    batch_size: {choice: [32, 64, 128], default: 64}            some values
    head_lr: {default: 1e-3}                                    the inherited range with another default
    weight_decay: 0.05                                          fixed
    mixup: null                                                 left out: the trial's own default holds
    layer_decay@mae: {float: [0.55, 0.8]}                       for one family or one backbone only
    head_lr@attentive: {float: [...], when: {head: attentive}}  for some values of another dimension only

`when` says under which values of dimensions asked earlier it is asked: a value, a list of them, or {not: ...}.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from spaces.backbone import BackboneSpec, backbone, is_family_or_backbone, piece, pieces, table
from spaces.config import SearchConfig, TrialConfig, parse_resolution
from spaces.dimensions import AnyDimension, Choice, Condition, Float, Int, Point, Space, Value
from spaces.mistakes import Mistake, nearest
from spaces.protocol import trial_fields
from spaces.strict import in_words

KINDS: dict[str, type[Float] | type[Int]] = {"float": Float, "int": Int}
WISHES = "where_asked"  # of a shipped configuration
Definitions = dict[str, Any]  # key -> definition, in the order of asking


def assemble(config: SearchConfig) -> Space:
    """The space of a search.

    Raises:
        Mistake: unknown backbones or dimensions, or ranges that make no sense, all of them together.
    """
    problems: list[str] = []
    specs: list[BackboneSpec] = []
    for name in config.backbones:
        try:
            specs.append(backbone(name))
        except Mistake as mistake:
            problems += [f"backbones: {sentence}" for sentence in mistake.sentences]
    if problems:
        raise Mistake(*problems)

    merged: Definitions = {"backbone": {"choice": list(config.backbones)}}
    common = piece("common.yaml")
    _merge(merged, common["dimensions"])
    for spec in specs:
        family = piece("backbones", f"{spec.family}.yaml")
        _merge(merged, _scoped(family.get("dimensions", {}), spec.family))
        _merge(merged, _scoped(spec.dimensions, spec.name))
    if config.dataset.reader in pieces("datasets"):
        _merge(merged, piece("datasets", f"{config.dataset.reader}.yaml").get("dimensions", {}))
    problems += _check_names(config.space)
    if problems:
        raise Mistake(*problems)
    _merge(merged, config.space)
    _leave_out_beyond_depth(merged, config.space, specs)

    dimensions: list[AnyDimension] = []
    fixed: Point = {}
    for key, definition in merged.items():
        try:
            _place(key, definition, dimensions, fixed, specs)
        except (ValueError, TypeError, AttributeError) as error:
            problems.append(f"space: {key}: {_reason(error)}.")
    if problems:
        raise Mistake(*problems)
    order = list(dict.fromkeys(key.split("@")[0] for key in merged))
    dimensions.sort(key=lambda d: (order.index(d.name), _generality(d.scope)))
    for name in {d.name for d in dimensions} & set(fixed):
        # Scoped dimensions come first; the general value is for the rest.
        last = max(i for i, d in enumerate(dimensions) if d.name == name)
        dimensions.insert(last + 1, Choice(name=name, choices=(fixed.pop(name),)))
    problems += _check_conditions(dimensions, fixed)
    if problems:
        raise Mistake(*problems)
    reachable = [d for i, d in enumerate(dimensions) if _reachable(d, dimensions[:i], config.backbones)]
    space = Space(dimensions=tuple(reachable), fixed=fixed)
    problems += _check_values(space, specs)
    if problems:
        raise Mistake(*problems)
    return space


def first_points(config: SearchConfig, space: Space, training_images: int) -> list[Point]:
    """Configurations to try before the sampler is asked: the person's own, then the shipped ones that lie in the space.

    Shipped ones are chosen by the dataset's policy or by its size (spaces/first.yaml). Where backbones are compared,
    one that none of them is for starts from its space's defaults, so that each has something to start from.

    Raises:
        Mistake: one of the person's own doesn't lie in the space.
    """
    problems = [
        f"try: configuration {index + 1}: {problem}."
        for index, own in enumerate(config.first)
        for problem in space.problems(own)
    ]
    if problems:
        raise Mistake(*problems)
    partial: list[Mapping[str, Value]] = list(config.first)
    if config.expert_first:
        partial += _shipped(space, config.dataset.policy, training_images)
        if config.strategy == "compare":
            started = {own.get("backbone", config.backbones[0]) for own in partial}
            partial += [{"backbone": name} for name in config.backbones if name not in started]
    points: list[Point] = []
    for own in partial:
        point = space.complete(own)
        if point not in points:
            points.append(point)
    return points


def _shipped(space: Space, policy: str | None, training_images: int) -> list[Mapping[str, Value]]:
    """Shipped configurations that lie in the space, with those of their wishes (`where_asked`) that it asks for."""
    lists = piece("first.yaml")
    of_policy = next((lists[key] for key in lists if "policy" in lists[key] and lists[key]["policy"] == policy), None)
    sizes = (lists[key] for key in ("small", "middle", "large"))
    chosen = of_policy or next(s for s in sizes if training_images <= s.get("up_to", float("inf")))
    found: list[Mapping[str, Value]] = []
    for shipped in chosen["configurations"]:
        own = {name: value for name, value in shipped.items() if name != WISHES}
        if space.problems(own):
            continue
        for name, value in shipped.get(WISHES, {}).items():
            if not space.problems({**own, name: value}):
                own[name] = value
        found.append(own)
    return found


def of_backbone(space: Space, name: str) -> Space:
    """The part of a space that belongs to one backbone, which is fixed in it. Keys stay as they are."""
    dimensions = []
    for dimension in space.dimensions:
        if dimension.name == "backbone":
            continue
        others = {other: condition for other, condition in dimension.when.items() if other != "backbone"}
        if "backbone" not in dimension.when or dimension.when["backbone"].holds(name):
            dimensions.append(dimension.model_copy(update={"when": others}))
    return Space(dimensions=tuple(dimensions), fixed={**space.fixed, "backbone": name})


def trial_config(
    config: SearchConfig, point: Mapping[str, Value], *, metric: str, policy: str, seed: int
) -> TrialConfig:
    """The complete configuration of one trial.

    Args:
        point: from the search's space.
        metric: the search's, or the reader's own.
        policy: augmentation policy of the dataset; a point may name another.
        seed: of this trial.
    """
    name = str(point["backbone"])
    weights = config.weights if isinstance(config.weights, str) else config.weights.get(name, "pretrained")
    settings = {"policy": policy, "augmentation": config.dataset.augmentation, "view_seed": config.seed}
    settings["classes_averaged"] = config.classes_averaged
    settings |= {**trial_fields(config), **point}
    return TrialConfig.model_validate(
        {"weights": weights, "metric": metric, "epochs": config.budget.epochs, "seed": seed, **settings}
    )


def _merge(merged: Definitions, changes: Mapping[str, Any]) -> None:
    """Lays `changes` over `merged`. A general change replaces the scoped dimensions of its name."""
    for key, change in changes.items():
        name, _, scope = key.partition("@")
        inherited = merged.get(key, merged.get(name))
        if not scope:
            for other in [k for k in merged if k.startswith(f"{name}@")]:
                del merged[other]
        if isinstance(change, Mapping):
            base = inherited if isinstance(inherited, Mapping) else {}
            if any(kind in change for kind in (*KINDS, "choice")):
                base = {"when": base["when"]} if "when" in base else {}
            change = {**base, **change}
        merged[key] = change


def _leave_out_beyond_depth(merged: Definitions, own: Mapping[str, Any], specs: list[BackboneSpec]) -> None:
    """Shipped numbers of trained blocks aren't for backbones that haven't as many. The person's `own` stay, to be
    refused."""
    name = "trained_blocks"
    for spec in specs:
        key = next((key for key in (f"{name}@{spec.name}", f"{name}@{spec.family}", name) if key in merged), name)
        definition = _mapping(merged.get(key))
        if "choice" not in definition or "choice" in _mapping(own.get(key)):
            continue
        fitting = [value for value in definition["choice"] if not isinstance(value, int) or value < spec.blocks]
        if len(fitting) < len(definition["choice"]):
            merged[f"{name}@{spec.name}"] = {**definition, "choice": fitting}


def _check_conditions(dimensions: list[AnyDimension], fixed: Point) -> list[str]:
    """A condition on what isn't asked before, or on values that don't occur, would switch a dimension off unseen."""
    problems: list[str] = []
    known: dict[str, set[Value]] = {name: {value} for name, value in fixed.items()}
    for dimension in dimensions:
        for name in dimension.when:
            if name not in known:
                if name in {d.name for d in dimensions}:
                    problems.append(
                        f'space: {dimension.key}: when: "{name}" is asked later; name what is asked before.'
                    )
                elif name not in piece("common.yaml")["dimensions"]:
                    problems.append(f'space: {dimension.key}: when: "{name}" is no dimension.{nearest(name, known)}')
        if isinstance(dimension, Choice):
            known.setdefault(dimension.name, set()).update(dimension.choices)
        else:
            known.setdefault(dimension.name, set())
    return list(dict.fromkeys(problems))


def _reachable(dimension: AnyDimension, before: list[AnyDimension], backbones: tuple[str, ...]) -> bool:
    """Whether it is ever asked: not if dimensions of its name, asked before it, leave no backbone to it."""

    def mine(d: AnyDimension) -> set[str]:
        return {str(name) for name in (d.when["backbone"].among if "backbone" in d.when else backbones)}

    left = mine(dimension)
    for earlier in before:
        if _comes_first(earlier, dimension):
            left -= mine(earlier)
    return bool(left)


def _comes_first(earlier: AnyDimension, dimension: AnyDimension) -> bool:
    """Whether, for backbones that both are for, the one is asked wherever the other would be."""

    def other(d: AnyDimension) -> set[tuple[str, Condition]]:
        return {(name, condition) for name, condition in d.when.items() if name != "backbone"}

    return earlier.name == dimension.name and other(earlier) <= other(dimension)


def _generality(scope: str) -> int:
    """Scoped dimensions stand before general ones: a condition, one backbone, a family, all."""
    if not scope:
        return 3
    return 2 if scope in pieces("backbones") else 1 if is_family_or_backbone(scope) else 0


def _scoped(changes: Mapping[str, Any], scope: str) -> Definitions:
    return {key if "@" in key else f"{key}@{scope}": change for key, change in changes.items()}


def _check_names(changes: Mapping[str, Any]) -> list[str]:
    known = set(piece("common.yaml")["dimensions"])
    scopes = {*pieces("backbones"), *table()}
    problems = []
    for key, change in changes.items():
        name, _, scope = key.partition("@")
        if name == "backbone":
            problems.append('space: backbone: leave it out; "backbones", beside "space", says which are tried.')
        elif name not in known:
            problems.append(f'space: unknown dimension "{name}".{nearest(name, known)}')
        elif scope and not is_family_or_backbone(scope) and not (isinstance(change, Mapping) and change.get("when")):
            problems.append(
                f'space: {key}: "{scope}" is no family or backbone, and there is no "when".{nearest(scope, scopes)}'
            )
    return problems


def _place(key: str, definition: Any, dimensions: list[AnyDimension], fixed: Point, specs: list[BackboneSpec]) -> None:
    """Adds one merged definition to the dimensions or to what is fixed."""
    name, _, scope = key.partition("@")
    when = {other: _condition(condition) for other, condition in _mapping(definition).get("when", {}).items()}
    if scope:
        members = tuple(s.name for s in specs if scope in (s.family, s.name))
        if members:
            when = {"backbone": Condition(among=members), **when}
        elif not when:
            return  # of a family that this search hasn't
    if definition is None:
        return
    if not isinstance(definition, Mapping):
        if isinstance(definition, list | tuple):
            raise ValueError(f"expected one value, found {definition}; write {{choice: {definition}}} to search these")
        if not isinstance(definition, bool | int | float | str):
            raise ValueError(f"expected a number or a word, found {definition}")
        if scope or when:
            dimensions.append(Choice(name=name, scope=scope, when=when, choices=(definition,)))
        else:
            fixed[name] = definition
        return
    settings = {k: v for k, v in definition.items() if k != "when"}
    kinds = [kind for kind in (*KINDS, "choice") if kind in settings]
    if len(kinds) != 1:
        raise ValueError(f"expected one of float, int, choice, found {sorted(settings)}")
    value = settings.pop(kinds[0])
    unknown = set(settings) - {"log", "default"}
    if unknown:
        raise ValueError(f'unknown key "{sorted(unknown)[0]}"; known: float, int, choice, log, default, when')
    if kinds[0] == "choice":
        if not isinstance(value, list | tuple) or not all(isinstance(v, bool | int | float | str) for v in value):
            raise ValueError(f'expected a list of numbers and words (a resolution as "896x700"), found {value}')
        choices = tuple(value)
        if len(choices) == 1 and not scope and not when:
            fixed[name] = choices[0]
        else:
            dimensions.append(Choice(name=name, scope=scope, when=when, choices=choices, **settings))
        return
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ValueError(f"expected [low, high], found {value}")
    bounds: Any = {"low": value[0], "high": value[1]}
    dimensions.append(KINDS[kinds[0]](name=name, scope=scope, when=when, **bounds, **settings))


def _mapping(definition: Any) -> Mapping[str, Any]:
    return definition if isinstance(definition, Mapping) else {}


def _condition(condition: Any) -> Condition:
    if not isinstance(condition, Mapping):
        return Condition(among=_several(condition))
    if set(condition) != {"not"}:
        raise ValueError("when: expected a value, a list of values, or {not: ...}")
    return Condition(excluding=_several(condition["not"]))


def _several(values: Any) -> tuple[Value, ...]:
    return tuple(values) if isinstance(values, list) else (values,)


def _check_values(space: Space, specs: list[BackboneSpec]) -> list[str]:
    """Values that no trial could run with: told before the search, not in the middle of it."""
    problems = []
    settings: dict[str, Any] = {
        "backbone": specs[0].name,
        "weights": "random",
        "metric": "accuracy",
        "epochs": 1,
        "seed": 0,
        "policy": "none",
    }
    for spec in specs:
        offered: list[tuple[str, Value]] = [(n, v) for n, v in space.fixed.items() if n != "backbone"]
        before: list[AnyDimension] = []
        for d in space.dimensions:
            scoped_out = "backbone" in d.when and not d.when["backbone"].holds(spec.name)
            if scoped_out or d.name == "backbone" or any(_comes_first(other, d) for other in before):
                continue
            before.append(d)
            offered += [(d.name, v) for v in (d.choices if isinstance(d, Choice) else (d.low, d.high))]
        for name, value in offered:
            whole = {"head_lr": 1e-3, "resolution": list(spec.native), **settings, name: value}
            try:
                if name == "resolution":
                    sides = parse_resolution(value)  # type: ignore[arg-type]
                    if any(side % spec.multiple_of or side <= 0 for side in sides):
                        raise ValueError(
                            f"{spec.name} needs sides that are multiples of {spec.multiple_of}, found {value}"
                        )
                if name == "feature":
                    spec.feature(str(value))
                if name == "trained_blocks" and isinstance(value, int) and value >= spec.blocks:
                    raise ValueError(
                        f"{spec.name} has {spec.blocks} blocks, found {value}; write all to train everything"
                    )
                TrialConfig.model_validate(whole)
            except (ValueError, ValidationError) as error:
                problems.append(f"space: {name}: {_reason(error)}.")
    return list(dict.fromkeys(problems))


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        given = f", found {first['input']!r}" if first["loc"] else ""  # else it is in the sentence
        return in_words(first) + given
    return str(error)
