"""The pictures of docs/augmentation.md: one of each policy, drawn by the code that trials run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.policies import COLUMNS, SAMPLES, SIDE, augmented, grid
from spaces.policy import policies

DOCS = Path(__file__).parents[1] / "docs"


def test_every_policy_has_its_picture() -> None:
    assert set(SAMPLES) | {"none"} == set(policies())
    page = (DOCS / "augmentation.md").read_text()
    for name in SAMPLES:
        assert f"(pictures/policy-{name}.png)" in page
        with Image.open(DOCS / "pictures" / f"policy-{name}.png") as picture:
            assert picture.width > COLUMNS * SIDE


@pytest.mark.parametrize("name", SAMPLES)
def test_views_differ_from_level_1_on(name: str) -> None:
    still, moved = augmented(name, 0), augmented(name, 1)
    assert still.shape == moved.shape == (COLUMNS, SIDE, SIDE, 3)
    assert np.array_equal(still[0], still[1]) and not np.allclose(moved[0], moved[1], atol=0.01)


def test_a_heart_stays_on_its_side() -> None:
    lower = slice(int(0.45 * SIDE), int(0.7 * SIDE))
    for view in augmented("radiograph", 3):
        half = view[lower].mean(axis=(0, 2))
        assert half[SIDE // 2 :].mean() > half[: SIDE // 2].mean()


def test_a_picture_is_drawn(tmp_path: Path) -> None:
    grid("digits", tmp_path / "digits.png")
    with Image.open(tmp_path / "digits.png") as picture:
        assert picture.size == (720, 275)
