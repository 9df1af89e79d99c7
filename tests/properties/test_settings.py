"""Settings: whatever is written in them is read as it is, or refused in sentences."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.folder import to_yaml
from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from spaces.strict import parse_yaml

SOME = settings(max_examples=100, deadline=None, database=None)
SCALARS = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=8)
PLAIN = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
GOOD: dict[str, Any] = {"name": "a", "dataset": {"reader": "folder", "root": "x"}, "backbones": ["dinov2_tiny"]}
VALID = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,8}", fullmatch=True),
        "dataset": st.fixed_dictionaries(
            {
                "reader": st.just("folder"),
                "root": st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1),
            },
            optional={
                "options": st.dictionaries(st.sampled_from(["groups", "table"]), st.text("abc/.() ", max_size=5))
            },
        ),
        "backbones": st.lists(st.sampled_from(["dinov2_tiny", "mae_tiny", "a/b.c"]), min_size=1, unique=True),
    },
    optional={
        "seed": st.integers(0, 2**31 - 1),
        "space": st.dictionaries(st.sampled_from(["head_lr", "mixup", "level"]), st.none() | st.floats(1e-6, 1)),
        "try": st.lists(st.fixed_dictionaries({"head_lr": st.floats(1e-6, 1)}), max_size=2),
        "budget": st.fixed_dictionaries({"trials": st.integers(1, 100_000)}),
        "activations": st.just("auto") | st.floats(0, 1000),
    },
)
KEYS = st.sampled_from([*GOOD, "seed", "budget", "space", "try", "mlflow", "resources", "activations", "bugdet", ""])


@settings(max_examples=30, deadline=None, database=None)
@given(VALID)
def test_what_is_written_is_read_back(data: dict[str, Any]) -> None:
    """Settings that were read, written as YAML and read again are the same, with the same digest."""
    config = SearchConfig.parse(data, "s")
    again = SearchConfig.parse(parse_yaml(to_yaml(config.plain()), "s"), "s")
    assert again == config and again.digest() == config.digest()
    for key, value in data.items():
        assert config.plain()[key] == value or isinstance(value, dict)


@SOME
@given(st.dictionaries(KEYS, PLAIN, max_size=4))
def test_anything_under_a_key_is_read_or_refused(change: dict[str, Any]) -> None:
    """Any plain data under any key gives settings or a Mistake whose sentences each name the file."""
    try:
        config = SearchConfig.parse({**GOOD, **change}, "s.yaml")
    except Mistake as mistake:
        assert all(sentence.startswith("s.yaml: ") and sentence.endswith((".", "?")) for sentence in mistake.sentences)
        return
    assert "bugdet" not in change and "" not in change, "an unknown key is never passed over"
    assert SearchConfig.parse(config.plain(), "s.yaml") == config


@SOME
@given(st.text(st.sampled_from(list("ab:- \n[]{}\"'#&*!|>?%@`,.01e_\t")), max_size=40))
def test_any_text_is_data_or_a_mistake(text: str) -> None:
    """No text makes the reader raise anything but a Mistake."""
    try:
        found = parse_yaml(text, "s.yaml")
    except Mistake as mistake:
        assert str(mistake).startswith("s.yaml: ")
        return
    with pytest.raises(Mistake):  # too little for a search, in any case
        SearchConfig.parse(found, "s.yaml")
