from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from spaces.mistakes import Mistake
from trainables.data.manifest import Manifest


def test_saved_and_loaded_is_the_same(invented, tmp_path: Path) -> None:
    manifest = dataclasses.replace(
        invented([0, 1, 1, 0], groups=["p", "q", "q", "ü"]), notes=("One note.",), caveats=("A caveat.",)
    )
    manifest.save(tmp_path / "m" / "manifest.npz")
    again = Manifest.load(tmp_path / "m" / "manifest.npz")
    for field in dataclasses.fields(Manifest):
        before, after = getattr(manifest, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(before, after)
        assert type(before) is type(after)
    assert again.digest() == manifest.digest()
    assert [path.name for path in (tmp_path / "m").iterdir()] == ["manifest.npz"], "nothing half-written stays"


def test_multilabel_keeps_what_is_not_known(invented, tmp_path: Path) -> None:
    manifest = invented(np.array([[0, 1], [np.nan, 1], [1, np.nan]]))
    manifest.save(tmp_path / "manifest.npz")
    again = Manifest.load(tmp_path / "manifest.npz")
    np.testing.assert_array_equal(again.labels, manifest.labels)
    assert again.digest() == manifest.digest()
    assert again.class_counts() == {"a": 1, "b": 2}


def test_digest_ignores_root_and_names_but_not_data(invented) -> None:
    manifest = invented([0, 1, 1, 0])
    moved = dataclasses.replace(manifest, root=Path("/else"), paths=np.array(["w", "x", "y", "z"]))
    assert moved.digest() == manifest.digest()
    changed = {
        "labels": np.array([0, 1, 1, 1]),
        "contents": np.array(["c0", "c1", "c2", "other"]),
        "groups": np.array(["c0", "c0", "c2", "c3"]),
        "official": np.array(["train"] * 4),
        "classes": ("a", "c"),
    }
    digests = {dataclasses.replace(manifest, **{name: value}).digest() for name, value in changed.items()}
    digests |= {manifest.take(np.array([1, 0, 2, 3])).digest()}
    assert len(digests | {manifest.digest()}) == len(changed) + 2


def test_take_keeps_rows_together(invented) -> None:
    manifest = invented([0, 1, 1, 0])
    some = manifest.take(np.array([2, 0]))
    assert (len(some), some.paths.tolist(), some.labels.tolist()) == (2, ["0002.png", "0000.png"], [1, 0])
    assert some.class_counts() == {"a": 1, "b": 1}


@pytest.mark.parametrize("spoil", ["truncate", "foreign", "nothing"])
def test_a_damaged_file_is_refused(invented, tmp_path: Path, spoil: str) -> None:
    path = tmp_path / "manifest.npz"
    invented([0, 1] * 20).save(path)
    if spoil == "truncate":
        path.write_bytes(path.read_bytes()[:-30])
    elif spoil == "foreign":
        np.savez(path, meta=np.array([{"a": 1}], dtype=object))
    else:
        path.unlink()
    with pytest.raises(Mistake, match="no such file" if spoil == "nothing" else "damaged"):
        Manifest.load(path)


def test_a_flipped_bit_is_found_anywhere(invented, tmp_path: Path) -> None:
    path = tmp_path / "manifest.npz"
    invented([0, 1] * 20).save(path)
    data = path.read_bytes()
    for position in range(0, len(data), 7):
        path.write_bytes(data[:position] + bytes([data[position] ^ 4]) + data[position + 1 :])
        with pytest.raises(Mistake, match="damaged"):
            Manifest.load(path)


def test_wrong_arrays_are_refused(invented) -> None:
    manifest = invented([0, 1])
    for wrong in ({"labels": np.array([0, 2])}, {"labels": np.array([0.0, 1.0])}, {"official": np.array(["x", ""])}):
        with pytest.raises(ValueError, match="expected"):
            dataclasses.replace(manifest, **wrong)
