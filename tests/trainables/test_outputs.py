"""What outputs mean: masses, losses and probabilities, each against another way to compute it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from spaces.backbone import backbone
from spaces.config import TrialConfig
from trainables.data.units import Units
from trainables.mixup import mix
from trainables.outputs import Findings, Grades, Output, Score, build_output

NAMES = ("Atelectasis", "Cardiomegaly", "Edema")
NAN = float("nan")


def config(**changes: Any) -> TrialConfig:
    settings = {"weights": "random", "metric": "accuracy", "epochs": 1, "policy": "none", "head_lr": 1e-3, "seed": 0}
    native = backbone("mae_tiny").native
    return TrialConfig.model_validate({"backbone": "mae_tiny", "resolution": native, **settings, **changes})


def outputs_and_labels(classes: int, images: int = 40) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, classes, generator=generator) * 3
    return logits, torch.cat(
        [torch.arange(classes), torch.randint(0, classes, (images - classes,), generator=generator)]
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_cross_entropy_is_torchs_summed(smoothing: float) -> None:
    logits, labels = outputs_and_labels(4)
    output = build_output(config(label_smoothing=smoothing), 4, "classification")
    masses = output.masses(labels, "abcd")
    torch.testing.assert_close(masses.sum(dim=1), torch.ones(40))
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")
    torch.testing.assert_close(output.loss(logits, masses), expected)
    parts = output.loss(logits[:9], masses[:9]) + output.loss(logits[9:], masses[9:])
    torch.testing.assert_close(parts, expected)


def test_half_precision_is_summed_in_single() -> None:
    output = build_output(config(), 2, "classification")
    logits = torch.tensor([[300.0, -300.0]], dtype=torch.bfloat16)
    loss = output.loss(logits, output.masses(torch.tensor([1]), "ab"))
    assert loss.dtype == torch.float32 and loss.item() == 600


def test_focal_is_its_formula() -> None:
    logits, labels = outputs_and_labels(3)
    output = build_output(config(focal=2.0), 3, "classification")
    p = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    torch.testing.assert_close(output.loss(logits, output.masses(labels, "abc")), -((1 - p) ** 2 * p.log()).sum())


def test_logit_adjustment_adds_log_frequencies_in_training_alone() -> None:
    logits, labels = outputs_and_labels(3)
    output = build_output(config(logit_adjustment=1.0), 3, "classification")
    masses = output.masses(labels, "abc")
    frequencies = torch.bincount(labels).float() / len(labels)
    expected = F.cross_entropy(logits + frequencies.log(), labels, reduction="sum")
    torch.testing.assert_close(output.loss(logits, masses), expected)
    torch.testing.assert_close(output.probabilities(logits), logits.softmax(1))


@pytest.mark.parametrize("kind", ["inverse", "effective"])
def test_class_weights_have_mean_one_and_favour_the_rare(kind: str) -> None:
    labels = torch.tensor([0] * 90 + [1] * 9 + [2])
    masses = build_output(config(class_weights=kind), 3, "classification").masses(labels, "abc")
    weights = masses.sum(1)
    assert weights.mean().item() == pytest.approx(1, rel=1e-5)
    if kind == "inverse":
        by_class = [weights[labels == c].sum().item() for c in range(3)]
        assert by_class == pytest.approx([100 / 3] * 3, rel=1e-5)
    else:
        effective = [(1 - 0.999**n) / 0.001 for n in (90, 1)]
        assert (weights[-1] / weights[0]).item() == pytest.approx(effective[0] / effective[1], rel=1e-4)


@pytest.mark.parametrize("loss", ["ordinal", "regression"])
def test_class_weights_act_on_the_losses_of_grades(loss: str) -> None:
    labels = torch.tensor([0] * 8 + [1] * 2)
    plain, weighted = (
        build_output(config(loss=loss, class_weights=kind), 2, "ordinal") for kind in ("none", "inverse")
    )
    outputs = torch.randn(10, plain.width)
    alone = plain.losses(outputs, plain.masses(labels, "ab"))
    found = weighted.losses(outputs, weighted.masses(labels, "ab"))
    torch.testing.assert_close(found, alone * torch.tensor([0.625] * 8 + [2.5] * 2))


def test_corn_learns_conditional_passing() -> None:
    outputs, labels = torch.randn(30, 4), torch.randint(0, 5, (30,))
    output = build_output(config(loss="ordinal"), 5, "ordinal")
    assert isinstance(output, Grades) and output.width == 4
    expected = torch.zeros(())
    for k in range(4):  # task k: of the images of grade k or more, which are of a higher one
        reached = labels >= k
        wanted = (labels[reached] > k).float()
        expected = expected + F.binary_cross_entropy_with_logits(outputs[reached, k], wanted, reduction="sum")
    torch.testing.assert_close(output.loss(outputs, output.masses(labels, "abcde")), expected)
    probabilities = output.probabilities(outputs)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(30))
    assert (probabilities >= 0).all()
    passed = outputs.sigmoid().cumprod(1)
    torch.testing.assert_close(probabilities[:, -1], passed[:, -1])


def test_regression_learns_grades_and_fits_thresholds_apart_from_what_is_judged() -> None:
    output = build_output(config(loss="regression"), 4, "ordinal")
    assert isinstance(output, Score) and output.width == 1
    scores = torch.tensor([[0.2], [2.9]])
    loss = output.loss(scores, output.masses(torch.tensor([1, 3]), "abcd"))
    torch.testing.assert_close(loss, torch.tensor(0.8**2 + 0.1**2))
    truth = np.repeat(np.arange(4), 50)
    noise = np.random.default_rng(0).normal(0, 0.05, 200)
    units = Units(np.arange(200), truth, np.arange(200).astype(str), "mean", {})
    shrunk = (truth * 0.5 + 1 + noise).astype(np.float32)[:, None]  # 1, 1.5, 2, 2.5: natural thresholds are wrong
    before = output.probabilities(torch.from_numpy(shrunk)).numpy().argmax(1)
    judged = output.judge(shrunk, units).argmax(1)
    after = output.probabilities(torch.from_numpy(shrunk)).numpy().argmax(1)
    assert (before == truth).mean() < 0.8 and (judged == truth).mean() > 0.95 and (after == truth).mean() > 0.95
    assert "thresholds" in output.state_dict(), "a finished model keeps what was fitted"


def test_findings_are_learned_where_known() -> None:
    logits = torch.randn(3, 3)
    labels = torch.tensor([[1, 0, NAN], [0, -1, 1], [-1, 1, -1.0]])
    output = build_output(config(uncertain="ignore", blank="ignore"), 3, "multilabel")
    assert isinstance(output, Findings)
    known = ~labels.isnan() & (labels != -1)
    expected = F.binary_cross_entropy_with_logits(logits[known], labels[known], reduction="sum") / 3
    torch.testing.assert_close(output.loss(logits, output.masses(labels, NAMES)), expected)
    torch.testing.assert_close(output.probabilities(logits), logits.sigmoid())


@pytest.mark.parametrize(
    ("uncertain", "blank", "present"),
    [
        ("zeros", "zeros", [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        ("ones", "zeros", [[1, 0, 0], [0, 1, 1], [1, 1, 1]]),
        ("mixed", "zeros", [[1, 0, 0], [0, 0, 1], [1, 1, 1]]),
    ],
)
def test_policies_of_uncertain_labels(uncertain: str, blank: str, present: list[list[int]]) -> None:
    labels = torch.tensor([[1, 0, NAN], [0, -1, 1], [-1, 1, -1.0]])
    masses = build_output(config(uncertain=uncertain, blank=blank), 3, "multilabel").masses(labels, NAMES)
    assert masses[:, :, 0].tolist() == present
    torch.testing.assert_close(masses.sum(2), torch.ones(3, 3))


def test_smoothed_uncertain_labels_follow_from_the_seed() -> None:
    labels = torch.full((500, 3), -1.0)
    first, again, other = (
        build_output(config(uncertain="smooth", seed=seed), 3, "multilabel").masses(labels, NAMES)[:, :, 0]
        for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert 0.55 <= first.min() < 0.56 and 0.84 < first.max() <= 0.85


def test_mixing_masses_is_mixing_losses() -> None:
    labels = torch.tensor([[1, NAN, 0], [0, 1, -1.0]])
    logits, share = torch.randn(2, 3), torch.tensor([0.7, 0.6])
    output = build_output(config(uncertain="ignore", blank="ignore"), 3, "multilabel")
    masses = output.masses(labels, NAMES)
    own = torch.stack([output.loss(logits[i : i + 1], masses[i : i + 1]) for i in range(2)])
    others = torch.stack([output.loss(logits[i : i + 1], masses[1 - i : 2 - i]) for i in range(2)])
    torch.testing.assert_close(output.loss(logits, mix(masses, share)), (share * own + (1 - share) * others).sum())


def test_what_is_not_for_a_task_is_refused() -> None:
    with pytest.raises(ValueError, match="ordered grades, found classes"):
        build_output(config(loss="ordinal"), 3, "classification")
    with pytest.raises(ValueError, match="ordered grades, found findings"):
        build_output(config(loss="regression"), 3, "multilabel")
    with pytest.raises(ValueError, match="at least 2"):
        build_output(config(), 1, "classification")
    assert type(build_output(config(), 1, "multilabel")) is Findings
    assert type(build_output(config(), 2, "ordinal")) is Output
