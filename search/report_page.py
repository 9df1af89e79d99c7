"""One search, as the report's templates show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from search.ending import Ending, early_ending
from search.final_result import FinalResult, finals
from search.folder import SearchFolder, to_yaml
from search.importance import importance
from search.leaderboard import Leader, leaderboard, told_apart
from search.learnable import expected_maximum
from search.ledger import Ledger, SealedTest, Standing
from search.optimism import corrections
from search.record import State, Trial, best
from search.repeat import commands
from search.report_figures import final_figure, reliability_figures, search_figures
from search.report_words import hours
from search.shown_settings import shown_settings
from search.spent import Shared, device_seconds, shared
from search.trial_text import no_interval, state_counts, value_interval, value_text
from search.worst import WorstError, worst_errors
from spaces.config import SearchConfig
from spaces.dimensions import Value
from trainables.comparison import AgainstBest
from trainables.metrics import classes_numbered
from trainables.selection import Corrected


@dataclass(frozen=True)
class Dimension:
    """What was searched under one key of the record."""

    key: str
    range: str
    importance: float | None


@dataclass(frozen=True)
class Page:
    """One search, as the template shows it."""

    config: SearchConfig
    identity: dict[str, Any]
    metric: str
    trials: list[Trial]
    best: Trial | None
    states: dict[str, int]
    seconds: float
    """In epochs, of all trials together."""
    wall: float
    """From the first trial's start to the last thing that was written."""
    leaders: list[Leader]
    told_apart: dict[str, AgainstBest] | str
    """The best of each backbone beside the best of the others, on validation; or why that can't be told."""
    dimensions: list[Dimension]
    fixed: dict[str, Value]
    optimism: float | None
    """Expected best of as many equally good trials as are complete, in standard errors above their common value."""
    corrected: Corrected | str | None
    """The best value corrected for having been chosen, or why it can't be; None without two complete trials."""
    corrections: dict[int, Corrected | str]
    """The same of the trials that finals were made of, by their numbers."""
    importance_note: str
    figures: dict[str, Markup]
    finals: list[FinalResult]
    final_figures: dict[str, Markup]
    """Of finals with several configurations, by folder."""
    reliability: dict[tuple[str, str], Markup]
    """By a final's folder and the name of a configuration whose predictions are there."""
    standing: Standing
    """Openings of the test set that the ledger beside the search knows."""
    settings: str
    commands: list[str]
    """That repeat it, with the settings in `search.yaml`."""
    cost: float
    """Device-seconds in epochs."""
    shared: Shared
    errors: list[WorstError] | None
    """The best trial's on validation, with images; None where they weren't asked for."""
    extensions: list[dict[str, Any]]
    """What the search was extended by: trials there were, and settings with what they were and are."""
    ending: Ending | None
    """Why it ended early, if it did."""

    @property
    def device(self) -> str:
        return "accelerators" if self.config.resources.accelerators else "CPUs"

    @property
    def spent(self) -> str:
        """Epochs, and the hours in them of all workers together."""
        wanted, epochs = self.config.resources, sum(trial.done for trial in self.trials)
        seconds = self.seconds * wanted.workers
        accelerators = f"{hours(seconds * wanted.accelerators)} accelerator hours" if wanted.accelerators else ""
        return (
            f"{epochs} epochs; {accelerators or 'no accelerator'}, {hours(seconds * wanted.cpus)} CPU hours in "
            "epochs, without loading and waiting"
        )

    @property
    def sharing(self) -> str:
        """What sharing saved of the passes through frozen blocks, as far as trials left their counts."""
        of = self.shared
        if of.saved:
            return (
                f"{of.saved:.0%} of the passes of training images through frozen blocks: {of.read} read, "
                f"{of.computed} computed, in complete trials"
            )
        return "nothing: every pass through frozen blocks was computed" if of.computed else "nothing is known of it"

    @property
    def dataset(self) -> str:
        """By what it holds: its folder's name may be a patient's."""
        return f"data {self.identity['data'][:8]}"

    @property
    def random(self) -> list[str]:
        """Backbones that started from random weights."""
        return [name for name, weights in self.identity["weights"].items() if weights == "random"]

    def error(self, trial: Trial) -> float | None:
        """Standard error of a trial's value."""
        return trial.standard_error(self.config.budget.epochs)

    def ends(self, trial: Trial) -> tuple[float, float] | None:
        """Of the 95% interval of a trial's value."""
        return value_interval(trial, self.metric, self.config.budget.epochs)

    def text(self, trial: Trial) -> str:
        """A complete trial's value with its interval, or why there is none."""
        return value_text(trial, self.metric, self.config.budget.epochs)

    def why_no_interval(self, trial: Trial) -> str:
        """Of a complete trial's value, as a clause."""
        return "" if trial.value is None else no_interval(trial.value, self.error(trial), self.metric)

    @property
    def ended(self) -> list[Trial]:
        """Those that ended without a value."""
        return [t for t in self.trials if t.state.terminal and t.state is not State.COMPLETE]


def page_of(found: SearchFolder, drawn: bool, images: bool) -> Page:
    """Puts it together.

    Args:
        drawn: with figures.
        images: with the worst errors' images.

    Raises:
        Mistake: the search, a final or an image can't be read.
    """
    config, study = found.config(), found.study()
    identity, trials = study.identity, study.trials
    metric, direction = str(identity["metric"]), identity["direction"]
    frozen = study.storage.get_all_trials(study.study_id, deepcopy=False)
    distributions = {key: d for trial in frozen for key, d in trial.distributions.items() if not d.single()}
    winner = best(trials, direction)
    made = finals(found.path)
    shares, note = importance(study, frozen)
    complete = sum(t.state is State.COMPLETE for t in trials)
    of_finals = {
        int(c.report["found"]["trial"])
        for final in made
        for c in final.configurations
        if c.report["found"]["search"] == config.name
    }
    wanted = sorted({n for n in of_finals if n < len(trials)} | ({winner.number} if winner else set()))
    over = classes_numbered(config.classes_averaged, list(identity["counts"]["train"]))
    corrected = corrections(found.path, trials, direction, metric, wanted, over)
    leaders = leaderboard(trials, config.backbones, direction, identity["weights"])
    last = max((max(t.ended or 0.0, *(e.time for e in t.epochs.values()), t.started) for t in trials), default=0.0)
    return Page(
        config=config,
        identity=identity,
        metric=metric,
        trials=trials,
        best=winner,
        states=state_counts(trials),
        seconds=sum(t.seconds for t in trials),
        wall=last - min((t.started for t in trials), default=0.0),
        leaders=leaders,
        told_apart=told_apart(found.path, leaders, metric, direction, over),
        dimensions=[Dimension(key, _range(d), shares.get(key)) for key, d in distributions.items()],
        fixed=_fixed(trials, distributions),
        optimism=expected_maximum(complete) if complete > 1 else None,
        corrected=corrected.get(winner.number) if winner and complete > 1 else None,
        corrections=corrected,
        importance_note=note,
        figures=search_figures(trials, winner, config, metric, direction, distributions, shares) if drawn else {},
        finals=made,
        final_figures={f.folder: final_figure(f) for f in made if len(f.configurations) > 1} if drawn else {},
        reliability=reliability_figures(made) if drawn else {},
        standing=Ledger(found.path.parent).standing(SealedTest(identity["test"], identity.get("test_contents", ""))),
        settings=to_yaml(shown_settings(config)),
        commands=commands(config, trials, direction, made),
        cost=device_seconds(trials, config.resources),
        shared=shared(found.path, trials),
        errors=worst_errors(found, winner) if images and winner else None,
        extensions=identity.get("extensions", []),
        ending=early_ending(found.path, trials, config.budget.trials),
    )


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)  # Optuna has no others
    return f"{distribution.low:g} to {distribution.high:g}" + (" (log scale)" if distribution.log else "")


def _fixed(trials: Sequence[Trial], distributions: dict[str, BaseDistribution]) -> dict[str, Value]:
    """What every trial had without being asked."""
    asked = {key.partition("@")[0] for key in distributions}
    return {name: value for name, value in (trials[0].point if trials else {}).items() if name not in asked}
