"""Pictures of one trial on its validation set, for MLflow: confusion matrix, ROC curves, reliability. Counts and rates,
no image, and only such names of classes as may leave this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix, roc_curve

from search.disclosure import public_label
from search.figures import GREY, PALETTE
from trainables.metrics import against_rest, predicted, reliability
from trainables.predictions import Predictions

LONGEST_LEGEND = 20  # classes
STYLES = ("-", "--", "-.", ":")  # of lines, one after the other when the colours are used up
DPI = 110


def draw_curves(folder: Path, predictions: Predictions, names: Sequence[str], title: str) -> list[Path]:
    """Writes PNG files into a folder; of findings no confusion matrix, since several may occur at once.

    Args:
        names: of the C classes or findings.
        title: what they are of.
    """
    shown = [public_label(name) for name in names]
    drawn: dict[str, Callable[[Axes], None]] = {
        "roc": lambda axes: _roc(axes, predictions, shown),
        "reliability": lambda axes: _reliability(axes, predictions),
    }
    if predictions.truth.ndim == 1:
        drawn["confusion_matrix"] = lambda axes: _confusion(axes, predictions, shown)
    files = []
    for name, draw in drawn.items():
        side = min(14.0, 5.5 + (0.25 * len(shown) if name == "confusion_matrix" else 0))
        figure = Figure(figsize=(side + 1.5, side), layout="constrained")
        axes = figure.add_subplot()
        axes.set_title(title, loc="left", fontsize=10)
        draw(axes)
        files.append(folder / f"{name}.png")
        figure.savefig(files[-1], dpi=DPI, metadata={"Software": None})
    return files


def _confusion(axes: Axes, predictions: Predictions, names: Sequence[str]) -> None:
    """Units by true class (rows) and predicted class; the colour is the share of the row."""
    counts = confusion_matrix(predictions.truth, predicted(predictions.probabilities), labels=range(len(names)))
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts):
        colour = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="predicted", ylabel="true")


def _roc(axes: Axes, predictions: Predictions, names: Sequence[str]) -> None:
    """Each class against the rest (of two, the second alone), or each finding; one that lacks positives or negatives
    has no curve."""
    several = predictions.truth.ndim == 2
    for c in range(1 if len(names) == 2 and not several else 0, len(names)):
        positive, scores = against_rest(predictions.truth, predictions.probabilities, c)
        if 0 < positive.sum() < len(positive):
            false_positive, sensitivity, _ = roc_curve(positive, scores)
            colour, style = PALETTE[c % len(PALETTE)], STYLES[c // len(PALETTE) % len(STYLES)]
            axes.plot(false_positive, sensitivity, color=colour, ls=style, lw=1.4, label=names[c])
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
    axes.set(xlabel="1 - specificity", ylabel="sensitivity", aspect="equal", xlim=(0, 1), ylim=(0, 1.01))
    if axes.get_legend_handles_labels()[0] and len(names) <= LONGEST_LEGEND:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, fontsize=8)


def _reliability(axes: Axes, predictions: Predictions) -> None:
    """How often what is predicted is right, by the probability that it is given; of findings, all of them together."""
    found = reliability(predictions.truth, predictions.probabilities)
    axes.plot([0, 1], [0, 1], color=GREY, lw=0.8, ls=":")
    axes.plot(found.confidence, found.share, "o-", color=PALETTE[0], lw=1.4, ms=5)
    axes.set(xlabel="probability", ylabel="share that is right", aspect="equal", xlim=(0, 1), ylim=(0, 1.01))
