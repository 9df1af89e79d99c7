"""A report's figures, drawn by matplotlib as inline SVG: no script, no font and no file from elsewhere.

Backbones have a colour of the Okabe-Ito palette (Okabe and Ito 2008) and a marker each, so that neither a printer nor
colour-blind eyes lose what is said. States are told by the shape of a mark.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

from search.record import State, Trial
from spaces.config import Direction
from spaces.dimensions import Value
from trainables.metrics import Reliability

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "*", "h")
GREY = "#767676"
WIDTH = 9.6  # inches; the page's column
COLUMNS = 3  # of slices
GOLDEN = 0.618034  # spreads marks of one category evenly, the same at each drawing


@dataclass(frozen=True)
class Style:
    """How a backbone is drawn."""

    color: str
    marker: str


@dataclass(frozen=True)
class Axis:
    """A dimension to draw values against."""

    name: str
    log: bool
    categories: tuple[str, ...]
    """In order; empty for numbers."""


def styles(backbones: Sequence[str]) -> dict[str, Style]:
    """A colour and a marker for each backbone; after eight of them the pairs differ, not the colours."""
    count = len(PALETTE)
    return {name: Style(PALETTE[i % count], MARKERS[(i + i // count) % count]) for i, name in enumerate(backbones)}


def learning_curves(trials: Sequence[Trial], winner: Trial | None, look: Mapping[str, Style], metric: str) -> str:
    """The metric after each epoch: every trial thin, the best one bold, a mark where one was stopped or failed."""
    with _figure(WIDTH, 3.9) as figure:
        axes = figure.add_subplot()
        for trial in trials:
            defined = trial.values()
            if not defined:
                continue
            style, bold = look[str(trial.point["backbone"])], winner is not None and trial.number == winner.number
            epochs = sorted(trial.epochs)
            values = [_number(trial.epochs[e].value) for e in epochs]
            width, alpha, order = (3.0, 1.0, 4) if bold else (0.9, 0.55, 2)
            axes.plot(epochs, values, color=style.color, lw=width, alpha=alpha, zorder=order)
            if bold:
                every = max(1, len(epochs) // 10)
                axes.plot(epochs, values, style.marker, color=style.color, ms=6, mec="white", zorder=5, markevery=every)
            elif trial.state is State.COMPLETE:  # for eyes and printers without colour
                axes.plot(epochs[-1], values[-1], style.marker, color=style.color, ms=4, mec="white", mew=0.4, zorder=3)
            else:
                axes.plot(epochs[-1], defined[-1], **_end_mark(trial.state), zorder=3)
        axes.set(xlabel="epoch", ylabel=f"{metric}, validation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        extra = [] if winner is None else [Line2D([], [], color="#333333", lw=3, label=f"best: trial {winner.number}")]
        _legend(axes, [*_lines(look), *extra, *_ends(trials)])
        return _svg(figure, f"Learning curves: {metric} on validation against the epoch, one line a trial.")


def history(trials: Sequence[Trial], look: Mapping[str, Style], metric: str, direction: Direction) -> str:
    """The value of each complete trial in the order of the search, and the best so far."""
    choose = max if direction == "maximize" else min
    with _figure(WIDTH, 3.0) as figure:
        axes = figure.add_subplot()
        numbers: list[int] = []
        so_far: list[float] = []
        for trial in trials:
            if trial.state is State.COMPLETE and trial.value is not None:
                style = look[str(trial.point["backbone"])]
                axes.plot(
                    trial.number, trial.value, style.marker, color=style.color, ms=6, mec="white", mew=0.5, zorder=3
                )
                numbers.append(trial.number)
                so_far.append(choose([*so_far[-1:], trial.value]))
            elif trial.values():
                axes.plot(trial.number, trial.values()[-1], **_end_mark(trial.state), zorder=2)
        if numbers:
            last = [max(t.number for t in trials), so_far[-1]]
            axes.plot(
                [*numbers, last[0]], [*so_far, last[1]], drawstyle="steps-post", color="#333333", lw=1.2, zorder=1
            )
        axes.set(xlabel="trial", ylabel=f"{metric}, validation")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        best = Line2D([], [], color="#333333", lw=1.2, label="best so far")
        _legend(axes, [*_marks(look), best, *_ends(trials)])
        return _svg(figure, f"{metric} on validation against the number of the trial, with the best so far.")


def slices(trials: Sequence[Trial], axes_wanted: Sequence[Axis], look: Mapping[str, Style], metric: str) -> str:
    """The value of complete trials, and grey the last one of those that were stopped, against each dimension."""
    rows = math.ceil(len(axes_wanted) / COLUMNS)
    shown = [t for t in trials if t.values()]
    with _figure(WIDTH, 2.5 * rows + 0.5) as figure:
        first: Axes | None = None
        for index, dimension in enumerate(axes_wanted):
            axes = figure.add_subplot(rows, COLUMNS, index + 1, sharey=first)
            first = first or axes
            places = {category: i for i, category in enumerate(dimension.categories)}
            for trial in shown:
                value = trial.point.get(dimension.name)
                if value is None:
                    continue
                x = _place(value, trial.number, places)
                if trial.state is State.COMPLETE and trial.value is not None:
                    style = look[str(trial.point["backbone"])]
                    axes.plot(x, trial.value, style.marker, color=style.color, ms=5, mec="white", mew=0.4, zorder=3)
                else:
                    axes.plot(x, trial.values()[-1], **{**_end_mark(trial.state), "ms": 3.5}, zorder=2)
            _scale(axes, dimension)
            axes.set_title(dimension.name, fontsize=10, loc="left", fontweight="bold")
            if index % COLUMNS == 0:
                axes.set_ylabel(metric)
            else:
                axes.tick_params(labelleft=False)
        figure.legend(
            handles=[*_marks(look), *_ends(trials)], loc="outside upper center", ncols=6, frameon=False, fontsize=9
        )
        return _svg(figure, f"{metric} on validation against each searched dimension, one mark a trial.")


def importance(shares: Mapping[str, float]) -> str:
    """Bars of how much each dimension mattered, the most important first. Shares in [0, 1]."""
    names = list(shares)
    with _figure(WIDTH * 0.75, 0.27 * len(names) + 0.7) as figure:
        axes = figure.add_subplot()
        axes.barh(names, list(shares.values()), color=PALETTE[0], height=0.65)
        for row, share in enumerate(shares.values()):
            axes.text(share, row, f" {share:.2f}", va="center", fontsize=9)
        axes.invert_yaxis()
        axes.set(xlabel="share of importance", xlim=(0, max(shares.values()) * 1.12))
        axes.grid(axis="y", visible=False)
        return _svg(figure, "Importance of each searched dimension, as bars.")


def intervals(rows: Sequence[tuple[str, float, float | None, float | None]], metric: str) -> str:
    """Estimates with their intervals, a row each: (label, value, low, high). A hollow mark has no interval."""
    with _figure(WIDTH * 0.75, 0.36 * len(rows) + 0.75) as figure:
        axes = figure.add_subplot()
        for row, (_, value, low, high) in enumerate(rows):
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color=PALETTE[0], lw=2, marker="|", ms=9, mew=2)
            face = PALETTE[0] if low is not None else "white"
            axes.plot(value, row, "o", color=PALETTE[0], mfc=face, ms=7)
        axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"{metric}, test")
        return _svg(figure, f"{metric} on the test set with its interval, a row for each configuration.")


def reliability(before: Reliability, after: Reliability | None, temperature: float | None) -> str:
    """How often what is predicted is so, by the probability that it is given; before and after a temperature."""
    with _figure(WIDTH * 0.5, WIDTH * 0.48) as figure:
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color=GREY, lw=0.9, ls=":")
        axes.plot(
            before.confidence, before.share, "o-", color=PALETTE[0], mfc="white", lw=1.2, ms=5, label="as they are"
        )
        if after is not None and temperature is not None:
            label = f"at temperature {temperature:.3g}"
            axes.plot(after.confidence, after.share, "s--", color=PALETTE[1], lw=1.2, ms=5, label=label)
        axes.set(xlabel="probability given", ylabel="share that is so", xlim=(0, 1.01), ylim=(0, 1.01), aspect="equal")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)  # curves may be anywhere inside
        return _svg(figure, "How often what is predicted is so, by the probability it is given, on the test set.")


@contextmanager
def _figure(width: float, height: float) -> Iterator[Figure]:
    """A figure of that many inches, under settings that don't depend on the user's own."""
    settings = {
        **matplotlib.rcParamsDefault,
        "backend": matplotlib.get_backend(),
        "svg.fonttype": "none",  # text stays text: to be searched, and in the reader's fonts, whatever the script
        "svg.hashsalt": "medtune",
        "text.parse_math": False,
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e4e4e4",
        "grid.linewidth": 0.7,
    }
    with warnings.catch_warnings(), matplotlib.rc_context(settings):
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts have it
        yield Figure(figsize=(width, height), layout="constrained")


def _svg(figure: Figure, says: str) -> str:
    """The figure as an `<svg>` element, with `says` for those who can't see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    return text.replace("<svg", f'<svg role="img" aria-label="{escape(says)}"', 1)


def _number(value: float | None) -> float:
    """For matplotlib, which leaves a gap where a value isn't defined."""
    return math.nan if value is None else value


def _end_mark(state: State) -> dict[str, Any]:
    if state is State.PRUNED:
        return {"marker": "x", "color": GREY, "ms": 5, "mew": 1.1, "ls": "none"}
    if state is State.RUNNING:
        return {"marker": ">", "color": GREY, "mfc": "none", "ms": 5, "ls": "none"}
    return {"marker": "o", "color": "#000000", "mfc": "none", "ms": 6, "ls": "none"}


def _ends(trials: Sequence[Trial]) -> list[Line2D]:
    """Legend of the states that occur besides complete, one a shape."""
    words = {
        State.PRUNED: "stopped early",
        State.RUNNING: "unfinished",
        State.FAILED: "failed, infeasible or cancelled",
        State.INFEASIBLE: "failed, infeasible or cancelled",
        State.CANCELLED: "failed, infeasible or cancelled",
    }
    found = {words[t.state]: t.state for t in trials if t.values() and t.state in words}
    return [Line2D([], [], label=label, **_end_mark(state)) for label, state in found.items()]


def _lines(look: Mapping[str, Style]) -> list[Line2D]:
    return [Line2D([], [], color=s.color, marker=s.marker, lw=1.2, ms=6, label=name) for name, s in look.items()]


def _marks(look: Mapping[str, Style]) -> list[Line2D]:
    return [Line2D([], [], color=s.color, marker=s.marker, ls="none", ms=6, label=name) for name, s in look.items()]


def _legend(axes: Axes, handles: list[Line2D]) -> None:
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.005, 1), frameon=False, fontsize=9)


def _place(value: Value, number: int, places: Mapping[str, int]) -> float:
    """Where a trial's mark stands: numbers as they are, categories spread within their column."""
    if not places:
        return float(value)
    return places[str(value)] + ((number * GOLDEN) % 1 - 0.5) * 0.5


def _scale(axes: Axes, dimension: Axis) -> None:
    if dimension.categories:
        many = len(dimension.categories) > 4 or sum(map(len, dimension.categories)) > 24
        axes.set_xticks(
            range(len(dimension.categories)),
            dimension.categories,
            rotation=30 if many else 0,
            ha="right" if many else "center",
        )
        axes.set_xlim(-0.5, len(dimension.categories) - 0.5)
        axes.grid(axis="x", visible=False)
    elif dimension.log:
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0e}".replace("e-0", "e-").replace("e+0", "e")))
        # Within a decade there is hardly a power of ten to label.
        minor = FuncFormatter(lambda x, _: f"{x:g}" if round(x / 10 ** math.floor(math.log10(x))) in (2, 5) else "")
        axes.xaxis.set_minor_formatter(minor if high < 20 * low else NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
