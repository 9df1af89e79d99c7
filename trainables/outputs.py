"""What a model's outputs mean: how they are learned from, and how they become probabilities of classes.

Targets are masses: how much of each class an image counts for, [N, C] (findings: [N, L, 2], of presence and absence).
Every loss is linear in them, so that smoothing, weights of classes, masks and mixup are all done to the masses and mean
the same under each loss. A loss is a sum over images, so that its mean over a global batch can be taken wherever the
batch lies. Shapes: N images, C classes, L findings, B images of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spaces.config import TrialConfig
from trainables.data.manifest import UNCERTAIN, Task
from trainables.data.units import Units
from trainables.thresholds import cross_fitted_grades, fit_thresholds, natural_thresholds, probabilities_of_scores

EFFECTIVE = 0.999  # beta of the effective number of images (Cui et al. 2019)
SMOOTH = (0.55, 0.85)  # what an uncertain finding is learned as (Pham et al. 2021, LSR)
LIKELY = frozenset({"atelectasis", "edema"})  # findings whose uncertain mentions are commonly learned as present


class Output(nn.Module):
    """Unordered classes: a softmax. The others below differ in what they override."""

    def __init__(self, config: TrialConfig, classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        self.register_buffer("shift", torch.zeros(classes), persistent=False)

    shift: Tensor

    @property
    def width(self) -> int:
        """Numbers that the head gives for an image."""
        return self.classes

    def masses(self, labels: Tensor, names: Sequence[str]) -> Tensor:
        """Targets of the training set [N, C], from its labels, int64 [N]. Learns the classes' frequencies."""
        counts = torch.bincount(labels, minlength=self.classes).double()
        if self.config.logit_adjustment:
            self.shift.copy_(self.config.logit_adjustment * (counts / counts.sum()).log())
        smoothing = self.config.label_smoothing
        one_hot = F.one_hot(labels, self.classes).float() * (1 - smoothing) + smoothing / self.classes
        return one_hot * self._weights(counts)[labels][:, None]

    def loss(self, outputs: Tensor, masses: Tensor) -> Tensor:
        """Sum over images of `losses`."""
        return self.losses(outputs, masses).sum()

    def losses(self, outputs: Tensor, masses: Tensor) -> Tensor:
        """Of each image, [B] in fp32, from outputs [B, width] and masses [B, ...]."""
        logs = (outputs.float() + self.shift).log_softmax(dim=1)
        return -(masses * _focused(logs, self.config.focal)).sum(dim=1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Of classes, [N, C] in fp32."""
        return outputs.float().softmax(dim=1)

    def judge(self, outputs: np.ndarray, units: Units) -> np.ndarray:
        """Probabilities [N, C] of the validation set's rows, by nothing that was fitted on the rows themselves."""
        return self.probabilities(torch.from_numpy(outputs)).numpy()

    def _weights(self, counts: Tensor) -> Tensor:
        """Weights of classes [C] from their numbers of images, whose mean over images is 1."""
        if self.config.class_weights == "none":
            return torch.ones(len(counts))
        weights = 1 / counts if self.config.class_weights == "inverse" else (1 - EFFECTIVE) / (1 - EFFECTIVE**counts)
        weights[counts == 0] = 0
        return (weights * counts.sum() / (weights * counts).sum()).float()


class Grades(Output):
    """Ordered classes by CORN (Shi et al. 2023): output k says how likely grade k is passed once it is reached, so that
    the probabilities of passing grades never rise."""

    @property
    def width(self) -> int:
        return self.classes - 1

    def losses(self, outputs: Tensor, masses: Tensor) -> Tensor:
        reached = masses.flip(1).cumsum(1).flip(1)  # mass of grade k or higher
        passed, stopped = reached[:, 1:], masses[:, :-1]
        outputs = outputs.float()
        return -(passed * F.logsigmoid(outputs) + stopped * F.logsigmoid(-outputs)).sum(dim=1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        passed = F.logsigmoid(outputs.float()).cumsum(1).exp()
        ends = torch.ones_like(passed[:, :1]), torch.zeros_like(passed[:, :1])
        return torch.cat([ends[0], passed], dim=1) - torch.cat([passed, ends[1]], dim=1)


class Score(Output):
    """Ordered classes by one number, regressed on the grade; thresholds that make it a grade are fitted on validation,
    and the validation set itself is judged by thresholds from its other groups."""

    thresholds: Tensor

    def __init__(self, config: TrialConfig, classes: int) -> None:
        super().__init__(config, classes)
        self.register_buffer("thresholds", torch.from_numpy(natural_thresholds(classes)))

    @property
    def width(self) -> int:
        return 1

    def losses(self, outputs: Tensor, masses: Tensor) -> Tensor:
        grades = torch.arange(self.classes, device=outputs.device)
        return (masses * (outputs.float() - grades).square()).sum(dim=1)

    def probabilities(self, outputs: Tensor) -> Tensor:
        scores = outputs.float().cpu().numpy()[:, 0]
        return torch.from_numpy(probabilities_of_scores(scores, self.thresholds.cpu().numpy()))

    def judge(self, outputs: np.ndarray, units: Units) -> np.ndarray:
        scores, truth, groups = outputs[:, 0], units.truth[units.of_row], units.groups[units.of_row]
        self.thresholds.copy_(torch.from_numpy(fit_thresholds(scores, truth, self.classes)))
        return cross_fitted_grades(scores, truth, groups, self.classes)


class Findings(Output):
    """Findings that may occur together: a sigmoid each, learned where the label is known."""

    def masses(self, labels: Tensor, names: Sequence[str]) -> Tensor:
        """[N, L, 2] from labels float32 [N, L] with 0, 1, -1 (uncertain) and NaN (not mentioned)."""
        present = labels.clone()
        if self.config.blank == "zeros":
            present[present.isnan()] = 0
        uncertain = labels == UNCERTAIN
        present[uncertain] = self._uncertain(labels.shape, names)[uncertain]
        known = ~present.isnan()
        smoothing = self.config.label_smoothing
        present = present.nan_to_num() * (1 - smoothing) + smoothing / 2
        masses = torch.stack([present, 1 - present], dim=2) * known[:, :, None]
        if self.config.class_weights == "none":
            return masses
        counts = masses.sum(0, dtype=torch.float64)  # [L, 2]
        return masses * torch.stack([self._weights(of_finding) for of_finding in counts])

    def _uncertain(self, shape: torch.Size, names: Sequence[str]) -> Tensor:
        how = self.config.uncertain
        if how == "smooth":
            key = np.array([self.config.seed, 3 << 32], dtype=np.uint64)  # apart from order, mixup and augmentation
            low, high = SMOOTH
            drawn = np.random.Generator(np.random.Philox(key=key)).random(tuple(shape), dtype=np.float32)
            return torch.from_numpy(low + (high - low) * drawn)
        as_ = {"ignore": [float("nan")], "zeros": [0.0], "ones": [1.0]}.get(how)
        values = as_ * shape[1] if as_ else [float(name.lower() in LIKELY) for name in names]
        return torch.tensor(values).expand(shape)

    def losses(self, outputs: Tensor, masses: Tensor) -> Tensor:
        outputs = outputs.float()
        logs = torch.stack([F.logsigmoid(outputs), F.logsigmoid(-outputs)], dim=2)
        return -(masses * _focused(logs, self.config.focal)).sum(dim=(1, 2)) / self.classes

    def probabilities(self, outputs: Tensor) -> Tensor:
        return outputs.float().sigmoid()


def build_output(config: TrialConfig, classes: int, task: Task) -> Output:
    """What a trial's outputs mean.

    Raises:
        ValueError: fewer than two classes of which one is to be told, or a loss that isn't for this task.
    """
    if task == "multilabel":
        if config.loss != "cross_entropy":
            raise ValueError(f"loss: {config.loss} is for ordered grades, found findings")
        return Findings(config, classes)
    if classes < 2:
        raise ValueError(f"classes: expected at least 2, found {classes}")
    if config.loss == "cross_entropy":
        return Output(config, classes)
    if task != "ordinal":
        raise ValueError(f"loss: {config.loss} is for ordered grades, found classes without an order")
    return Grades(config, classes) if config.loss == "ordinal" else Score(config, classes)


def _focused(logs: Tensor, gamma: float) -> Tensor:
    """Log-probabilities as the focal loss weighs them (Lin et al. 2017): less where the probability is high already."""
    return logs if gamma == 0 else (1 - logs.exp()).clamp_min(0).pow(gamma) * logs
