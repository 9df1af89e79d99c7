"""Mixup at the freeze boundary."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from spaces.backbone import backbone
from spaces.config import TrialConfig
from trainables.mixup import MixedForward, Mixup, mix
from trainables.model import build_model


def config(name: str = "mae_tiny", **changes: Any) -> TrialConfig:
    settings = {"weights": "random", "metric": "accuracy", "epochs": 1, "policy": "none", "head_lr": 1e-3, "seed": 0}
    return TrialConfig.model_validate({"backbone": name, "resolution": backbone(name).native, **settings, **changes})


def test_shares_are_a_function_of_seed_and_epoch() -> None:
    mixup = Mixup(config(mixup=0.2))
    shares = mixup.shares(3, 200)
    assert shares is not None and shares.dtype == torch.float32 and shares.shape == (200,)
    assert torch.equal(shares, Mixup(config(mixup=0.2)).shares(3, 200))
    assert not torch.equal(shares, mixup.shares(4, 200))
    assert not torch.equal(shares, Mixup(config(mixup=0.2, seed=1)).shares(3, 200))
    assert Mixup(config(mixup=0.0)).shares(3, 200) is None


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_shares_are_the_larger_of_a_beta_draw_and_its_rest(alpha: float) -> None:
    shares = Mixup(config(mixup=alpha)).shares(0, 4000)
    assert shares is not None and shares.min() >= 0.5 and shares.max() <= 1
    beta = stats.beta(alpha, alpha)
    for point in (0.55, 0.6, 0.7, 0.8, 0.9, 0.99):
        expected = beta.cdf(point) - beta.cdf(1 - point)
        assert (shares.numpy() <= point).mean() == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(4000))


def test_each_row_is_mixed_with_the_one_half_a_batch_away() -> None:
    values, share = torch.arange(8.0).view(4, 2), torch.tensor([1.0, 0.75, 0.5, 0.9])
    expected = torch.stack([share[i] * values[i] + (1 - share[i]) * values[(i + 2) % 4] for i in range(4)])
    torch.testing.assert_close(mix(values, share), expected)
    assert mix(torch.ones(2, 3, 4, 5), torch.tensor([0.6, 0.7])).shape == (2, 3, 4, 5)


@pytest.mark.parametrize("workers", [2, 4])
def test_shared_out_in_turns_the_pairs_stay_the_same(workers: int) -> None:
    values, share = torch.randn(16, 3), torch.rand(16)
    whole = mix(values, share)
    for rank in range(workers):
        torch.testing.assert_close(mix(values[rank::workers], share[rank::workers]), whole[rank::workers])


@pytest.mark.parametrize("name", ["mae_tiny", "dinov2_tiny"])
def test_mixing_at_the_boundary_is_mixing_pixels_where_all_is_trained(name: str) -> None:
    torch.manual_seed(0)
    images, share = torch.rand(4, 3, *backbone(name).native), torch.tensor([0.5, 0.8, 0.6, 1.0])
    model = build_model(config(name, trained_blocks="all"), 3).eval()
    mixed = MixedForward(model)
    torch.testing.assert_close(mixed(images, share), model(mix(images, share)), atol=1e-5, rtol=1e-5)
    assert torch.equal(mixed(images), model(images))
    frozen = build_model(config(name, trained_blocks=0), 3).eval()
    found, pixels = MixedForward(frozen)(frozen.hidden(images), share), frozen(mix(images, share))
    torch.testing.assert_close(found[3], pixels[3], atol=1e-5, rtol=1e-5)  # its share is 1
    assert np.abs((found - pixels)[:3].detach().numpy()).max() > 1e-3, "past the blocks, mixing is another thing"
