"""What is told of a dataset's files: copies, conflicts, sizes, damage."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from spaces.mistakes import Mistake
from trainables.data import audit
from trainables.data.audit import Alike, copies, look_at_files, refuse_bad, shapes
from trainables.data.manifest import Manifest


def findings(contents: list[str], labels: list[list[float]]) -> Manifest:
    return Manifest(
        root=Path("x"), task="multilabel", classes=("a", "b"), metric="macro_auroc", policy="none",
        paths=np.array([f"{i}.png" for i in range(len(contents))]), contents=np.array(contents),
        labels=np.array(labels, dtype=np.float32), groups=np.array(contents), official=np.array([""] * len(contents)),
    )  # fmt: skip


def test_copies_and_those_with_other_labels(
    tmp_path: Path, write_image: Callable[..., Path], listed: Callable[..., Manifest]
) -> None:
    values = [0, 1, 0, 2, 2, 3, 0]  # of class a, b, a, b, a, b, a
    for index, value in enumerate(values):
        write_image(tmp_path / f"{index}.png", value)
    found = copies(listed(tmp_path, [f"{i}.png" for i in range(len(values))]))
    assert (found.images, found.contents, found.conflicts) == (5, 2, (("3.png", "4.png"),))
    assert found.agreeing == (("0.png", "2.png", "6.png"),)


def test_findings_that_are_not_mentioned_in_either_copy_are_no_conflict() -> None:
    nan = float("nan")
    same = findings(["p", "p", "q"], [[1, nan], [1, nan], [0, 0]])
    assert copies(same).images == 2 and not copies(same).conflicts
    assert copies(findings(["p", "p"], [[1, nan], [1, 0]])).conflicts == (("0.png", "1.png"),)
    assert copies(findings(["p", "q"], [[1, nan], [1, 0]])).images == 0


def test_sizes_and_modes(
    tmp_path: Path,
    write_image: Callable[..., Path],
    listed: Callable[..., Manifest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for index in range(6):
        write_image(tmp_path / f"{index}.png", index, size=(12, 10 + index % 2), mode="L" if index < 2 else "RGB")
    manifest = listed(tmp_path, [f"{i}.png" for i in range(6)])
    found = shapes(manifest)
    assert found.looked_at == 6
    assert found.by_mode == {"grey": {(12, 10): 1, (12, 11): 1}, "colour": {(12, 10): 2, (12, 11): 2}}
    monkeypatch.setattr(audit, "MOST_HEADERS", 4)
    assert shapes(manifest).looked_at == 3, "every second one of a dataset that is larger than the most looked at"


def test_every_file_that_cannot_be_used_is_told(tmp_path: Path, cache: Path, write_image: Callable[..., Path]) -> None:
    root = tmp_path / "data"
    for index in range(20):
        write_image(root / "deep" / f"{index}.png", index)
    seen: list[tuple[int, int]] = []
    whole = look_at_files(root, {}, cache, lambda done, total: seen.append((done, total)))
    assert seen == [(16, 20), (20, 20)] and (whole.images, whole.bad) == (20, {})
    content = (root / "deep" / "3.png").read_bytes()
    for index in range(12):
        (root / f"cut{index:02d}.PNG").write_bytes(content[:-60])
    (root / "page.jpg").write_text("<html>")
    (root / "notes.txt").write_text("no image")
    (root / "._hidden.png").write_text("no image either")
    found = look_at_files(root, {}, cache)
    with pytest.raises(Mistake) as caught:
        refuse_bad(found.bad, found.images)
    assert caught.value.sentences[0].startswith("dataset: 13 of the 33 images")
    assert any("3 more images" in sentence for sentence in caught.value.sentences)
    assert len(caught.value.full) == 14 and any(s.startswith("page.jpg: not an image") for s in caught.value.full)
    assert sum("truncated" in sentence or "damaged" in sentence for sentence in caught.value.full) == 12


def test_rows_that_can_be_used_are_compared_whatever_else_is_wrong(
    tmp_path: Path, cache: Path, write_image: Callable[..., Path]
) -> None:
    root = tmp_path / "data"
    for name, value in (("a", 0), ("b", 0), ("c", 1), ("d", 1), ("e", 2), ("not labelled", 0)):
        write_image(root / f"{name}.png", value)
    Image.open(root / "e.png").save(root / "f.tif")  # the same pixels in other bytes
    for name in ("cut.png", "cut too.png"):
        (root / name).write_bytes((root / "e.png").read_bytes()[:-60])
    labels = {"a.png": "x", "b.png": "y", "c.png": "x", "d.png": "x", "e.png": "x", "f.tif": "y", "cut.png": "x"}
    seen: list[tuple[int, int]] = []
    found = look_at_files(root, labels, cache, lambda done, total: seen.append((done, total)))
    assert found.images == 9 and sorted(found.bad) == ["cut too.png", "cut.png"] and seen[-1] == (9, 9)
    assert found.copies.conflicts == (("a.png", "b.png"),) and found.copies.agreeing == (("c.png", "d.png"),)
    assert found.alike == (Alike((("e.png", ""), ("f.tif", "")), 2, True),)
