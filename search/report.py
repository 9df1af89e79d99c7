"""One page of searches and their finals: a self-contained HTML file, to be read, printed and sent; or the same without
pictures as Markdown, or every trial as a CSV table.

It shows no path, no image's name and no patient: settings are shown without folders, files and columns, causes as
`search.disclosure` lets them out, and of predictions only counts are shown.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy import integrate, stats

from search import figures
from search.console import duration
from search.disclosure import public_backbone, public_cause, public_label
from search.ending import Ending, early_ending
from search.final_result import Configuration, FinalResult, finals
from search.folder import SearchFolder, to_yaml
from search.interval_text import unreliable
from search.leaderboard import Leader, leaderboard, told_apart
from search.ledger import Ledger, SealedTest, Standing
from search.optimism import corrections
from search.outputs import check_file, refuse_replacing
from search.record import State, Trial, best
from search.repeat import commands
from search.results_table import results_table
from search.spent import Shared, device_seconds, shared
from search.study import Study
from search.trial_text import (
    interval_or_why,
    no_interval,
    origin,
    state_counts,
    value_interval,
    value_text,
    what_is_trained,
)
from search.worst import WorstError, worst_errors
from spaces.config import Direction, SearchConfig
from spaces.dimensions import Value
from spaces.mistakes import Mistake
from spaces.words import counted
from trainables.comparison import AgainstBest
from trainables.files import write_text
from trainables.metrics import classes_numbered
from trainables.selection import Corrected

TEMPLATES = {".html": "report.html.j2", ".htm": "report.html.j2", ".md": "report.md.j2"}
TABLE = ".csv"
EARLIER = re.compile(r"<title>medtune: |^Made .* by medtune |\Akind,search,", re.MULTILINE)
"""In the beginning of every report, of any kind."""
SPELT = {"auroc": "AUROC", "f1": "F1", "brier": "Brier score", "ece": "calibration error"}
WITHHELD = "withheld"
IMAGE = 'src="data:image/'  # what a thumbnail begins with in the page
ENOUGH = 10  # complete trials for importance
TOP = 5  # trials that PED-ANOVA's best share should hold, as Optuna's page on it says
SEEN = 0.005  # smallest share of importance that gets a bar
SLICES = 12
FIRST_SHOWN = ("backbone", "trained_blocks", "head_lr", "backbone_lr_ratio", "level", "resolution")


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
        accelerators = f"{_hours(seconds * wanted.accelerators)} accelerator hours" if wanted.accelerators else ""
        return (
            f"{epochs} epochs; {accelerators or 'no accelerator'}, {_hours(seconds * wanted.cpus)} CPU hours in "
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


@dataclass(frozen=True)
class Cell:
    """A search's row and a backbone's column of the table over several searches."""

    leader: Leader
    test: Configuration | None


def report(searches: Sequence[SearchFolder], output: Path, images: bool = False) -> Path:
    """Writes the page, whole or not at all.

    Args:
        searches: finished or not; with several of them a table over all comes first.
        output: the file, whose suffix says what it is: .html, .md or .csv.
        images: show the worst errors on validation as thumbnails, in HTML alone.

    Returns:
        The file.

    Raises:
        Mistake: no place to write, something else than a report in that place, or a search or a final that can't be
            read.
    """
    check_file("report", output)
    kind = output.suffix.lower()
    if images and kind not in (".html", ".htm"):
        raise Mistake(f"report: --images: thumbnails stand in an .html file alone, found -o {output}; leave one out.")
    if kind not in (TABLE, *TEMPLATES):
        raise Mistake(
            f"report: -o {output}: its suffix says what is written; expected .html, .md or .csv, found "
            f'"{output.suffix}".'
        )
    refuse_replacing("report", output, "report of medtune", EARLIER)
    if kind == TABLE:
        write_text(output.absolute(), results_table(searches))
        return output
    pages = [_page(found, drawn=kind != ".md", images=images) for found in searches]
    environment = Environment(
        loader=PackageLoader("search"),
        autoescape=kind != ".md",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        value=_value, short=_short, hours=_hours, duration=duration, cause=public_cause, label=_label, words=_words,
        key=_key, sentence=_sentence, unreliable=unreliable, origin=origin, times=lambda n: counted(n, "time"),
        count_of=counted, cell=_cell, public=public_label,
    )  # fmt: skip
    environment.globals.update(what_is_trained=what_is_trained, State=State, interval_or_why=interval_or_why)
    text = environment.get_template(TEMPLATES[kind]).render(
        pages=pages,
        across=_across(pages) if len(pages) > 1 else None,
        made=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        version=metadata.version("medtune"),
    )
    write_text(output.absolute(), text)
    return output


def holds_images(page: Path) -> bool:
    """Whether a report shows images of the dataset: not where they weren't asked for, or nothing was got wrong."""
    return IMAGE in page.read_text(encoding="utf-8")


def _page(found: SearchFolder, drawn: bool, images: bool) -> Page:
    config, study = found.config(), found.study()
    identity, trials = study.identity, study.trials
    metric, direction = str(identity["metric"]), identity["direction"]
    frozen = study.storage.get_all_trials(study.study_id, deepcopy=False)
    distributions = {key: d for trial in frozen for key, d in trial.distributions.items() if not d.single()}
    winner = best(trials, direction)
    made = finals(found.path)
    shares, note = _importance(study, frozen)
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
        figures=_figures(trials, winner, config, metric, direction, distributions, shares) if drawn else {},
        finals=made,
        final_figures={f.folder: _final_figure(f) for f in made if len(f.configurations) > 1} if drawn else {},
        reliability=_reliability(made) if drawn else {},
        standing=Ledger(found.path.parent).standing(SealedTest(identity["test"], identity.get("test_contents", ""))),
        settings=to_yaml(shown_settings(config)),
        commands=commands(config, trials, direction, made),
        cost=device_seconds(trials, config.resources),
        shared=shared(found.path, trials),
        errors=worst_errors(found, winner) if images and winner else None,
        extensions=identity.get("extensions", []),
        ending=early_ending(found.path, trials, config.budget.trials),
    )


def expected_maximum(count: int) -> float:
    """Mean of the largest of that many independent standard normal numbers: what the best of equals gains by luck."""
    return float(integrate.quad(lambda x: x * count * stats.norm.pdf(x) * stats.norm.cdf(x) ** (count - 1), -9, 9)[0])


def shown_settings(config: SearchConfig) -> dict[str, Any]:
    """A search's settings without this machine's folders and addresses, and the names of files and columns."""
    plain = config.plain()
    plain.pop("storage")
    plain.pop("cache")
    plain["dataset"] |= {"root": WITHHELD, "options": _withheld(plain["dataset"]["options"])}
    weights = (
        plain["weights"] if isinstance(plain["weights"], dict) else dict.fromkeys(config.backbones, plain["weights"])
    )
    plain["weights"] = {name: own if own in ("pretrained", "random") else "a file" for name, own in weights.items()}
    plain["checkpoints"] = "an object store" if plain["checkpoints"] else "the search's folder"
    plain["study"] = "a database" if plain["study"] else "a journal in the search's folder"
    plain["mlflow"] = plain["mlflow"] if plain["mlflow"] in ("local", "off") else "a tracking server"
    return _without_paths(plain, {name for name in config.backbones if public_backbone(name) == name})


def _without_paths(data: Any, kept: Collection[str]) -> Any:
    """Settings with what looks like a path cut down to its end, but for the names that are `kept`."""
    if isinstance(data, dict):
        return {key: _without_paths(value, kept) for key, value in data.items()}
    if isinstance(data, list):
        return [_without_paths(value, kept) for value in data]
    if isinstance(data, str) and data in kept:
        return data
    if isinstance(data, str) and "://" in data:
        return "an address"
    if isinstance(data, str) and ("/" in data or "\\" in data):
        return ".../" + data.replace("\\", "/").rstrip("/").rpartition("/")[2]
    return data


def _withheld(options: dict[str, Any]) -> dict[str, Any]:
    """A reader's options with what only switches something; words may be names of files, columns or people."""
    return {key: value if isinstance(value, bool | int | float) else WITHHELD for key, value in options.items()}


def _importance(study: Study, trials: Sequence[FrozenTrial]) -> tuple[dict[str, float], str]:
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


def _figures(
    trials: Sequence[Trial],
    winner: Trial | None,
    config: SearchConfig,
    metric: str,
    direction: Direction,
    distributions: dict[str, BaseDistribution],
    shares: dict[str, float],
) -> dict[str, Markup]:
    drawn: dict[str, Markup] = {}
    look, words = figures.styles(config.backbones), _words(metric)
    if any(t.values() for t in trials):
        drawn["curves"] = Markup(figures.learning_curves(trials, winner, look, words))
        drawn["history"] = Markup(figures.history(trials, look, words, direction))
        if axes := _axes(trials, config, distributions):
            drawn["slices"] = Markup(figures.slices(trials, axes[:SLICES], look, words))
    if shares:
        seen = {_key(key): share for key, share in shares.items() if share >= SEEN}
        drawn["importance"] = Markup(figures.importance(seen))
    return drawn


def _final_figure(final: FinalResult) -> Markup:
    estimates = [(c.report["name"], c.report["test"]) for c in final.configurations]
    rows = [(name, e["value"], e["low"], e["high"]) for name, e in estimates if e["value"] is not None]
    return Markup(figures.intervals(rows, _words(final.result["metric"])))


def _reliability(made: Sequence[FinalResult]) -> dict[tuple[str, str], Markup]:
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


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return ", ".join(str(choice) for choice in distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)  # Optuna has no others
    return f"{distribution.low:g} to {distribution.high:g}" + (" (log scale)" if distribution.log else "")


def _fixed(trials: Sequence[Trial], distributions: dict[str, BaseDistribution]) -> dict[str, Value]:
    """What every trial had without being asked."""
    asked = {key.partition("@")[0] for key in distributions}
    return {name: value for name, value in (trials[0].point if trials else {}).items() if name not in asked}


def _across(pages: Sequence[Page]) -> dict[str, Any]:
    """Searches by backbones: the best value of each, and the test's where a final was made of it."""
    tests: dict[tuple[str, str, str], tuple[int, Configuration]] = {}
    for page in pages:
        for final in page.finals:
            for configuration in final.configurations:
                key = (
                    final.result["digests"]["split"],
                    configuration.report["found"]["search"],
                    configuration.report["backbone"],
                )
                opening = final.result["opening"]["opening"]
                if key not in tests or opening < tests[key][0]:  # the opening that knew least
                    tests[key] = (opening, configuration)
    columns = list(dict.fromkeys(name for page in pages for name in page.config.backbones))
    rows = []
    for page in pages:
        leaders = {leader.backbone: leader for leader in page.leaders}
        cells = [
            Cell(leaders[name], tests.get((page.identity["split"], page.config.name, name), (0, None))[1])
            if name in leaders
            else None
            for name in columns
        ]
        rows.append({"page": page, "cells": cells})
    return {"columns": columns, "rows": rows}


def _value(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4f}"


def _short(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(_short(v) for v in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f}" if hours >= 10 else f"{hours:.2g}"


def _key(key: str) -> str:
    """`layer_decay (mae)` of `layer_decay@mae`."""
    name, _, scope = key.partition("@")
    return f"{name} ({scope})" if scope else name


def _sentence(text: str) -> str:
    """Of a caveat: from its capital on, ending in a full stop. Without what looks like a path."""
    shown = re.sub(r"\S*[/\\]\S*", "...", text)
    return shown[:1].upper() + shown[1:].rstrip(".") + "."


def _cell(text: object) -> str:
    """For a table or a heading in Markdown."""
    return re.sub(r"([\\`*|<>\[\]])", r"\\\1", " ".join(str(text).split()))


def _words(name: str) -> str:
    """A metric's name for people."""
    return " ".join(SPELT.get(word, word) for word in name.split("_"))


def _label(name: str, index: int) -> str:
    """A class's name, unless it looks like a path."""
    return f"class {index}" if "/" in name or "\\" in name else name
