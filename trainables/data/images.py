"""Opens one image file safely, as 8-bit grey or colour the right way up, or says why not.

Pillow alone would saturate 16-bit images, turn float ones black, ignore the camera's orientation and expand a small
file to any size. DICOM files are known by their preamble, whatever their name; see trainables.data.dicom.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from trainables.data.bad_image import MAX_PIXELS, refuse_too_large
from trainables.data.bad_image import BadImage as BadImage
from trainables.data.dicom import is_dicom, open_dicom, read_dicom_header

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".dcm", ".dicom"})

_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N")
_GREY = ("1", "L", "LA", *_SIXTEEN_BIT)
_COLOUR = ("RGB", "RGBA", "RGBX", "P", "PA", "CMYK", "YCbCr")
_REFUSED = {
    "F": "floating-point values have no known range; store it as 8-bit or 16-bit integers",
    "I": "32-bit or signed integers have no known range; store it as 8-bit or unsigned 16-bit integers",
}
_TIFF_BITS, _TIFF_PHOTOMETRIC = 258, 262
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange width and height

Size = tuple[int, int]  # height, width

# Pillow only warns between once and twice its limit, where we refuse.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Header:
    """What is known of an image before it is decoded."""

    grey: bool
    """It will open as "L"."""
    size: Size
    """Of a JPEG the right way up, of others as stored, in pixels."""
    jpeg: bool

    def reduction(self, target: Size | None) -> int:
        """1, 2, 4 or 8: by how much a JPEG's decoder may shrink it, both sides staying at least as long as `target`."""
        if target is None or not self.jpeg:
            return 1
        most = min(self.size[0] // target[0], self.size[1] // target[1])
        return next((factor for factor in (8, 4, 2) if most >= factor), 1)


def read_header(source: Path | BinaryIO) -> Header:
    """Reads the header only.

    Raises:
        BadImage: neither one of `FORMATS` nor DICOM, too many pixels, or values of a kind that can't become 8-bit.
    """
    try:
        with _binary(source) as file:
            if is_dicom(file):
                grey, size = read_dicom_header(file)
                return Header(grey=grey, size=size, jpeg=False)
            with _opened(file) as image:
                return _header(image)
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise _undecodable(error) from None


def open_image(source: Path | BinaryIO, target: Size | None = None) -> Image.Image:
    """Decodes an image.

    16-bit values are scaled linearly (full range, or that of a TIFF's BitsPerSample; Pillow gives 16-bit colour as its
    high bytes), transparency is composed on black, palettes and CMYK become RGB, EXIF orientation is applied.

    Args:
        target: height and width that the image will be shrunk to; lets a JPEG be decoded at 1/2, 1/4 or 1/8 where the
            result stays at least as large.

    Returns:
        Mode "L" or "RGB".

    Raises:
        BadImage: as `read_header`, or truncated, or damaged so that it can't be decoded.
    """
    # A switch of the whole process that some libraries turn on; grey filling in a truncated image is no pixel of it.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with _binary(source) as file:
            if is_dicom(file):
                return open_dicom(file)
            with _opened(file) as image:
                header = _header(image)
                if header.reduction(target) > 1 and target is not None:
                    height, width = target[::-1] if _orientation(image) in _SIDEWAYS else target
                    image.draft(None, (width, height))
                bits, inverted = _tiff_values(image)
                return _eight_bit(ImageOps.exif_transpose(image), bits, inverted)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise a dozen kinds on damaged files
        raise _undecodable(error) from None


def _binary(source: Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    # Never by name: Pillow 13 then maps uncompressed TIFFs, and scrambles those whose orientation is sideways.
    return source.open("rb") if isinstance(source, Path) else nullcontext(source)


@contextmanager
def _opened(file: BinaryIO) -> Iterator[Image.Image]:
    # Pillow's own limit, for checks inside its decoders, set to ours.
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    with Image.open(file, formats=FORMATS) as image:
        yield image


def _header(image: Image.Image) -> Header:
    width, height = image.size
    refuse_too_large(height, width)
    if image.mode in _REFUSED:
        raise BadImage(_REFUSED[image.mode])
    if image.mode not in _GREY + _COLOUR:
        raise BadImage(f"colour mode {image.mode} isn't supported; store it as grey or RGB")
    # MPO is what many cameras write as .jpg: its first frame is the picture, the others previews.
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        raise BadImage(f"holds {frames} images; expected one, so store the one that is meant by itself")
    jpeg = isinstance(image, JpegImageFile)
    if jpeg and _orientation(image) in _SIDEWAYS:
        width, height = height, width
    return Header(grey=image.mode in _GREY, size=(height, width), jpeg=jpeg)


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _tiff_values(image: Image.Image) -> tuple[int, bool]:
    """Bits that a 16-bit sample uses, and whether 0 is white, which Pillow inverts for 8 bits but not for 16."""
    if not isinstance(image, TiffImageFile):
        return 16, False
    return int(image.tag_v2.get(_TIFF_BITS, (16,))[0]), image.tag_v2.get(_TIFF_PHOTOMETRIC) == 0


def _eight_bit(image: Image.Image, bits: int, inverted: bool) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        return _from_sixteen_bit(image, bits, inverted)
    if image.has_transparency_data:
        mode = "LA" if image.mode in _GREY else "RGBA"
        layered = image if image.mode == mode else image.convert(mode)
        black = Image.new(mode, image.size, (0, 255) if mode == "LA" else (0, 0, 0, 255))
        black.paste(layered, mask=layered.getchannel("A"))
        image = black
    return image.convert("L" if image.mode in _GREY else "RGB")


def _from_sixteen_bit(image: Image.Image, bits: int, inverted: bool) -> Image.Image:
    most = (1 << bits) - 1
    table = np.minimum((np.arange(1 << 16, dtype=np.int64) * 255 * 2 + most) // (2 * most), 255).astype(np.uint8)
    if inverted:
        table = 255 - table
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        table[transparent] = 0
    return Image.fromarray(table[np.asarray(image)])


def _undecodable(error: Exception) -> BadImage:
    if isinstance(error, FileNotFoundError):
        return BadImage("no such file")
    if isinstance(error, UnidentifiedImageError):
        return BadImage(f"not an image in one of the formats {', '.join(FORMATS)}, DICOM")
    if isinstance(error, Image.DecompressionBombError):
        return BadImage(f"more than the {MAX_PIXELS // 1_000_000} million pixels allowed")
    if "truncated" in str(error):
        return BadImage("truncated: the file ends before the image does")
    return BadImage(f"damaged, can't be decoded ({error.__class__.__name__})")
