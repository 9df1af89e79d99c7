from __future__ import annotations

import io
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFile

from trainables.data.images import BadImage, open_image, read_header


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = b"".join(chunk(*c) for c in chunks)
    ending = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + ending


def pixels(image: Image.Image) -> list:
    return np.asarray(image).tolist()


def test_16_bit_is_scaled_linearly(tmp_path: Path) -> None:
    values = np.array([[0, 128, 129, 257], [32768, 65278, 65406, 65535]], dtype=np.uint16)
    golden = [[0, 0, 1, 1], [128, 254, 254, 255]]
    for name in ("image.png", "image.tif"):
        Image.fromarray(values).save(tmp_path / name)
        image = open_image(tmp_path / name)
        assert (image.mode, pixels(image)) == ("L", golden)
        assert read_header(tmp_path / name).grey


def test_16_bit_png_with_a_transparent_value() -> None:
    rows = b"\x00" + struct.pack(">3H", 65535, 500, 32768)
    image = open_image(io.BytesIO(png(3, 1, 16, 0, rows, (b"tRNS", struct.pack(">H", 65535)))))
    assert pixels(image) == [[0, 2, 128]]


def tiff(values: list[int], bits: int, photometric: int) -> bytes:
    """One row, little-endian, uncompressed."""
    if bits == 12:
        first, second = values
        data = bytes([first >> 4, (first & 15) << 4 | second >> 8, second & 255])
    else:
        data = struct.pack(f"<{len(values)}H", *values)
    tags = {256: len(values), 257: 1, 258: bits, 259: 1, 262: photometric, 273: 200, 277: 1, 278: 1, 279: len(data)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(tags)) + directory + struct.pack("<I", 0)
    return head.ljust(200, b"\x00") + data


def test_tiff_of_12_bits_and_white_as_zero() -> None:
    assert pixels(open_image(io.BytesIO(tiff([4095, 2048], 12, 1)))) == [[255, 128]]
    assert pixels(open_image(io.BytesIO(tiff([0, 65535, 32768], 16, 0)))) == [[255, 0, 127]]


def test_transparency_is_composed_on_black(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[200, 100, 50, 128], [9, 9, 9, 0]]], dtype=np.uint8), "RGBA").save(tmp_path / "rgba.png")
    image = open_image(tmp_path / "rgba.png")
    assert (image.mode, pixels(image)) == ("RGB", [[[100, 50, 25], [0, 0, 0]]])
    Image.fromarray(np.array([[[200, 128], [200, 0], [200, 255]]], dtype=np.uint8), "LA").save(tmp_path / "la.png")
    image = open_image(tmp_path / "la.png")
    assert (image.mode, pixels(image)) == ("L", [[100, 0, 200]])
    rows = b"\x00" + bytes([1, 2, 3, 4, 5, 6])
    keyed = open_image(io.BytesIO(png(2, 1, 8, 2, rows, (b"tRNS", struct.pack(">3H", 4, 5, 6)))))
    assert pixels(keyed) == [[[1, 2, 3], [0, 0, 0]]]


def test_palette_with_and_without_transparency() -> None:
    palette = (b"PLTE", bytes([255, 0, 0, 0, 255, 0]))
    rows = b"\x00\x00\x01"
    assert pixels(open_image(io.BytesIO(png(2, 1, 8, 3, rows, palette)))) == [[[255, 0, 0], [0, 255, 0]]]
    layered = open_image(io.BytesIO(png(2, 1, 8, 3, rows, palette, (b"tRNS", bytes([128, 255])))))
    assert pixels(layered) == [[[128, 0, 0], [0, 255, 0]]]


def test_black_and_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1").save(tmp_path / "bits.png")
    image = open_image(tmp_path / "bits.png")
    assert (image.mode, pixels(image)) == ("L", [[0, 255]])


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    Image.new("CMYK", (2, 1), (0, 255, 255, 0)).save(tmp_path / "cmyk.tif")
    image = open_image(tmp_path / "cmyk.tif")
    assert (image.mode, pixels(image)) == ("RGB", [[[255, 0, 0], [255, 0, 0]]])
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)
    red = np.asarray(open_image(tmp_path / "cmyk.jpg"))[8, 8].astype(int)
    assert abs(red - [255, 0, 0]).max() <= 4


@pytest.mark.parametrize(
    ("orientation", "golden"),
    [
        (1, [[1, 2, 3], [4, 5, 6]]),
        (2, [[3, 2, 1], [6, 5, 4]]),
        (3, [[6, 5, 4], [3, 2, 1]]),
        (4, [[4, 5, 6], [1, 2, 3]]),
        (5, [[1, 4], [2, 5], [3, 6]]),
        (6, [[4, 1], [5, 2], [6, 3]]),
        (7, [[6, 3], [5, 2], [4, 1]]),
        (8, [[3, 6], [2, 5], [1, 4]]),
    ],
)
def test_exif_orientation(tmp_path: Path, orientation: int, golden: list) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8)).save(tmp_path / "turned.png", exif=exif)
    assert pixels(open_image(tmp_path / "turned.png")) == golden
    # A TIFF is stored as 16 bits, whose modes turn by code of their own.
    deep = Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint16) * 257)
    deep.save(tmp_path / "turned.tif", exif=exif)
    assert pixels(open_image(tmp_path / "turned.tif")) == golden


def test_a_jpeg_is_decoded_small_but_never_below_the_target(tmp_path: Path, write_image) -> None:
    smooth = Image.linear_gradient("L").resize((400, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth.save(tmp_path / "turned.jpg", exif=exif)
    assert read_header(tmp_path / "turned.jpg").size == (400, 200)
    for target, size in (
        ((100, 50), (100, 50)),
        ((101, 50), (200, 100)),
        ((400, 10), (400, 200)),
        ((500, 9), (400, 200)),
    ):
        image = open_image(tmp_path / "turned.jpg", target)
        assert (image.height, image.width) == size
    whole = np.asarray(open_image(tmp_path / "turned.jpg").reduce(4), dtype=int)
    assert abs(np.asarray(open_image(tmp_path / "turned.jpg", (100, 50)), dtype=int) - whole).max() <= 3
    assert open_image(write_image(tmp_path / "image.png", size=(64, 64)), (8, 8)).size == (64, 64)


def test_values_without_a_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((2, 2), dtype=np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(BadImage, match="floating-point"):
        open_image(tmp_path / "float.tif")
    Image.fromarray(np.ones((2, 2), dtype=np.int32)).save(tmp_path / "int.tif")
    with pytest.raises(BadImage, match="32-bit"):
        open_image(tmp_path / "int.tif")


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.tif", "image.bmp", "image.webp"])
def test_truncated_is_refused_even_if_another_library_allows_it(
    tmp_path: Path, write_image, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    path = write_image(tmp_path / name, size=(64, 64))
    assert open_image(path).size == (64, 64)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BadImage):
        open_image(path)


def test_other_files_are_refused(tmp_path: Path, write_image) -> None:
    (tmp_path / "page.jpg").write_text("<html>not found</html>")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("L", (4, 4)).save(tmp_path / "image.gif")
    for name in ("page.jpg", "empty.png", "image.gif"):
        with pytest.raises(BadImage, match="formats PNG"):
            open_image(tmp_path / name)
    with pytest.raises(BadImage, match="no such file"):
        open_image(tmp_path / "missing.png")
    pages = [Image.new("L", (4, 4), shade) for shade in (0, 9)]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(BadImage, match="2 images"):
        open_image(tmp_path / "pages.tif")


@pytest.mark.parametrize("side", [10_001, 15_000, 60_000])
def test_bombs_are_refused_before_decoding(side: int) -> None:
    # One chunk of zeros would grow to `side` rows; the third row is broken, which nobody gets to see.
    bomb = png(side, side, 8, 0, b"\x00" * 2000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for opener in (open_image, read_header):
        with pytest.raises(BadImage, match="million"):
            opener(io.BytesIO(bomb))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 20_000, f"{grown} KiB more"
