"""What each dataset's piece opens up in a search's space."""

from __future__ import annotations

import pytest

from spaces.backbone import piece
from spaces.config import SearchConfig
from spaces.dimensions import Choice
from spaces.library import assemble, first_points
from spaces.mistakes import Mistake


def choices(reader: str) -> dict[str, tuple[object, ...]]:
    config = SearchConfig.parse(
        {"name": "x", "dataset": {"reader": reader, "root": "x"}, "backbones": ["dinov2_base"]}, "x"
    )
    return {d.name: d.choices for d in assemble(config).dimensions if isinstance(d, Choice)}


@pytest.mark.parametrize(
    ("reader", "open_", "closed"),
    [
        (
            "isic2019",
            {
                "focal": (0.0, 0.5, 1.0, 2.0),
                "class_weights": ("none", "effective", "inverse"),
                "logit_adjustment": (0.0, 0.5, 1.0),
                "sampling": ("natural", "balanced"),
            },
            {"loss", "uncertain", "blank"},
        ),
        (
            "chexpert",
            {"uncertain": ("ignore", "zeros", "ones", "mixed", "smooth"), "blank": ("zeros", "ignore")},
            {"loss", "mixup", "sampling"},
        ),
        (
            "aptos2019",
            {"loss": ("cross_entropy", "ordinal", "regression")},
            {"mixup", "sampling", "uncertain", "blank"},
        ),
    ],
)
def test_dimensions(reader: str, open_: dict[str, tuple[object, ...]], closed: set[str]) -> None:
    found = choices(reader)
    assert {name: found.get(name) for name in open_} == open_
    assert not closed & set(found)


@pytest.mark.parametrize(
    ("reader", "images", "shipped", "policy"),
    [
        ("aptos2019", 2_900, "small", "fundus"),
        ("cbis_ddsm", 2_400, "mammography", "mammography"),
        ("isic2019", 18_000, "middle", "dermoscopy"),
        ("chexpert", 170_000, "large", "radiograph"),
    ],
)
def test_every_shipped_first_configuration_lies_in_the_space_of_its_dataset(
    reader: str, images: int, shipped: str, policy: str
) -> None:
    """Where all the backbones that its list names are searched; none is passed over."""
    configurations = piece("first.yaml")[shipped]["configurations"]
    names = list(dict.fromkeys(c["backbone"] for c in configurations))
    dataset = {"reader": reader, "root": "x", "policy": policy}
    config = SearchConfig.parse({"name": "x", "dataset": dataset, "backbones": names}, "x")
    points = first_points(config, assemble(config), images)
    assert len(points) == len(configurations)
    for point, own in zip(points, configurations, strict=True):
        wishes = {"resolution": own["where_asked"]["resolution"]} if "resolution" in own.get("where_asked", {}) else {}
        asked = {**{name: value for name, value in own.items() if name != "where_asked"}, **wishes}
        assert {name: point[name] for name in asked} == asked


def of_tiny(reader: str, **changes: object) -> SearchConfig:
    settings = {"name": "x", "dataset": {"reader": reader, "root": "x"}, "weights": "random", "space": changes}
    return SearchConfig.parse({**settings, "backbones": ["dinov2_tiny", "dinov2_base"]}, "x")


def test_shipped_blocks_beyond_a_backbones_depth_are_not_for_it() -> None:
    for config in (of_tiny("isic2019"), of_tiny("isic2019", trained_blocks={"default": "all"})):
        space = assemble(config)
        assert space.problems({"backbone": "dinov2_tiny", "trained_blocks": 4})
        assert not space.problems({"backbone": "dinov2_tiny", "trained_blocks": "all"})
        assert not space.problems({"backbone": "dinov2_base", "trained_blocks": 4})
    for own in ({"trained_blocks": {"choice": [0, 4]}}, {"trained_blocks@dinov2_tiny": {"choice": [0, 4]}}):
        with pytest.raises(Mistake, match="dinov2_tiny has 2 blocks, found 4"):
            assemble(of_tiny("isic2019", **own))
