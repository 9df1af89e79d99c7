"""Finished models as people use them: images in; probabilities as they are, calibrated, and at frozen thresholds out.

N images or units, C classes or findings.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spaces.mistakes import Mistake
from trainables.calibration import tempered
from trainables.card import CARD, ENSEMBLE, MODEL, read_card, thresholds
from trainables.data.bad_image import BadImage
from trainables.data.manifest import Combine, Task
from trainables.data.pixels import PixelSpec, decode
from trainables.metrics import predicted
from trainables.model_folder import Trained, load_model
from trainables.prefix import BATCH

LIKELIER_THAN_NOT = 0.5  # of a finding for which no threshold was fixed
SHOWN = 10  # of images that can't be used are named; then a count


@dataclass(frozen=True)
class Predictor:
    """One model, or several whose probabilities are averaged."""

    members: tuple[Trained, ...]
    temperature: float | None
    """Fitted on validation; None where nothing was fitted for these models together."""
    thresholds: dict[str, float]
    """By class or finding, as far as the final fixed them: from this probability up (before calibration) it counts."""
    combine: Combine
    """How probabilities of a unit's images become the unit's."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.members[0].classes

    @property
    def task(self) -> Task:
        return self.members[0].task

    def probabilities(self, images: Sequence[Path | bytes], names: Sequence[str]) -> np.ndarray:
        """Probabilities float32 [N, C] of image files, or of their contents; not calibrated.

        Args:
            names: of the images, for messages.

        Raises:
            Mistake: images that can't be used, all of them together.
        """
        found: list[np.ndarray] = []
        problems: list[str] = []
        for start in range(0, len(images), BATCH):
            decoded = [
                self._decoded(image, name, problems)
                for image, name in zip(images[start : start + BATCH], names[start : start + BATCH], strict=True)
            ]
            if not problems:  # else only what else can't be used is looked for
                found.append(self._of_decoded(decoded))
        if problems:
            left = len(problems) - SHOWN
            more = [f"... and {left} more images that can't be used; take them out, too."] if left > 0 else []
            raise Mistake(*problems[:SHOWN], *more)
        return np.concatenate(found) if found else np.empty((0, len(self.classes)), np.float32)

    def calibrated(self, probabilities: np.ndarray) -> np.ndarray | None:
        """[N, C] at the temperature, where there is one."""
        if self.temperature is None:
            return None
        return tempered(probabilities, self.temperature, several=self.task == "multilabel")

    def answers(self, probabilities: np.ndarray) -> dict[str, list[Any]]:
        """Columns of N rows, as `card.answer_columns` lists them.

        What is predicted is the likeliest class; of findings all that reach their threshold, or .5 where none was
        fixed, with "; " between them.
        """
        calibrated, columns = self.calibrated(probabilities), {"predicted": self._predicted(probabilities)}
        columns |= {f"p_{name}": probabilities[:, c].tolist() for c, name in enumerate(self.classes)}
        if calibrated is not None:
            columns |= {f"calibrated_{name}": calibrated[:, c].tolist() for c, name in enumerate(self.classes)}
        for c, name in enumerate(self.classes):
            if name in self.thresholds:
                columns[f"positive_{name}"] = (probabilities[:, c] >= self.thresholds[name]).astype(int).tolist()
        return columns

    def _predicted(self, probabilities: np.ndarray) -> list[str]:
        if self.task != "multilabel":
            return [self.classes[c] for c in predicted(probabilities)]
        least = np.array([self.thresholds.get(name, LIKELIER_THAN_NOT) for name in self.classes])
        return ["; ".join(np.array(self.classes)[row].tolist()) for row in probabilities >= least]

    def _decoded(self, image: Path | bytes, name: str, problems: list[str]) -> dict[PixelSpec, np.ndarray]:
        """[3, H, W] uint8 for each of the members' ways of preparing images; nothing where it can't be used."""
        try:
            data = image.read_bytes() if isinstance(image, Path) else image
            return {spec: _three_channels(decode(io.BytesIO(data), spec)) for spec in {m.pixels for m in self.members}}
        except BadImage as error:
            problems.append(f"{name}: {error}.")
        except OSError as error:
            problems.append(f"{name}: can't be read ({error.strerror}); give this user the right to.")
        return {}

    @torch.inference_mode()
    def _of_decoded(self, decoded: list[dict[PixelSpec, np.ndarray]]) -> np.ndarray:
        of_members = []
        for member in self.members:
            batch = torch.from_numpy(np.stack([of_image[member.pixels] for of_image in decoded])).float().div_(255)
            of_members.append(member.model.output.probabilities(member.model(batch)).numpy())
        return of_members[0] if len(of_members) == 1 else np.stack(of_members).mean(axis=0)


def is_model_folder(path: Path) -> bool:
    return (path / CARD).is_file()


def load_predictor(folders: Sequence[Path]) -> Predictor:
    """The model, or ensemble, in a folder that a final wrote; of several folders, the mean of all, for which neither
    temperature nor thresholds are known.

    Raises:
        Mistake: no model there, a damaged one, or models for different tasks or classes.
    """
    cards = [read_card(folder, (MODEL, ENSEMBLE)) for folder in folders]
    first = cards[0]
    for folder, card in zip(folders[1:], cards[1:], strict=True):
        if (card["task"], card["classes"]) != (first["task"], first["classes"]):
            raise Mistake(
                f"{folder / CARD}: is for {card['task']} of {', '.join(card['classes'])}, {folders[0]} for "
                f"{first['task']} of {', '.join(first['classes'])}; give models of one task and the same classes."
            )
    members = tuple(
        member for folder, card in zip(folders, cards, strict=True) for member in load_members(folder, card)
    )
    alone = len(folders) == 1
    return Predictor(
        members=members,
        temperature=first.get("temperature") if alone else None,
        thresholds=thresholds(first) if alone else {},
        combine=first.get("combine", "mean"),
    )


def load_members(folder: Path, card: dict[str, Any]) -> list[Trained]:
    """The model in a folder, or those that its ensemble is the mean of.

    Args:
        card: of the folder, as `read_card` gives it.

    Raises:
        Mistake: a damaged one, or others than the ensemble was made with.
    """
    if card["kind"] == MODEL:
        return [load_model(folder)]
    for name, expected in card["members"].items():
        if read_card(folder / name)["digest"] != expected:
            raise Mistake(f"{folder / name}: isn't the model that the ensemble was made with; run the final anew.")
    return [load_model(folder / name) for name in card["members"]]


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    """A grey image [1, H, W] as [3, H, W], so that images of both kinds stand in one batch; exact, see Model.hidden."""
    return np.repeat(pixels, 3, axis=0) if pixels.shape[0] == 1 else pixels
