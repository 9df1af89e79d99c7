"""What a trial was surest of and wrong about on validation, with its images, for a report that asks for them.

Validation, not test: whoever looks at the test's errors and changes something after that has learned from the test.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from search.folder import SearchFolder
from search.record import Trial
from spaces.mistakes import Mistake
from trainables.data.contents import content_hash
from trainables.data.images import BadImage, open_image
from trainables.data.manifest import Manifest
from trainables.data.prepared import Prepared
from trainables.data.units import units_of
from trainables.predictions import Predictions
from trainables.trial_files import PREDICTIONS, trial_folder

COUNT = 12
OF_ONE = 4  # images of a unit that are shown
SIDE = 144  # pixels of a thumbnail's longer side


@dataclass(frozen=True)
class WorstError:
    """One of them. It holds images of a patient, but neither names nor numbers of theirs."""

    images: tuple[str, ...]
    """As data URIs."""
    more: int
    """Images of the unit that aren't shown."""
    truth: int
    """Number of the class; of findings, of the finding that was got wrong."""
    said: int
    """Number of the class that was predicted; of findings the same finding."""
    probability: float
    """Of what is so: of the true class, or that the finding is as it is."""
    present: bool | None
    """Whether the finding is there; None where there are classes."""


def worst_errors(found: SearchFolder, trial: Trial, count: int = COUNT) -> list[WorstError]:
    """The errors of a complete trial on validation, the least probable truth first.

    Raises:
        Mistake: predictions or images aren't there any more.
    """
    prepared = found.prepared()
    try:
        kept = Predictions.load(trial_folder(found.path, trial.number) / PREDICTIONS)
    except (OSError, ValueError):
        raise Mistake(
            f"report: --images: the validation predictions of trial {trial.number}, the best, are missing or damaged; "
            "leave --images out."
        ) from None
    rows = list(_rows(prepared))
    if len(rows) != len(kept.truth):
        raise Mistake(
            f"report: --images: trial {trial.number} has predictions of {len(kept.truth)} units, but the search's data "
            f"has {len(rows)} on validation; leave --images out."
        )
    return [
        WorstError(*_shown(prepared.manifest, rows[unit]), truth, said, probability, present)
        for unit, truth, said, probability, present in _ranked(kept)[:count]
    ]


def _rows(prepared: Prepared) -> Iterator[np.ndarray]:
    """The manifest's rows of each unit, in the order of predictions: fold by fold."""
    for _, validation in prepared.folds:
        units = units_of(prepared.manifest.take(validation))
        for unit in range(len(units)):
            yield validation[units.of_row == unit]


def _ranked(kept: Predictions) -> list[tuple[int, int, int, float, bool | None]]:
    """Unit, truth, said, probability of the truth and, of findings, whether it is there; of those that are wrong."""
    p, truth = kept.probabilities, kept.truth
    if truth.ndim == 1:
        of_truth, said = p[np.arange(len(truth)), truth], p.argmax(axis=1)
        wrong = np.flatnonzero(said != truth)
        order = wrong[np.argsort(of_truth[wrong], kind="stable")]
        return [(int(u), int(truth[u]), int(said[u]), float(of_truth[u]), None) for u in order]
    right = np.where(truth == 1, p, 1 - p)
    units, findings = np.nonzero(~np.isnan(truth) & (right < 0.5))
    order = np.argsort(right[units, findings], kind="stable")
    return [
        (int(u), int(f), int(f), float(right[u, f]), bool(truth[u, f] == 1))
        for u, f in zip(units[order], findings[order], strict=True)
    ]


def _shown(manifest: Manifest, rows: np.ndarray) -> tuple[tuple[str, ...], int]:
    images = tuple(_thumbnail(manifest.root / str(manifest.paths[r]), str(manifest.contents[r])) for r in rows[:OF_ONE])
    return images, max(0, len(rows) - OF_ONE)


def _thumbnail(path: Path, contents: str) -> str:
    """A small PNG as a data URI, of the pixels alone: what a file says besides stays in it.

    Raises:
        Mistake: the image isn't the one that the search saw.
    """
    try:
        data = path.read_bytes()
        if content_hash(data) != contents:
            raise Mistake("report: --images: an image has changed since the search; leave --images out.")
        image = open_image(io.BytesIO(data), (SIDE, SIDE))
    except (OSError, BadImage):
        raise Mistake(
            "report: --images: an image of the search can't be read any more; make the dataset's folder readable, or "
            "leave --images out."
        ) from None
    plain = Image.fromarray(np.asarray(image))
    factor = SIDE / max(plain.size)
    size = max(1, round(plain.width * factor)), max(1, round(plain.height * factor))
    plain = plain.resize(size, Image.Resampling.BICUBIC if factor < 1 else Image.Resampling.NEAREST)
    stream = io.BytesIO()
    plain.save(stream, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
