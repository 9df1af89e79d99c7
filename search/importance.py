"""Which dimensions of a search decided how good its trials were."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial

from search.study import Study

ENOUGH = 10  # complete trials for importance
TOP = 5  # trials that PED-ANOVA's best share should hold, as Optuna's page on it says


def importance(study: Study, trials: Sequence[FrozenTrial]) -> tuple[dict[str, float], str]:
    """Shares of importance by key, the largest first, and how they were computed or why they weren't."""
    values = [t.value for t in trials if t.state is TrialState.COMPLETE]
    if len(values) < ENOUGH:
        return {}, f"{len(values)} complete trials are too few to tell; at least {ENOUGH} are needed."
    if len(set(values)) == 1:
        return {}, "All complete trials have the same value, so that nothing can be told."
    share = max(0.1, TOP / len(values))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        shares = get_param_importances(
            _in_one_space(study, trials),
            evaluator=PedAnovaImportanceEvaluator(target_quantile=share),
        )
    if not shares or not np.isfinite(list(shares.values())).all() or not max(shares.values()):
        return {}, "Optuna finds no dimension that makes a difference among the complete trials."
    return shares, (
        f"PED-ANOVA (Watanabe et al. 2023) by Optuna: how much each dimension decides whether one of the "
        f"{len(values)} complete trials is among the best {share:.0%}. Trials that were stopped early don't count, a "
        "dimension that was asked of few trials is underrated, and with few trials the order is rough."
    )


def _in_one_space(study: Study, trials: Sequence[FrozenTrial]) -> optuna.Study:
    """The study with one distribution a key, the latest: Optuna leaves a dimension out whose range was widened."""
    latest = {key: d for trial in trials for key, d in trial.distributions.items()}
    memory = optuna.create_study(direction=study.identity["direction"])
    for trial in trials:
        if trial.state is TrialState.COMPLETE:
            distributions = {key: latest[key] for key in trial.params}
            memory.add_trial(create_trial(params=trial.params, distributions=distributions, value=trial.value))
    return memory
