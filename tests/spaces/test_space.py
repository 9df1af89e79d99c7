"""Spaces: merged in the documented order, asked under their conditions, checked before a search."""

import random
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spaces.backbone import backbone, piece, table
from spaces.config import SearchConfig
from spaces.dimensions import AnyDimension, Choice, Float, Int, Space, Value
from spaces.library import assemble, first_points, of_backbone, trial_config
from spaces.mistakes import Mistake
from spaces.policy import policies, policy


def config(**changes: Any) -> SearchConfig:
    base = {
        "name": "a",
        "dataset": {"reader": "folder", "root": "x"},
        "backbones": ["dinov2_tiny", "mae_tiny"],
        "weights": "random",
    }
    return SearchConfig.parse({**base, **changes}, "s.yaml")


def draw(generator: random.Random) -> Any:
    def suggest(dimension: AnyDimension) -> Value:
        if isinstance(dimension, Choice):
            return generator.choice(dimension.choices)
        if isinstance(dimension, Int):
            return generator.randint(dimension.low, dimension.high)
        return generator.uniform(dimension.low, dimension.high)

    return suggest


@settings(deadline=None, max_examples=40)  # a space is put together in each example
@given(st.integers(0, 2**32), st.lists(st.sampled_from(sorted(table())), min_size=1, max_size=4, unique=True))
def test_every_point_lies_in_its_bounds_and_conditions(seed: int, names: list[str]) -> None:
    space = assemble(config(backbones=names))
    point = space.ask(draw(random.Random(seed)))
    assert not space.problems(point)
    asked = space.asked(point)
    assert len({d.name for d in asked}) == len(asked)
    assert {d.name for d in asked} | set(space.fixed) == set(point)
    for dimension in asked:
        assert dimension.contains(point[dimension.name])
        assert dimension.applies(point)
    trial = trial_config(config(backbones=names), point, metric="accuracy", policy="digits", seed=0)
    spec = backbone(trial.backbone)
    assert all(side % spec.multiple_of == 0 for side in trial.resolution)
    assert (trial.trained_blocks != 0) == ("backbone_lr_ratio" in point)


def test_what_does_not_apply_is_not_asked() -> None:
    space = assemble(config())
    head_only = space.complete({"backbone": "mae_tiny", "trained_blocks": 0})
    assert {"layer_decay", "backbone_lr_ratio", "drop_path", "weight_decay"}.isdisjoint(head_only)
    assert any("doesn't apply" in p for p in space.problems({"trained_blocks": 0, "layer_decay": 0.7}))


def test_a_family_has_its_own_range_under_its_own_key() -> None:
    space = assemble(config())
    mae = space.keyed(space.complete({"backbone": "mae_tiny", "trained_blocks": "all"}))
    dino = space.keyed(space.complete({"backbone": "dinov2_tiny", "trained_blocks": "all"}))
    assert mae["layer_decay@mae"] == 0.65 and "layer_decay@dinov2" not in mae
    assert dino["layer_decay@dinov2"] == 0.75


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"layer_decay": 0.9}, 0.9),
        ({"layer_decay": {"float": [0.1, 0.3]}}, 0.2),
        ({"layer_decay@mae": {"float": [0.1, 0.3]}}, 0.2),
        ({"layer_decay@mae_tiny": 0.4}, 0.4),
        ({"layer_decay": {"default": 0.95}}, 0.95),
        ({"layer_decay": None}, None),
    ],
)
def test_a_persons_changes_win(change: dict[str, Any], expected: float | None) -> None:
    point = assemble(config(space=change)).complete({"backbone": "mae_tiny", "trained_blocks": "all"})
    assert point.get("layer_decay") == (pytest.approx(expected) if expected is not None else None)


def test_left_out_is_the_trials_own_default() -> None:
    point = assemble(config(space={"label_smoothing": None})).complete({})
    assert "label_smoothing" not in point
    assert trial_config(config(), point, metric="accuracy", policy="digits", seed=0).label_smoothing == 0


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"space": {"level": [0, 1]}}, "level: expected one value, found [0, 1]; write {choice: [0, 1]}"),
        ({"space": {"level@mae": [0, 1]}}, "level@mae: expected one value, found [0, 1]"),
        ({"space": {"hed_lr": 1}}, 'Did you mean "head_lr"'),
        ({"space": {"resolution@mae_tiny": 60}}, "multiples of 16"),
        ({"space": {"trained_blocks": 2}}, "2 blocks"),
        ({"space": {"feature": "cls4"}}, "dinov2_tiny has 2 blocks, found cls4"),
        ({"space": {"feature@mae": {"choice": ["pooled", "cls"]}}}, "should be pooled, clsN"),
        ({"backbones": ["sam2_t"], "space": {"feature": "cls1"}}, "sam2_t has no CLS token in its blocks, found cls1"),
        ({"space": {"drop_path": {"choice": [0, 2.0]}}}, "drop_path"),
        ({"space": {"head_lr": {"float": [1, 0.1]}}}, "low < high"),
        ({"space": {"head_lr": {"float": [0, 0.1], "log": True}}}, "low > 0"),
        ({"space": {"head_lr": {"flaot": [0, 0.1]}}}, "flaot"),
        ({"space": {"layer_decay@vgg": 0.5}}, "vgg"),
        ({"backbones": ["dinov2_tinny"]}, 'Did you mean "dinov2_tiny"'),
    ],
)
def test_mistakes_are_told_before_the_search(change: dict[str, Any], word: str) -> None:
    with pytest.raises(Mistake) as caught:
        assemble(config(**change))
    assert word in str(caught.value)


def test_first_configurations() -> None:
    own = [{"backbone": "mae_tiny", "trained_blocks": "all", "head_lr": 5e-3}]
    searched = config(**{"try": own})
    points = first_points(searched, assemble(searched), 100)
    assert points[0]["head_lr"] == 5e-3 and points[0]["layer_decay"] == 0.65
    wrong = config(**{"try": [{"head_lr": 5.0}, {"backbon": "x"}]})
    with pytest.raises(Mistake) as caught:
        first_points(wrong, assemble(wrong), 100)
    assert len(caught.value.sentences) == 2


def test_shipped_first_configurations_lie_in_the_real_space() -> None:
    names = ["dinov2_base", "dinov2_large", "mae_base"]
    for images, expected in ((1_000, 3), (20_000, 4), (200_000, 3)):
        searched = config(backbones=names, weights="pretrained")
        assert len(first_points(searched, assemble(searched), images)) == expected
    wide = {"resolution": {"choice": [224, 448]}, "resolution@dinov2": {"choice": [224, 322, 448]}}
    searched = config(backbones=[*names, "aimv2_large", "clip_base"], weights="pretrained", space=wide)
    for images in (1_000, 20_000, 200_000):
        points = first_points(searched, assemble(searched), images)
        assert len(points) == 5, "every shipped configuration lies in a space that is wide enough"
        assert points[-1]["head"] == "deit" and points[-1]["head_lr"] == 1e-4


def test_shipped_configurations_name_backbones_that_exist() -> None:
    lists = piece("first.yaml")
    assert {c["backbone"] for of in lists.values() for c in of["configurations"]} <= set(table())
    assert set(lists) == {"mammography", "small", "middle", "large"}


def test_wishes_count_where_the_space_asks_for_them() -> None:
    plain = config(backbones=["dinov2_base"], weights="pretrained")
    assert {p["sampling"] for p in first_points(plain, assemble(plain), 20_000)} == {"natural"}
    space = {"sampling": {"choice": ["natural", "balanced"]}, "logit_adjustment": {"choice": [0.0, 1.0]}}
    rare = config(backbones=["dinov2_base", "dinov2_large"], weights="pretrained", space=space)
    points = first_points(rare, assemble(rare), 20_000)
    assert [p["sampling"] for p in points][:2] == ["balanced", "natural"]
    [large] = [p for p in points if p["backbone"] == "dinov2_large"]
    assert large["logit_adjustment"] == 1.0 and large["resolution"] == 224


def test_dinov2_is_tried_first_with_cls_of_four_blocks_and_the_mean() -> None:
    for images in (1_000, 20_000):
        searched = config(backbones=["dinov2_base"], weights="pretrained")
        first = first_points(searched, assemble(searched), images)[0]
        assert (first["feature"], first["trained_blocks"], first["head_lr"]) == ("cls4_mean", 0, 2e-3)
    plain = config(backbones=["dinov2_base"], weights="pretrained", space={"feature": "pooled"})
    assert first_points(plain, assemble(plain), 1_000)[0]["feature"] == "pooled"


def test_what_a_head_reads_is_asked_of_linear_ones() -> None:
    space = assemble(config(backbones=["dinov2_base", "dinov2_tiny", "aimv2_large"], weights="random"))
    assert space.offered("feature") == ("pooled", "cls1_mean", "cls4", "cls4_mean")
    assert "feature" not in space.complete({"backbone": "dinov2_base", "head": "attentive"})
    assert space.problems({"backbone": "dinov2_tiny", "head": "linear", "feature": "cls4"})
    assert space.complete({"backbone": "aimv2_large", "head": "linear"})["feature"] == "pooled"


def test_mammography_has_first_configurations_of_its_own() -> None:
    names = ["dinov2_base", "sam2_b_plus", "vmamba_s"]
    sides = {f"resolution@{name}": {"choice": [224, side]} for name, side in zip(
        names, ["896x700", "1152x896", "896x704"], strict=True)}  # fmt: skip
    space = {**sides, "grad_checkpointing": {"choice": [False, True]}}
    dataset = {"reader": "folder", "root": "x", "policy": "mammography"}
    searched = config(backbones=names, weights="pretrained", space=space, dataset=dataset)
    points = first_points(searched, assemble(searched), 3_000)
    assert [p["resolution"] for p in points] == [224, "1152x896", "896x700", "896x704", 224]
    assert [p["grad_checkpointing"] for p in points] == [False, True, False, False, False]


def test_every_backbone_that_is_compared_has_something_to_start_from() -> None:
    names = ["dinov2_base", "vmamba_t"]
    free = config(backbones=names, weights="pretrained")
    assert {p["backbone"] for p in first_points(free, assemble(free), 1_000)} == {"dinov2_base"}
    compared = config(backbones=names, weights="pretrained", strategy="compare", budget={"trials": 10})
    points = first_points(compared, assemble(compared), 1_000)
    assert [p["backbone"] for p in points].count("vmamba_t") == 1


@cache
def of_three() -> Space:
    return assemble(config(backbones=THREE))


THREE = ["dinov2_base", "mae_large", "vmamba_t"]


@pytest.mark.parametrize("name", THREE)
@pytest.mark.parametrize("seed", range(20))
def test_a_backbones_part_of_a_space_is_the_whole_with_that_backbone(seed: int, name: str) -> None:
    space = of_three()
    part = of_backbone(space, name)
    assert part.fixed["backbone"] == name and all("backbone" not in d.when for d in part.dimensions)
    point = part.ask(draw(random.Random(seed)))
    assert not space.problems(point)
    whole = space.keyed(point)
    assert whole.pop("backbone") == name and whole == part.keyed(point)


def test_losses_are_asked_what_means_something_to_them() -> None:
    losses = {"loss": {"choice": ["cross_entropy", "ordinal"]}, "focal": {"choice": [0.0, 2.0]}}
    space = assemble(config(space={**losses, "class_weights": {"choice": ["none", "inverse"]}}))
    assert {"focal", "class_weights", "logit_adjustment"} <= set(space.complete({"loss": "cross_entropy"}))
    assert {"focal", "logit_adjustment"}.isdisjoint(space.complete({"loss": "ordinal"}))
    assert "class_weights" in space.complete({"loss": "ordinal"}), "every loss is linear in what an image counts for"
    assert {"uncertain", "blank"}.isdisjoint(space.complete({})), "of findings alone"
    assert space.offered("focal") == (0.0, 2.0) and space.offered("loss") == ("cross_entropy", "ordinal")
    assert space.offered("uncertain") == ()


def test_heads_and_adapters_have_ranges_of_their_own() -> None:
    searched = config(backbones=["dinov2_base", "vmamba_t"])
    space = assemble(searched)
    attentive = space.complete({"head": "attentive"})
    assert attentive["head_lr"] == 5e-4 and "head_lr@attentive" in space.keyed(attentive)
    lora = space.complete({"backbone": "dinov2_base", "trained_blocks": 4, "adapter": "lora"})
    keyed = space.keyed(lora)
    assert keyed["backbone_lr_ratio@adapter"] == 0.25 and lora["layer_decay"] == 1 and lora["adapter_rank"] == 16
    assert {"adapter", "adapter_rank"}.isdisjoint(space.complete({"trained_blocks": 0}))
    without = space.complete({"backbone": "dinov2_base", "trained_blocks": 4, "adapter": "none"})
    assert without["layer_decay"] == 0.75 and "adapter_rank" not in without
    unasked = assemble(config(backbones=["dinov2_base"], space={"adapter": None})).complete({"trained_blocks": 4})
    assert unasked["layer_decay"] == 0.75 and "adapter" not in unasked


def test_dimensions_refuse_nonsense() -> None:
    for bad in (
        lambda: Float(name="x", low=1, high=0),
        lambda: Float(name="x", low=0, high=1, log=True),
        lambda: Float(name="x", low=0, high=1, default=2),
        lambda: Int(name="x", low=0, high=4, log=True),
        lambda: Choice(name="x", choices=()),
        lambda: Choice(name="x", choices=(1, 1)),
        lambda: Choice(name="x", choices=(1, 2), default=3),
    ):
        with pytest.raises(ValueError):
            bad()
    assert not Choice(name="x", choices=(0, 1)).contains(True)
    assert Space(dimensions=(Float(name="x", low=1, high=100, log=True),)).complete({}) == {"x": pytest.approx(10)}


def test_levels_scale_a_policy() -> None:
    for name, most in policies().items():
        assert most.at(0) == policy("none").model_copy(update={"outside": most.outside, "colour": most.colour}), name
        assert most.at(3) == most
        assert most.at(1).rotate == pytest.approx(most.rotate / 3)
    with pytest.raises(Mistake, match="fundus"):
        policy("fundos")


def test_backbone_table() -> None:
    with pytest.raises(Mistake, match='Did you mean "dinov2_base"'):
        backbone("dinov2_bas")
    for spec in table().values():
        assert all(side % spec.multiple_of == 0 for side in spec.native), spec.name
