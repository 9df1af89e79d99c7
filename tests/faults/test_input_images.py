"""Images of every kind and in every state: the right pixels, or refused with the reason, and never a lot of memory.

Each kind by itself, pixel by pixel, is in tests/trainables/data/test_images.py and test_dicom.py.
"""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from spaces.mistakes import Mistake
from trainables.data.images import BadImage, open_image
from trainables.data.manifest import Manifest
from trainables.data.pixels import PixelSpec, open_pixels

GREY = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
COLOUR = np.stack([GREY, GREY.T, 255 - GREY], axis=-1)
LIMIT_MIB = 100


def dicom(rows: int, columns: int, pixels: bytes, frames: int | None = None) -> bytes:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = rows, columns
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    if frames is not None:
        dataset.NumberOfFrames = frames
    dataset.PixelData = pixels
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def encoded(image: Image.Image, form: str, **more: object) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **more)  # type: ignore[arg-type]
    return file.getvalue()


def turned(image: Image.Image) -> bytes:
    """Stored on its side, with the orientation that puts it right."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image.transpose(Image.Transpose.ROTATE_90), "PNG", exif=exif)


def kinds_of_grey() -> dict[str, bytes]:
    grey, sixteen = Image.fromarray(GREY), Image.fromarray(GREY.astype(np.uint16) * 257)
    opaque = Image.merge("LA", [grey, Image.new("L", grey.size, 255)])
    return {
        "8 bits": encoded(grey, "PNG"),
        "16 bits": encoded(sixteen, "PNG"),
        "16 bits, TIFF": encoded(sixteen, "TIFF"),
        "alpha": encoded(opaque, "PNG"),
        "rotated": turned(grey),
        "BMP": encoded(grey, "BMP"),
        "DICOM": dicom(8, 8, GREY.tobytes()),
    }


def kinds_of_colour() -> dict[str, bytes]:
    colour = Image.fromarray(COLOUR)
    ink = Image.fromarray(np.concatenate([255 - COLOUR, np.zeros((8, 8, 1), np.uint8)], axis=-1), "CMYK")
    deep = COLOUR.astype(">u2") * 257
    lines = b"".join(b"\0" + deep[row].tobytes() for row in range(8))
    return {
        "8 bits": encoded(colour, "PNG"),
        "CMYK": encoded(ink, "TIFF"),
        "palette": encoded(colour.quantize(256), "PNG"),
        "alpha": encoded(colour.convert("RGBA"), "PNG"),
        "rotated": turned(colour),
        "lossless WebP": encoded(colour, "WEBP", lossless=True),
        "16 bits": png(8, 8, 16, 2, zlib.compress(lines)),
    }


def png(width: int, height: int, depth: int, colour: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = ((b"IHDR", header), *more, (b"IDAT", data), (b"IEND", b""))
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("kinds", "golden"), [(kinds_of_grey, GREY), (kinds_of_colour, COLOUR)])
def test_one_picture_is_the_same_pixels_in_every_kind(
    kinds: Callable[[], dict[str, bytes]],
    golden: np.ndarray,
    tmp_path: Path,
    listed: Callable[..., Manifest],
    cache: Path,
) -> None:
    """Through the file of pixels that trials map, each kind of one picture gives the picture's own values."""
    made = kinds()
    for index, data in enumerate(made.values()):
        (tmp_path / f"{index}.png").write_bytes(data)
    manifest = listed(tmp_path, [f"{index}.png" for index in range(len(made))])
    array = open_pixels(manifest, PixelSpec(height=8, width=8), cache).array
    expected = golden[None] if golden.ndim == 2 else golden.transpose(2, 0, 1)
    for name, row in zip(made, array, strict=True):
        assert np.array_equal(row, expected), name


def test_what_has_no_golden_pixels_is_refused_with_the_reason(
    tmp_path: Path, listed: Callable[..., Manifest], cache: Path
) -> None:
    """Values without a range, several pictures in a file and other files: all named at once, and no pixels kept."""
    grey = Image.fromarray(GREY)
    bad = {
        "float.tif": (encoded(Image.fromarray(GREY.astype(np.float32)), "TIFF"), "floating-point"),
        "int.tif": (encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "32-bit or signed"),
        "two.tif": (encoded(grey, "TIFF", save_all=True, append_images=[grey]), "holds 2 images"),
        "lab.tif": (encoded(Image.new("LAB", (8, 8)), "TIFF"), "colour mode LAB"),
        "film.dcm": (dicom(8, 8, GREY.tobytes() * 2, frames=2), "frames"),
        "page.jpg": (b"<!DOCTYPE html><html>not found</html>", "not an image"),
        "empty.jpg": (b"", "not an image"),
        "cut.png": (encoded(grey, "PNG")[:-30], "truncated"),
    }
    for name, (data, _) in bad.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(Mistake) as caught:
        open_pixels(listed(tmp_path, sorted(bad)), PixelSpec(height=8, width=8), cache)
    first, *others = caught.value.full
    assert first.startswith("dataset: 8 of 8 images can't be used")
    for name, (_, reason) in bad.items():
        assert sum(sentence.startswith(f"{name}: ") and reason in sentence for sentence in others) == 1, (name, others)
    assert not list((cache / "pixels").glob("*/array"))


FILES = {
    "PNG": encoded(Image.fromarray(COLOUR), "PNG"),
    "JPEG": encoded(Image.fromarray(COLOUR).resize((64, 64)), "JPEG"),
    "TIFF": encoded(Image.fromarray(GREY), "TIFF", compression="tiff_lzw"),
    "BMP": encoded(Image.fromarray(COLOUR), "BMP"),
    "WebP": encoded(Image.fromarray(COLOUR), "WEBP", lossless=True),
    "DICOM": dicom(8, 8, GREY.tobytes()),
}


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.differing_executors])
@pytest.mark.parametrize("form", FILES)
@given(share=st.floats(0, 1, exclude_max=True))
@example(share=0.999)
def test_cut_anywhere(form: str, share: float) -> None:
    """A file that ends early is refused, or lacks nothing of its pixels; nothing is filled in."""
    whole = FILES[form]
    try:
        found = open_image(io.BytesIO(whole[: int(share * len(whole))]))
    except BadImage as bad:
        assert not bad.reason.endswith(".")
        return
    assert np.array_equal(np.asarray(found), np.asarray(open_image(io.BytesIO(whole))))


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.differing_executors])
@pytest.mark.parametrize("form", FILES)
@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1, max_size=4))
def test_damaged_anywhere(form: str, places: list[tuple[float, int]]) -> None:
    """Damaged bytes give an image or a BadImage, never another error."""
    data = bytearray(FILES[form])
    for share, change in places:
        data[int(share * len(data))] ^= change
    try:
        assert open_image(io.BytesIO(bytes(data))).mode in ("L", "RGB")
    except BadImage as bad:
        assert bad.reason


def tiff(width: int, height: int, *more: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """Little-endian, deflated, one strip. `more`: tag, type, count, value."""
    tags = {256: width, 257: height, 258: 8, 259: 8, 262: 1, 273: 400, 277: 1, 278: height, 279: len(data)}
    entries = sorted([*((tag, 4, 1, value) for tag, value in tags.items()), *more])
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    head = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(entries)) + directory + struct.pack("<I", 0)
    return head.ljust(400, b"\0") + data


def bombs() -> dict[str, bytes]:
    """Small files that become, or ask for, a gigabyte or more."""
    zeros = zlib.compress(bytes(2**26), 9)  # 64 KiB that become 64 MiB
    jpeg = bytearray(encoded(Image.fromarray(GREY), "JPEG"))
    frame = jpeg.index(b"\xff\xc0") + 5
    jpeg[frame : frame + 4] = struct.pack(">HH", 65_000, 65_000)
    bitmap = bytearray(encoded(Image.fromarray(GREY), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 60_000, 60_000)
    return {
        "PNG of 3.6 gigapixels": png(60_000, 60_000, 8, 0, zeros),
        "PNG of 16-bit colour": png(20_000, 20_000, 16, 2, zeros),
        "PNG whose data are longer than the image": png(8, 8, 8, 0, b"".join([zeros] * 4)),
        "PNG with a compressed text": png(8, 8, 8, 0, zlib.compress(bytes(72)), (b"zTXt", b"a\0\0" + zeros)),
        "PNG with a compressed profile": png(8, 8, 8, 0, zlib.compress(bytes(72)), (b"iCCP", b"a\0\0" + zeros)),
        "JPEG": bytes(jpeg),
        "BMP": bytes(bitmap),
        "TIFF of 2.5 gigapixels": tiff(50_000, 50_000, data=zeros),
        "TIFF whose strip is longer than the image": tiff(8, 8, data=zeros),
        "TIFF with a tag of 4 GiB": tiff(8, 8, (270, 2, 2**32 - 1, 400), data=zlib.compress(bytes(64))),
        "DICOM of 4.2 gigapixels": dicom(65_000, 65_000, bytes(64)),
        "DICOM of a billion frames": dicom(8, 8, bytes(64), frames=10**9),
    }


MEASURE = """
import io, json, re, sys
from pathlib import Path
from trainables.data.images import BadImage, open_image, read_header

def opened(data):
    for opener in (read_header, open_image):
        try:
            opener(io.BytesIO(data))
        except BadImage as bad:
            return bad.reason
    return "opened"

def most():  # MiB; since the last reset, of this process alone
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

def reset():
    Path("/proc/self/clear_refs").write_text("5")

found = {}
for small in sorted(Path(sys.argv[1]).glob("*.small")):
    opened(small.read_bytes())
for path in sorted(Path(sys.argv[1]).glob("*.bomb")):
    data = path.read_bytes()
    reset()
    before = most()
    found[path.stem] = (opened(data), most() - before)
reset()
before = most()
opened(Path(sys.argv[1], "large.sound").read_bytes())
found["a sound image"] = ("opened", most() - before)
print(json.dumps(found))
"""


def test_bombs_are_refused_before_they_grow(tmp_path: Path) -> None:
    """In a process of its own that has opened sound images before, no bomb raises the most memory by 100 MB; each is
    refused, or is a small image whose surplus was never unpacked."""
    made = bombs()
    for index, data in enumerate(FILES.values()):
        (tmp_path / f"{index}.small").write_bytes(data)
    for name, data in made.items():
        assert len(data) < 400_000
        (tmp_path / f"{name}.bomb").write_bytes(data)
    (tmp_path / "large.sound").write_bytes(encoded(Image.new("L", (8000, 8000)), "PNG"))
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout)
    assert found.pop("a sound image")[1] > 50, "growth is seen"
    assert found.keys() == made.keys()
    for name, (said, grown) in found.items():
        print(f"{name}: {said}; {grown:.1f} MiB more")
        assert grown < LIMIT_MIB, name
        large = "gigapixels" in name or name in ("PNG of 16-bit colour", "JPEG", "BMP")
        assert not large or "million" in said, (name, said)
