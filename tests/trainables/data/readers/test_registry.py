from __future__ import annotations

from pathlib import Path

import pytest

from spaces.config import DatasetConfig
from spaces.mistakes import Mistake
from trainables.data.readers import read


def sentences(cache: Path, **settings) -> tuple[str, ...]:
    with pytest.raises(Mistake) as mistake:
        read(DatasetConfig(**settings), cache, None)
    return mistake.value.sentences


def test_mistakes_of_the_settings_come_together(cache: Path, tmp_path: Path) -> None:
    unknown, root = sentences(cache, reader="foldre", root=str(tmp_path / "missing"))
    assert unknown == 'dataset.reader: unknown reader "foldre". Did you mean "folder"?'
    assert "no such folder" in root
    (tmp_path / "file").write_text("x")
    root, option, other = sentences(
        cache, reader="folder", root=str(tmp_path / "file"), options={"group": "x", "groups": "("}
    )
    assert "expected a folder, found a file" in root
    assert {"regular expression" in option, "regular expression" in other} == {True, False}
    assert any('unknown key "group". Did you mean "groups"?' in s for s in (option, other))


@pytest.mark.parametrize(
    ("reader", "options"),
    [
        ("aptos2019", {"conflicts": "keep"}),
        ("aptos2019", {"conflict": "drop"}),
        ("aptos2019", {"near_duplicates": "drop"}),
        ("isic2019", {"test": "theirs"}),
        ("chexpert", {"views": "PA"}),
        ("chexpert", {"blanks": "ones"}),
    ],
)
def test_options_are_strict(cache: Path, tmp_path: Path, reader: str, options: dict[str, str]) -> None:
    assert "dataset.options" in sentences(cache, reader=reader, root=str(tmp_path), options=options)[0]


def test_the_missing_table_of_csv_is_told(cache: Path, tmp_path: Path) -> None:
    assert 'dataset.options: "table" is missing' in sentences(cache, reader="csv", root=str(tmp_path))[0]
