from __future__ import annotations

import io
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from spaces.mistakes import Mistake
from trainables.data.hamming import near_components
from trainables.data.near import LIMIT, join_near_duplicates, labels_numbered, perceptual_hashes


def fundus(seed: int, side: int = 400) -> Image.Image:
    """Drawn: a disc on black, a bright optic disc to one side, vessels from it. All of one camera and field."""
    drawn = np.random.default_rng(seed)
    image = Image.new("RGB", (side, side), (2, 2, 2))
    draw = ImageDraw.Draw(image)
    centre, radius = side / 2, side * 0.46

    def disc(x: float, y: float, r: float, colour: tuple[int, int, int]) -> None:
        draw.ellipse([x - r, y - r, x + r, y + r], fill=colour)

    disc(centre, centre, radius, (150, 70, 30))
    eye = drawn.choice([-1, 1])
    x, y = centre + eye * radius * 0.45, centre + drawn.normal() * radius * 0.04
    disc(x, y, radius * 0.13, (250, 220, 140))
    disc(centre - eye * radius * 0.1, centre, radius * 0.13, (95, 40, 20))
    for _ in range(14):
        angle, path = drawn.uniform(0, 2 * np.pi), [(x, y)]
        for _ in range(25):
            angle += drawn.normal() * 0.15
            path.append((path[-1][0] + np.cos(angle) * radius * 0.06, path[-1][1] + np.sin(angle) * radius * 0.06))
        draw.line(path, fill=(100, 25, 15), width=int(drawn.integers(2, 5)))
    return image.filter(ImageFilter.GaussianBlur(1))


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


ALTERED = {
    "jpeg.jpg": lambda image: jpeg(image, 40),
    "half.png": lambda image: image.resize((200, 200)),
    "brighter.png": lambda image: ImageEnhance.Brightness(image).enhance(1.2),
    "trimmed.png": lambda image: image.crop((2, 2, 398, 398)),
}


def test_the_limit_divides_altered_copies_from_other_eyes(tmp_path: Path, cache: Path) -> None:
    for seed in range(24):
        fundus(seed).save(tmp_path / f"eye{seed:02d}.png")
    for name, alter in ALTERED.items():
        alter(fundus(0)).save(tmp_path / name)
    paths = [f"eye{seed:02d}.png" for seed in range(24)] + list(ALTERED)
    seen = perceptual_hashes(tmp_path, paths, np.array(paths), cache)
    assert not seen.bad
    hashes = seen.bits
    apart = np.bitwise_count(hashes[:, None] ^ hashes[None]).sum(axis=2)
    others = apart[:24, :24][~np.eye(24, dtype=bool)]
    assert apart[0, 24:].max() <= LIMIT < others.min(), (apart[0, 24:], others.min())
    components = near_components(hashes, LIMIT)
    assert len(set(components.tolist())) == 24 and set(components[24:].tolist()) == {components[0]}


def test_hashes_are_those_of_imagehash(tmp_path: Path, cache: Path) -> None:
    fundus(0).save(tmp_path / "a.png")
    (bits,) = perceptual_hashes(tmp_path, ["a.png"], np.array(["a"]), cache).bits
    expected = imagehash.phash(fundus(0), hash_size=16).hash.reshape(-1)
    np.testing.assert_array_equal(np.unpackbits(bits.view(np.uint8)), expected)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two eyes, a byte-identical copy of the first, an altered copy of each, and two other eyes."""
    root = tmp_path / "data"
    root.mkdir()
    for seed, name in enumerate(["a", "b", "c", "d"]):
        fundus(seed).save(root / f"{name}.png")
    shutil.copy(root / "a.png", root / "a copy.png")
    jpeg(fundus(0), 40).save(root / "a again.png")
    jpeg(fundus(1), 40).save(root / "b again.png")
    return root


PATHS = ["a.png", "a copy.png", "a again.png", "b.png", "b again.png", "c.png", "d.png"]


def test_groups_are_joined_with_those_given(root: Path, cache: Path, listed) -> None:
    manifest = join_near_duplicates(listed(root, PATHS), cache)
    same = manifest.groups[:, None] == manifest.groups[None]
    expected = np.array([0, 0, 0, 1, 1, 2, 3])
    np.testing.assert_array_equal(same, expected[:, None] == expected[None])
    (note,) = manifest.notes
    assert "5 images look like another one" in note and "at most 20 of 256 bits" in note
    assert "2 groups were joined" in note and "5 of these images look like one with another label" in note
    again = join_near_duplicates(listed(root, PATHS[::-1]), cache)
    assert dict(zip(again.paths, again.groups, strict=True)) == dict(zip(manifest.paths, manifest.groups, strict=True))


def test_given_groups_chain(root: Path, cache: Path, listed) -> None:
    """c is of b's patient: what looks like b goes where c goes."""
    manifest = replace(listed(root, PATHS), groups=np.array(["p1", "p2", "p3", "p4", "p5", "p4", "p6"]))
    joined = join_near_duplicates(manifest, cache)
    assert joined.groups.tolist() == ["p1", "p1", "p1", "p4", "p4", "p4", "p6"]


def test_nothing_alike(root: Path, cache: Path, listed) -> None:
    manifest = listed(root, ["a.png", "a copy.png", "b.png"])
    joined = join_near_duplicates(manifest, cache)
    assert joined.groups.tolist() == manifest.groups.tolist()
    assert joined.notes[0].startswith("dataset: no image looks like another one that isn't a copy")


def test_what_cannot_be_decoded_is_compared_with_none(root: Path, cache: Path, listed) -> None:
    for name in ("x.png", "y.png"):
        (root / name).write_bytes(name.encode())
    manifest = listed(root, ["a.png", "a again.png", "x.png", "y.png"])
    joined = join_near_duplicates(manifest, cache)
    assert len(set(joined.groups.tolist())) == 3
    assert "2 images can't be decoded and were compared with none" in joined.notes[0]


def test_hashes_are_remembered_by_content(root: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    contents = np.array(["a", "b"])
    before = perceptual_hashes(root, ["a.png", "b.png"], contents, cache)
    after = perceptual_hashes(root, ["gone.png", "moved.png"], contents, cache)
    assert not after.bad
    np.testing.assert_array_equal(after.bits, before.bits)
    (database,) = (cache / "near").iterdir()
    database.write_bytes(b"no database" * 1000)
    with caplog.at_level(logging.WARNING):
        again = perceptual_hashes(root, ["a.png", "b.png"], contents, cache)
    np.testing.assert_array_equal(again.bits, before.bits)
    assert "damaged" in caplog.text


def test_what_is_bad_is_told_of_every_copy(root: Path, cache: Path) -> None:
    for name in ("x.png", "y.png"):
        (root / name).write_bytes(b"no image")
    seen: list[tuple[int, int]] = []
    paths, contents = ["x.png", "a.png", "y.png"], np.array(["x", "a", "x"])
    hashes = perceptual_hashes(root, paths, contents, cache, lambda done, total: seen.append((done, total)))
    assert set(hashes.bad) == {0, 2} and "not an image" in hashes.bad[2] and seen[-1] == (3, 3)
    assert not hashes.bits[[0, 2]].any() and hashes.bits[1].any()


def test_findings_that_are_not_mentioned_are_the_same_label() -> None:
    nan = np.nan
    numbers = labels_numbered(np.array([[1, nan], [1, nan], [1, 0], [1, -1]], dtype=np.float32))
    assert numbers[0] == numbers[1] and len(set(numbers.tolist())) == 3


def test_a_cache_that_cannot_be_written_is_a_mistake(root: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Mistake, match="set `cache` to a writable folder"):
        perceptual_hashes(root, ["a.png"], np.array(["a"]), tmp_path / "file")
