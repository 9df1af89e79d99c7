"""A search taken further than it was ordered: more trials, a wider space, further backbones.

What was tried stays, and the sampler learns from it, so every configuration that was tried has to lie in the new space.
The change is written into the record, with how many trials there were, before the settings of the search change: a
report shows it, and a resume goes on in the new space.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import check_distribution_compatibility

from search.folder import SETTINGS, SearchFolder, write_settings
from search.identity import flatten, identity, refuse_changes
from search.plan import plan
from search.record import Trial
from search.sampler import distribution
from search.settings import load
from search.study import JOURNAL, Study, existing_storage, only_writer, repair_journal
from spaces.config import SearchConfig
from spaces.dimensions import Space
from spaces.library import assemble
from spaces.mistakes import Mistake
from spaces.words import counted, written
from trainables.data.pixels import Progress

NOTED = ("space", "backbones", "budget")  # what an extension is, and what a report may show
SHOWN = 5  # trials that don't lie in the new space


def extend(found: SearchFolder, changes: Sequence[str], progress: Progress | None = None) -> list[str]:
    """Changes what a search is to try; a resume then goes on with it.

    Args:
        changes: as for `--set`: `budget.trials=60`, `space.head_lr={float: [1e-5, 1e-1], log: true}`,
            `backbones=[dinov2_base, mae_base]`.
        progress: of decoding images for new resolutions.

    Returns:
        What has changed, a sentence each.

    Raises:
        Mistake: a change that would make earlier trials incomparable, a configuration that was tried lies outside of
            the new space, or the search is being run.
    """
    if not changes:
        raise Mistake(
            "extend: nothing is to change; say what, such as --set budget.trials=100, or "
            '--set "space.head_lr={float: [1e-5, 1e-1], log: true}".'
        )
    with only_writer(found.path):
        before, wanted = found.config(), load(found.path / SETTINGS, changes)
        _refuse_narrower(before, wanted, found.study())
        planned = plan(wanted, found.path, going_on=True, progress=progress)
        repair_journal(found.path / JOURNAL)
        study = Study.open(existing_storage(found.path, before.study), before.name)
        now = identity(planned)
        extended = _extended(study.identity, now)
        refuse_changes(extended, now, [entry["code"] for entry in study.accepted], command="extend")
        differences = _differences(before, planned.config)
        if differences:
            noted = {key: change for key, change in differences.items() if key.split(".")[0] in NOTED}
            entry = {"time": time.time(), "trials": len(study.trials), "changes": noted}
            earlier = study.identity.get("extensions", [])
            study.redefine({**extended, "extensions": [*earlier, entry] if noted else earlier})
            write_settings(found, planned.config)
    return [f"{key}: {was} -> {is_now}" for key, (was, is_now) in differences.items()]


def _extended(recorded: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The recorded identity with the new space and backbones; all else in it stays, to be compared."""
    settings = {key: value for key, value in recorded["settings"].items() if not _may_be_wider(key)}
    settings |= {key: value for key, value in now["settings"].items() if _may_be_wider(key)}
    return {**recorded, "settings": settings, "weights": {**now["weights"], **recorded["weights"]}}


def _may_be_wider(key: str) -> bool:
    """Whether a setting says what is tried, rather than how it is trained and judged. Weights of earlier backbones are
    held by their own entry of the identity."""
    return key.split(".")[0] in ("space", "backbones", "weights")


def _differences(before: SearchConfig, after: SearchConfig) -> dict[str, list[str]]:
    """Settings that differ, by dotted names: what they were and what they are. Of the space, a range as it holds, which
    the settings themselves need not say."""
    was, is_now = flatten(before.plain() | {"space": {}}), flatten(after.plain() | {"space": {}})
    settings = {
        key: [_setting(was.get(key)), _setting(is_now.get(key))]
        for key in dict.fromkeys([*was, *is_now])
        if was.get(key) != is_now.get(key)
    }
    names = [
        key for key in dict.fromkeys([*before.space, *after.space]) if before.space.get(key) != after.space.get(key)
    ]
    of_space = _of_space(assemble(before), assemble(after), names)
    told = {key.removeprefix("space.").split("@")[0] for key in of_space}
    otherwise = {  # when a dimension is asked, which its range doesn't tell
        f"space.{key}": [_setting(before.space.get(key)), _setting(after.space.get(key))]
        for key in names
        if key.split("@")[0] not in told
    }
    return settings | of_space | otherwise


def _of_space(before: Space, after: Space, changed: Sequence[str]) -> dict[str, list[str]]:
    """What became of the dimensions that the settings define otherwise, those of one name together."""
    was, is_now = before.definitions(), after.definitions()
    names = {key.split("@")[0] for key in changed}
    return {
        f"space.{key}": [_dimension(was, key), _dimension(is_now, key)]
        for key in dict.fromkeys([*was, *is_now])
        if key.split("@")[0] in names and was.get(key) != is_now.get(key)
    }


def _setting(value: Any) -> str:
    return "not set" if value is None else written(value)


def _dimension(definitions: Mapping[str, Any], key: str) -> str:
    """Of one dimension; where others of its name stand for it, these."""
    if key in definitions:
        return written(definitions[key])
    name, _, scope = key.partition("@")
    others = [other for other in definitions if other.split("@")[0] == name]
    if scope and name in others:
        return f"as {name}"
    return f"only {', '.join(others)}" if others else "left out"


def _refuse_narrower(before: SearchConfig, after: SearchConfig, study: Study) -> None:
    """Raises:
    Mistake: fewer trials or backbones than there are, configurations that lie outside of the new space, or choices
        that the record's database can't widen.
    """
    problems = []
    space = assemble(after)
    if after.budget.trials < len(study.trials):
        problems.append(
            f"extend: budget.trials is {after.budget.trials}, but the search has {counted(len(study.trials), 'trial')} "
            "already; give a larger number."
        )
    if gone := [name for name in before.backbones if name not in after.backbones]:
        problems.append(f"extend: backbones: {', '.join(gone)} would be left out; name the earlier ones too.")
    else:
        outside = [text for trial in study.trials if (text := _outside(trial, space))]
        problems += [
            f"extend: {text}; change that, for every configuration that was tried has to lie in the new space."
            for text in outside[:SHOWN]
        ]
        if len(outside) > SHOWN:
            more = counted(len(outside) - SHOWN, "more trial")
            problems.append(f"extend: {more} outside of the new space; give it wider ranges.")
    if not problems and after.study:
        problems += _not_in_a_database(study, space)
    if problems:
        raise Mistake(*problems)


def _outside(trial: Trial, space: Space) -> str:
    """What of a trial doesn't lie in a space, as a clause; empty where all does."""
    asked = space.problems(trial.point)
    whole = space.complete(trial.point)
    missing = [name for name in whole if name not in trial.point]
    if missing:
        asked.append(f"it has no {missing[0]}, which the new space asks for")
    return f"trial {trial.number}: {asked[0]}" if asked else ""


def _not_in_a_database(study: Study, space: Space) -> list[str]:
    """Optuna's databases hold one range of choices a name; its journal, which is the default, takes any."""
    frozen = study.storage.get_all_trials(study.study_id, deepcopy=False)
    known = {key: one for trial in frozen for key, one in trial.distributions.items()}
    problems = []
    for dimension in space.dimensions:
        if dimension.key in known:
            try:
                check_distribution_compatibility(known[dimension.key], distribution(dimension))
            except ValueError:
                problems.append(
                    f"extend: {dimension.key}: the record lies in a database, in which Optuna can't add values to a "
                    "choice or change their order or a scale; start a new search with the wider space."
                )
    return problems
