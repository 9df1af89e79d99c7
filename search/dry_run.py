"""The configurations that a search would start with, from its real driver and sampler; nothing is run."""

from __future__ import annotations

from collections.abc import Sequence

import optuna

from search.launch import group_size
from search.plan import Plan
from search.record import Trial
from search.sampler import sampler_of
from search.scheduler import Driver
from search.study import Study


def dry_run(planned: Plan, count: int) -> list[Trial]:
    """The first `count` trials, or as many as the budget and the space have, as the driver would order them if none of
    them had told a result yet: the person's own and the shipped configurations, then the sampler's."""
    config = planned.config
    study = Study.create(optuna.storages.InMemoryStorage(), config.name, planned.direction, {})
    sampler = sampler_of(config, planned.space, planned.direction, [])
    group = group_size(planned, planned.concurrent)
    driver = Driver(config, planned.direction, study, sampler, planned.first, _numbers, group=group)
    while len(study.trials) < count and driver.next_job() is not None:
        pass
    return study.trials[:count]


def _numbers(trials: Sequence[Trial]) -> dict[str, object]:
    return {"trials": [trial.number for trial in trials]}


def line(trial: Trial) -> str:
    """One configuration for a person to read."""
    rest = ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in trial.point.items()
        if name != "backbone"
    )
    return f"{trial.number:>4} {trial.point['backbone']}: {rest} ({trial.why})"
