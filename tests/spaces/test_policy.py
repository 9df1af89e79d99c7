"""Policies: ranges by level, a search's own ranges over them, and what a modality refuses unless it is forced."""

from typing import Any

import pytest

from spaces.config import SearchConfig
from spaces.library import trial_config
from spaces.mistakes import Mistake
from spaces.policy import Policy, limits, policies, policy, refuse_beyond

FORBIDDEN: list[tuple[str, dict[str, Any], str]] = [
    ("radiograph", {"upright": False}, "gravity"),
    ("radiograph", {"saturation": 0.2}, "grey"),
    ("radiograph", {"rotate": 60}, "straight"),
    ("mammography", {"hue": 0.1}, "grey"),
    ("fundus", {"hue": 0.4}, "exudates"),
    ("digits", {"flip": True}, "mirrored"),
]


@pytest.mark.parametrize(("name", "changes", "why"), FORBIDDEN)
def test_what_makes_no_sense_is_refused_with_the_reason_unless_forced(
    name: str, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(Mistake) as caught:
        policy(name, changes)
    [sentence] = caught.value.sentences
    [field] = changes
    assert why in sentence and f"force: [{field}]" in sentence
    assert getattr(policy(name, {**changes, "force": [field]}), field) == changes[field]


def test_every_limit_is_of_a_range_has_a_reason_and_holds_for_the_policy_itself() -> None:
    found = 0
    for name, ranges in policies().items():
        for field, limit in limits(name).items():
            found += 1
            assert field in Policy.model_fields and len(limit.why) > 10, (name, field)
            assert limit.allows(getattr(ranges, field)), (name, field)
            assert sum(end is not None for end in (limit.only, limit.most, limit.least)) == 1, (name, field)
    assert found >= 10


def test_what_is_allowed_is_laid_over_the_named_policy() -> None:
    changed = policy("radiograph", {"flip": True, "rotate": 5})
    assert changed.flip and changed.rotate == 5 and changed.upright
    assert changed.scale == policy("radiograph").scale
    assert changed.at(1).rotate == pytest.approx(5 / 3)
    assert not policy("radiograph").flip, "a left-right flip moves the heart to the other side"
    assert policy("mammography").flip, "a breast's side isn't its label"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rotat": 5}, ['Did you mean "rotate"']),
        ({"rotate": 500}, ["180"]),
        ({"rotate": "much"}, ["number"]),
        ({"flip": True, "force": "flip"}, ["expected a list"]),
        ({"flip": True, "force": [3]}, ["expected a list"]),
        ({"flip": True, "force": ["upright"]}, ["isn't among"]),
        ({"upright": False, "hue": 0.3}, ["gravity", "grey"]),
        ({"vertical_flip": {"choice": [True]}}, ["write upright: false"]),
        ({"hflip": 0.5, "rotate": 500}, ["write flip: true", "180"]),
    ],
)
def test_mistakes_in_ranges(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(Mistake) as caught:
        policy("radiograph", changes)
    assert len(caught.value.sentences) == len(words)
    for word, sentence in zip(words, caught.value.sentences, strict=True):
        assert word in sentence and "augmentation" in sentence


def test_ranges_are_part_of_a_trial() -> None:
    def trial(augmentation: dict[str, Any]) -> Any:
        config = SearchConfig.parse(
            {
                "name": "a",
                "dataset": {"reader": "folder", "root": "x", "policy": "radiograph", "augmentation": augmentation},
                "backbones": ["mae_tiny"],
            },
            "s",
        )
        point = {"backbone": "mae_tiny", "resolution": 64, "head_lr": 1e-3}
        return trial_config(config, point, metric="accuracy", policy="radiograph", seed=0)

    plain, changed = trial({}), trial({"flip": True})
    assert changed.augmentation == {"flip": True} and plain.augmentation == {}
    assert plain.digest() != changed.digest() and hash(plain) != hash(changed) and changed == trial({"flip": True})


def test_another_modalitys_policy_is_held_to_the_images_own_limits() -> None:
    with pytest.raises(Mistake) as mistake:
        refuse_beyond(policy("dermoscopy"), "radiograph", {})
    assert any("upright would be false" in sentence for sentence in mistake.value.sentences)
    refuse_beyond(policy("radiograph"), "radiograph", {})
    refuse_beyond(policy("dermoscopy"), "natural", {})
    names = list(limits("radiograph"))
    refuse_beyond(policy("dermoscopy"), "radiograph", {"force": names})
