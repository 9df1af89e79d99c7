"""What a report draws of a search and its finals, as SVG to stand in the page."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from optuna.distributions import BaseDistribution, CategoricalDistribution

from search import figures, report_words
from search.final_result import FinalResult
from search.record import Trial
from spaces.config import Direction, SearchConfig
from spaces.dimensions import Value

SEEN = 0.005  # smallest share of importance that gets a bar
SLICES = 12
FIRST_SHOWN = ("backbone", "trained_blocks", "head_lr", "backbone_lr_ratio", "level", "resolution")


def search_figures(
    trials: Sequence[Trial],
    winner: Trial | None,
    config: SearchConfig,
    metric: str,
    direction: Direction,
    distributions: dict[str, BaseDistribution],
    shares: dict[str, float],
) -> dict[str, Markup]:
    """By name: learning curves, history, slices, importance, as far as there is something to draw.

    Args:
        distributions: what was searched, by the record's keys.
        shares: of importance, by the same keys.
    """
    drawn: dict[str, Markup] = {}
    look, words = figures.styles(config.backbones), report_words.words(metric)
    if any(t.values() for t in trials):
        drawn["curves"] = Markup(figures.learning_curves(trials, winner, look, words))
        drawn["history"] = Markup(figures.history(trials, look, words, direction))
        if axes := _axes(trials, config, distributions):
            drawn["slices"] = Markup(figures.slices(trials, axes[:SLICES], look, words))
    if shares:
        seen = {report_words.key(key): share for key, share in shares.items() if share >= SEEN}
        drawn["importance"] = Markup(figures.importance(seen))
    return drawn


def final_figure(final: FinalResult) -> Markup:
    """The intervals on the test set of a final's configurations."""
    estimates = [(c.report["name"], c.report["test"]) for c in final.configurations]
    rows = [(name, e["value"], e["low"], e["high"]) for name, e in estimates if e["value"] is not None]
    return Markup(figures.intervals(rows, report_words.words(final.result["metric"])))


def reliability_figures(made: Sequence[FinalResult]) -> dict[tuple[str, str], Markup]:
    """How often what is predicted is so, by a final's folder and the name of a configuration with predictions there."""
    drawn = {}
    for final in made:
        for c in final.configurations:
            if c.as_they_are is not None:
                temperature = c.report["calibration"]["temperature"] if c.calibrated else None
                svg = figures.reliability(c.as_they_are, c.calibrated, temperature)
                drawn[final.folder, c.report["name"]] = Markup(svg)
    return drawn


def _axes(
    trials: Sequence[Trial], config: SearchConfig, distributions: dict[str, BaseDistribution]
) -> list[figures.Axis]:
    """A dimension of each name that took more than one value, the main ones first."""
    found = []
    for name in dict.fromkeys([*FIRST_SHOWN, *(key.partition("@")[0] for key in distributions)]):
        mine = [d for key, d in distributions.items() if key.partition("@")[0] == name]
        values = {t.point[name] for t in trials if name in t.point}
        if not mine or len(values) < 2:
            continue
        categories: tuple[str, ...] = ()
        if any(isinstance(d, CategoricalDistribution) for d in mine):
            order = list(config.backbones) if name == "backbone" else sorted(values, key=_numbers_first)
            categories = tuple(str(v) for v in order if v in values)
        found.append(figures.Axis(name, any(getattr(d, "log", False) for d in mine), categories))
    return found


def _numbers_first(value: Value) -> tuple[bool, float, str]:
    number = isinstance(value, int | float)
    return (not number, float(value) if number else 0.0, str(value))
