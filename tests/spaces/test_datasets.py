"""What each dataset's piece opens up in a search's space."""

from __future__ import annotations

import pytest

from spaces.config import SearchConfig
from spaces.dimensions import Choice
from spaces.library import assemble


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
