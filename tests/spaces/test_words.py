"""Settings and counts as a sentence has them."""

import pytest

from spaces.strict import parse_yaml
from spaces.words import counted, written


def test_counts() -> None:
    assert [counted(n, "trial") for n in (0, 1, 2)] == ["0 trials", "1 trial", "2 trials"]
    assert counted(2, "search", "searches") == "2 searches"


@pytest.mark.parametrize(
    "value", [None, True, False, 3, 0.001, "accuracy", [1, "all"], [], {}, {"float": [1e-5, 0.1], "log": True}]
)
def test_settings_are_what_yaml_reads(value: object) -> None:
    assert parse_yaml(written(value), "s") == value
