from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from spaces import sources
from spaces.mistakes import Mistake
from spaces.sources import sources_digest
from trainables.data import stored
from trainables.data.contents import content_hashes
from trainables.data.images import open_image
from trainables.data.pixels import (
    CODE,
    DECODERS,
    DECODING,
    PixelSpec,
    decode_file,
    open_many,
    open_pixels,
    pixel_key,
)

SMALL = PixelSpec(height=8, width=6)


@pytest.fixture
def manifest(tmp_path: Path, write_image, listed):
    names = [f"{i:02d}.png" for i in range(40)]
    for i, name in enumerate(names):
        write_image(tmp_path / "data" / name, i)
    return listed(tmp_path / "data", names)


def test_rows_are_the_images_in_order(manifest, cache: Path) -> None:
    seen: list[tuple[int, int]] = []
    pixels = open_pixels(manifest, SMALL, cache, progress=lambda done, of: seen.append((done, of)))
    assert pixels.array.shape == (40, 3, 8, 6) and pixels.array.dtype == np.uint8 and pixels.decoded == 40
    assert not pixels.array.flags.writeable and isinstance(pixels.array, np.memmap)
    for row in (0, 7, 39):
        image = open_image(manifest.root / manifest.paths[row]).resize((6, 8), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(pixels.array[row], np.asarray(image).transpose(2, 0, 1))
    assert seen[-1] == (40, 40)
    assert open_pixels(manifest, SMALL, cache).decoded == 0
    assert sorted(p.name for p in (cache / "pixels").iterdir()) == [pixels.key, f"{pixels.key}.lock"]


def test_number_of_threads_does_not_matter(manifest, tmp_path: Path) -> None:
    one, four = (open_pixels(manifest, SMALL, tmp_path / str(n), workers=n) for n in (1, 4))
    np.testing.assert_array_equal(one.array, four.array)


def test_fits(tmp_path: Path, listed, cache: Path) -> None:
    wide = np.zeros((10, 20), dtype=np.uint8)
    wide[:, :5], wide[:, 5:15], wide[:, 15:] = 50, 100, 150
    (tmp_path / "data").mkdir()
    Image.fromarray(wide).save(tmp_path / "data" / "wide.png")
    manifest = listed(tmp_path / "data", ["wide.png"])
    stretch, pad, crop = (
        open_pixels(manifest, PixelSpec(height=10, width=10, fit=fit), cache).array[0, 0].astype(int)
        for fit in ("stretch", "pad", "crop")
    )
    assert (stretch[:, 0] == 50).all() and (stretch[:, 5] == 100).all() and (stretch[:, 9] == 150).all()
    assert (pad[:2] == 0).all() and (pad[8:] == 0).all() and (pad[3:7, 5] == 100).all() and (pad[3:7, 0] == 50).all()
    assert (crop == 100).all()


def test_one_channel_only_where_all_are_grey(tmp_path: Path, write_image, listed, cache: Path) -> None:
    grey = [write_image(tmp_path / "data" / f"{i}.png", i, mode="L").name for i in range(3)]
    assert open_pixels(listed(tmp_path / "data", grey), SMALL, cache).array.shape == (3, 1, 8, 6)
    write_image(tmp_path / "data" / "colour.png", 9)
    mixed = open_pixels(listed(tmp_path / "data", [*grey, "colour.png"]), SMALL, cache)
    assert mixed.array.shape == (4, 3, 8, 6)
    assert (mixed.array[0, 0] == mixed.array[0, 2]).all() and (mixed.array[3, 0] != mixed.array[3, 2]).any()


def test_key_follows_content_order_and_spec(manifest, write_image, listed) -> None:
    keys = {pixel_key(manifest, SMALL), pixel_key(manifest.take(np.arange(39, -1, -1)), SMALL)}
    keys |= {pixel_key(manifest, PixelSpec(height=h, width=w, fit=f)) for h, w, f in ((6, 8, "stretch"), (8, 6, "pad"))}
    write_image(manifest.root / "00.png", 1000)
    changed = listed(manifest.root, manifest.paths.tolist())
    keys.add(pixel_key(changed, SMALL))
    keys |= {
        pixel_key(manifest, PixelSpec(height=8, width=6, **other))
        for other in ({"centre": 0.9}, {"crop": "disc"}, {"crop": "breast"}, {"crop": "breast", "side": "left"})
    }
    assert len(keys) == 9


def test_key_follows_code_and_decoders(manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pixel_key(manifest, SMALL)
    keys = {before}
    others = [("CODE", "other"), *(("DECODERS", {**DECODERS, name: "0.1"}) for name in DECODERS)]
    for name, value in others:
        with monkeypatch.context() as patched:
            patched.setattr(f"trainables.data.pixels.{name}", value)
            keys.add(pixel_key(manifest, SMALL))
    assert set(DECODERS) == {"pillow", "pydicom", "gdcm", "scipy"} and len(keys) == 6
    assert pixel_key(manifest, SMALL) == before


def test_versions_of_all_decoders_are_looked_at_before_a_search_goes_on() -> None:
    assert {package.removeprefix("python-") for package in sources.DECODERS} == set(DECODERS)


@pytest.mark.parametrize("edited", ["pixels.py", "images.py", "dicom.py", "crops.py"])
def test_an_edit_of_what_decodes_changes_every_key(edited: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sources_digest(DECODING) == CODE
    read = Path.read_bytes

    def with_edit(file: Path) -> bytes:
        return read(file) + (b"#" if file.as_posix().endswith(f"trainables/data/{edited}") else b"")

    monkeypatch.setattr(Path, "read_bytes", with_edit)
    assert sources_digest(DECODING) != CODE


def test_several_specs_are_decoded_once(manifest, cache: Path, tmp_path: Path) -> None:
    specs = [SMALL, PixelSpec(height=4, width=4), SMALL, PixelSpec(height=5, width=5, fit="pad")]
    first = open_pixels(manifest, specs[1], cache)
    several = open_many(manifest, specs, cache)
    assert (first.decoded, sum(p.decoded for p in several)) == (40, 40)
    for spec, pixels in zip(specs, several, strict=True):
        alone = open_pixels(manifest, spec, tmp_path / "alone")
        assert pixels.key == alone.key
        np.testing.assert_array_equal(pixels.array, alone.array)


def test_a_jpegs_pixels_do_not_depend_on_what_is_built_with_them(tmp_path: Path, write_image, listed) -> None:
    names = [write_image(tmp_path / "data" / f"{i}.jpg", i, size=(64, 64)).name for i in range(3)]
    manifest = listed(tmp_path / "data", names)
    specs = [PixelSpec(height=n, width=n) for n in (8, 9, 20, 64)]  # decoded at 1/8, 1/4, 1/2 and 1/1
    together = open_many(manifest, specs, tmp_path / "together")
    for spec, pixels in zip(specs, together, strict=True):
        np.testing.assert_array_equal(pixels.array, open_pixels(manifest, spec, tmp_path / "alone").array)
    assert sum(p.decoded for p in together) == 12
    same = open_many(manifest, [PixelSpec(height=n, width=n) for n in (20, 22, 30)], tmp_path / "same")
    assert sum(p.decoded for p in same) == 3


@pytest.mark.parametrize("spoil", ["flip", "truncate", "meta", "no meta", "no pixels"])
def test_damage_is_found_and_built_again(
    manifest, cache: Path, spoil: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "CHUNK", 1000)  # several chunks, the last one shorter
    pixels = open_pixels(manifest, SMALL, cache)
    before = np.array(pixels.array)
    file, meta = (cache / "pixels" / pixels.key / name for name in ("array", "meta.json"))
    assert len(json.loads(meta.read_text())["chunks"]) == 6
    if spoil == "flip":
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
    elif spoil == "truncate":
        os.truncate(file, file.stat().st_size - 1)
    elif spoil == "meta":
        meta.write_text(meta.read_text().replace("stretch", "pad"))
    else:
        (meta if spoil == "no meta" else file).unlink()
    del pixels
    with caplog.at_level(logging.WARNING):
        again = open_pixels(manifest, SMALL, cache)
    assert again.decoded == 40 and "damaged" in caplog.text
    np.testing.assert_array_equal(again.array, before)
    assert open_pixels(manifest, SMALL, cache).decoded == 0


def test_digests_are_checked_once_a_process(manifest, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_pixels(manifest, SMALL, cache)
    checked: list[Path] = []
    real = stored.chunk_digests

    def counting(file: Path, chunk: int) -> list[str]:
        checked.append(file)
        return real(file, chunk)

    monkeypatch.setattr(stored, "chunk_digests", counting)
    open_pixels(manifest, SMALL, cache)
    assert not checked, "what this process has just written"
    monkeypatch.setattr(stored, "_verified", set())  # as in a new one
    for _ in range(3):
        open_pixels(manifest, SMALL, cache)
    assert len(checked) == 1


BUILDER = """
import sys, json
from pathlib import Path
from trainables.data.manifest import Manifest
from trainables.data.pixels import PixelSpec, open_many
manifest = Manifest.load(Path(sys.argv[1]))
print("ready", flush=True); sys.stdin.readline()
specs = [PixelSpec(height=h, width=6) for h in json.loads(sys.argv[3])]
several = open_many(manifest, specs, Path(sys.argv[2]), workers=1)
print(json.dumps([[p.decoded, int(p.array.sum(dtype=int))] for p in several]))
"""


def test_two_processes_build_a_key_once(manifest, cache: Path, tmp_path: Path) -> None:
    manifest.save(tmp_path / "manifest.npz")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, str(tmp_path / "manifest.npz"), str(cache), heights],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        for heights in ("[50, 40]", "[40, 50]")
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    results = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert sum(decoded for result in results for decoded, _ in result) == 40, "each image once in all"
    assert results[0][0][1] == results[1][1][1] and results[0][1][1] == results[1][0][1]


def test_what_a_killed_builder_left_does_not_matter(manifest, cache: Path) -> None:
    left = cache / "pixels" / f"{pixel_key(manifest, SMALL)}.partial"
    left.mkdir(parents=True)
    (left / "array").write_bytes(b"half")
    assert open_pixels(manifest, SMALL, cache).decoded == 40
    assert not left.exists()


def test_bad_images_are_told_together_and_nothing_stays(manifest, cache: Path) -> None:
    for i in range(11):
        path = manifest.root / f"{i:02d}.png"
        path.write_bytes(path.read_bytes()[:-40])
    (manifest.root / "20.png").write_bytes(b"<html>")
    (manifest.root / "21.png").unlink()
    there = [name for name in manifest.paths.tolist() if name != "21.png"]
    manifest.contents[[manifest.paths.tolist().index(name) for name in there]] = content_hashes(
        manifest.root, there, cache
    )
    with pytest.raises(Mistake) as mistake:
        open_pixels(manifest, SMALL, cache)
    sentences = mistake.value.sentences
    assert sentences[0].startswith("dataset: 13 of 40 images can't be used")
    assert len(sentences) == 12 and sentences[1].startswith("00.png: truncated")
    assert sentences[-1] == "dataset: 3 more images that can't be used (13 in all)."
    assert [p.suffix for p in (cache / "pixels").iterdir()] == [".lock"]


def test_an_image_that_changed_since_is_refused(manifest, cache: Path, write_image) -> None:
    write_image(manifest.root / "03.png", 77)
    with pytest.raises(Mistake, match="03.png: changed"):
        open_pixels(manifest, SMALL, cache)


def test_no_place_to_write(manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(Mistake, match="No space left"):
        open_pixels(manifest, SMALL, tmp_path / "full")
    assert [p.suffix for p in (tmp_path / "full" / "pixels").iterdir()] == [".lock"]


def test_long_unwanted_pixels_make_room_on_a_full_disk(manifest, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = cache / "pixels"
    oldest, old, new = (open_pixels(manifest, PixelSpec(height=n, width=10), cache).key for n in (10, 9, 8))
    for key, days in ((oldest, 20), (old, 10)):
        os.utime(home / key, times=(then := time.time() - days * 24 * 3600, then))

    def taken() -> int:
        return sum(file.stat().st_size for file in home.glob("*/array"))

    disk = taken() + 10
    monkeypatch.setattr(stored.shutil, "disk_usage", lambda folder: SimpleNamespace(free=disk - taken()))
    first = open_pixels(manifest, PixelSpec(height=10, width=9), cache)
    assert [(home / key).exists() for key in (oldest, old, new, first.key)] == [False, True, True, True]
    second = open_pixels(manifest, PixelSpec(height=9, width=9), cache)
    third = open_pixels(manifest, PixelSpec(height=10, width=8), cache)
    left = [(home / key).exists() for key in (old, new, first.key, second.key, third.key)]
    assert left == [False, True, True, True, True], "what was wanted this week stays"


def test_an_interrupted_build_leaves_nothing(manifest, cache: Path) -> None:
    def interrupt(done: int, of: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_pixels(manifest, SMALL, cache, progress=interrupt)
    assert [p.suffix for p in (cache / "pixels").iterdir()] == [".lock"]
    assert open_pixels(manifest, SMALL, cache).decoded == 40


CROPPED = [PixelSpec(height=n, width=n, crop="breast", side=side) for n in (8, 20, 64) for side in ("keep", "left")]


@pytest.fixture
def breasts(tmp_path: Path, listed):
    """A grey rectangle at the left and at the right edge, in JPEGs large enough to be decoded smaller."""
    (tmp_path / "data").mkdir()
    for name, left in (("left.jpg", 0), ("right.jpg", 300)):
        image = np.zeros((600, 500), dtype=np.uint8)
        image[100:400, left : left + 200] = np.linspace(60, 200, 200)[:: 1 if left else -1]
        Image.fromarray(image).save(tmp_path / "data" / name, quality=95)
    return listed(tmp_path / "data", ["left.jpg", "right.jpg"])


def test_crops_are_cut_before_resizing(breasts, cache: Path) -> None:
    whole, keep, left = (
        np.array(open_pixels(breasts, spec, cache).array, dtype=int)
        for spec in (PixelSpec(height=64, width=64), *CROPPED[-2:])
    )
    assert (whole[0, 0, :, 40:] < 10).all() and (whole[:, 0, 50:] < 10).all()
    assert (keep[:, 0, 8:56, 8:56] > 50).all(), "the rectangle fills the crop"
    assert keep[1, 0, 32, 60] > 180 and keep[1, 0, 32, 4] < 90
    np.testing.assert_array_equal(left[1], keep[1, :, :, ::-1])
    np.testing.assert_array_equal(left[0], keep[0])


def test_a_crop_does_not_depend_on_what_is_built_with_it(breasts, tmp_path: Path) -> None:
    specs = [*CROPPED, *(PixelSpec(height=n, width=n) for n in (8, 64))]
    together = open_many(breasts, specs, tmp_path / "together")
    assert len({p.key for p in together}) == len(specs)
    assert sum(p.decoded for p in together) == 2 * 3, "once whole, twice smaller"
    for spec, pixels in zip(specs, together, strict=True):
        np.testing.assert_array_equal(pixels.array, open_pixels(breasts, spec, tmp_path / "alone").array)
        np.testing.assert_array_equal(pixels.array[1], decode_file(breasts.root / "right.jpg", spec))


def test_dicom_files_among_others(tmp_path: Path, write_image, listed, cache: Path) -> None:
    data = tmp_path / "data"
    write_image(data / "a.png", 1, mode="L")
    source = get_testdata_file("MR_small_RLE.dcm", download=False)
    (data / "b.dcm").write_bytes(Path(str(source)).read_bytes())
    (data / "c").write_bytes(Path(str(source)).read_bytes())
    spec = PixelSpec(height=64, width=64)
    pixels = open_pixels(listed(data, ["a.png", "b.dcm", "c"]), spec, cache)
    assert pixels.array.shape == (3, 1, 64, 64)
    for row in (1, 2):
        np.testing.assert_array_equal(pixels.array[row, 0], np.asarray(open_image(data / "b.dcm")))
    np.testing.assert_array_equal(pixels.array[1], decode_file(data / "c", spec))
    (data / "b.dcm").write_bytes((data / "c").read_bytes()[:-300])
    with pytest.raises(Mistake, match=r"b\.dcm: truncated"):
        open_pixels(listed(data, ["a.png", "b.dcm", "c"]), PixelSpec(height=9, width=9), cache)


def test_the_centre_of_what_fits(tmp_path: Path, cache: Path, listed) -> None:
    pixels = np.arange(16 * 32, dtype=np.uint32).reshape(16, 32).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    manifest = listed(tmp_path, ["a.png"])
    whole = open_pixels(manifest, PixelSpec(height=16, width=32), cache).array[0, 0]
    centre = open_pixels(manifest, PixelSpec(height=14, width=28, centre=0.875), cache)
    assert np.array_equal(centre.array[0, 0], whole[1:15, 2:30]) and centre.key != open_pixels(
        manifest, PixelSpec(height=14, width=28), cache
    ).key  # fmt: skip
    assert np.array_equal(
        decode_file(tmp_path / "a.png", PixelSpec(height=14, width=28, centre=0.875))[0], whole[1:15, 2:30]
    )
