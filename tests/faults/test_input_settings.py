"""Settings that were made to break: refused in a sentence and in no time.

Typos, wrong types, ranges, repeated keys, tags and anchors are in tests/spaces/test_strict.py.
"""

from __future__ import annotations

import errno
import time
from itertools import pairwise
from pathlib import Path

import pytest

from spaces.config import SearchConfig
from spaces.mistakes import Mistake
from spaces.strict import MAX_YAML_DEPTH, parse_yaml, read_yaml

BOMB = "a: &a [x, x]\n" + "".join(f"{after}: &{after} [*{name}, *{name}]\n" for name, after in pairwise("abcd"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "line 1: anchors and aliases aren't allowed"),
        ("a: " + "[" * 50_000, "more than 20 levels deep"),
        ("a: " + "[" * 3_000 + "]" * 3_000, "more than 20 levels deep"),
        ("{a: " * 3_000, "more than 20 levels deep"),
        ("- " * 3_000, "more than 20 levels deep"),
        ("\n".join(" " * i + "a:" for i in range(1_000)), "line 21: more than 20 levels deep"),
        ("seed: " + "9" * 5_000, "can't be read"),
        ("name: 2001-99-99", "can't be read"),
        ("a: \x00", "not valid YAML"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: !!binary aGk=", "the tag"),
    ],
)
def test_bombs_and_nonsense(text: str, said: str) -> None:
    """Each is a Mistake that says what it is, within two seconds, whatever the size of what it would become."""
    started = time.process_time()
    with pytest.raises(Mistake) as caught:
        parse_yaml(text, "search.yaml")
    assert said in str(caught.value) and str(caught.value).startswith("search.yaml: ")
    assert time.process_time() - started < 2


@pytest.mark.parametrize(
    "text",
    ["name: 2001-01-01", "? [1, 2]\n: 3", "name: .inf", "seed: .nan", "null: 1", 'a: "\\ud800"', "? a\n? b", "- 1"],
)
def test_values_that_settings_have_no_use_for(text: str) -> None:
    """YAML that is sound but no settings is a Mistake, never another error."""
    with pytest.raises(Mistake, match="search.yaml: "):
        SearchConfig.parse(parse_yaml(text, "search.yaml"), "search.yaml")


def test_as_deep_as_allowed() -> None:
    """What lies within the limit is read as it is."""
    text = "[" * MAX_YAML_DEPTH + "1" + "]" * MAX_YAML_DEPTH
    found = parse_yaml(text, "x")
    for _ in range(MAX_YAML_DEPTH):
        [found] = found
    assert found == 1


def test_not_text(tmp_path: Path) -> None:
    """A folder, a file that may not be read and bytes that aren't UTF-8 are each told as what they are."""
    (tmp_path / "image.yaml").write_bytes(b"\x89PNG\r\n\xff")
    with pytest.raises(Mistake, match="isn't text in UTF-8"):
        read_yaml(tmp_path / "image.yaml")
    with pytest.raises(Mistake, match=r"expected a file of settings, found a folder; in it: image.yaml\. Give"):
        read_yaml(tmp_path)
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    with pytest.raises(Mistake, match=r"loop.yaml: can't be read \(Too many levels of symbolic links\); give"):
        read_yaml(tmp_path / "loop.yaml")


def test_a_file_of_another_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forced, since whoever runs the tests may be allowed to read everything."""
    file = tmp_path / "search.yaml"
    file.write_text("name: a\n")

    def denied(self: Path, **_: object) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_text", denied)
    with pytest.raises(Mistake, match=r"search.yaml: may not be read by you; ask its owner"):
        read_yaml(file)
