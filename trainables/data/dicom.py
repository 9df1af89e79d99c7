"""Decodes the image of a DICOM file to 8-bit grey or colour. Of the header, nothing is given out but the image's size.

How values become 8 bits (DICOM PS3.3, C.11): Modality LUT or rescaling; then the VOI LUT, else the window, of several
the first. Where there is neither, the whole range that the stored bits can hold is scaled linearly, whatever values
occur, so that equal values stay equal across images. MONOCHROME1 is inverted at the end.
"""

from __future__ import annotations

import logging
import re
import struct
import warnings
from typing import BinaryIO

import gdcm
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.filereader import read_dataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.pixels.utils import pixel_array
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, JPEG2000TransferSyntaxes, RLELossless

from trainables.data.bad_image import BadImage, refuse_too_large

_PREAMBLE, _PREFIX = 128, b"DICM"
_FILE_META = 2  # group
_GREY = ("MONOCHROME1", "MONOCHROME2")
_PALETTE = "PALETTE COLOR"
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_NEEDED = ("Rows", "Columns", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored")
# No other element is read.
_ELEMENTS = [
    *_NEEDED,
    *("NumberOfFrames", "HighBit", "PixelRepresentation", "PlanarConfiguration", "PixelPresentation"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction"),
    *(
        f"{colour}PaletteColorLookupTable{what}"
        for colour in ("Red", "Green", "Blue")
        for what in ("Descriptor", "Data")
    ),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
]
_STORE = "store it uncompressed, as RLE or as JPEG 2000"

# What they say of a file may quote its header. What is wrong with it is told by BadImage.
logging.getLogger("pydicom").setLevel(logging.CRITICAL)
warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()


def is_dicom(file: BinaryIO) -> bool:
    """Whether the file has DICOM's preamble. Leaves the position as it was."""
    position = file.tell()
    file.seek(_PREAMBLE)
    found = file.read(len(_PREFIX)) == _PREFIX
    file.seek(position)
    return found


def read_dicom_header(file: BinaryIO) -> tuple[bool, tuple[int, int]]:
    """Whether the image will open as grey, and its height and width in pixels.

    Raises:
        BadImage: no image, several frames, too many pixels, or of a kind that can't be decoded.
    """
    header = _header(file)
    return header.PhotometricInterpretation in _GREY, (header.Rows, header.Columns)


def open_dicom(file: BinaryIO) -> Image.Image:
    """Decodes the image; mode "L" or "RGB".

    Raises:
        BadImage: as `read_dicom_header`, or truncated, or damaged so that it can't be decoded.
    """
    _header(file)  # before anything large is read
    file.seek(0)
    try:
        dataset = pydicom.dcmread(file, specific_tags=[*_ELEMENTS, "PixelData"])
    except MemoryError:
        raise
    except Exception as error:
        raise BadImage(f"damaged, can't be read ({error.__class__.__name__})") from None
    if "PixelData" not in dataset:  # pydicom gives up all elements where the last one has no end
        raise BadImage("truncated, or without pixels: the file ends before the image does")
    _refuse_other_size(dataset)
    try:
        values = pixel_array(dataset)
    except MemoryError:
        raise
    except Exception as error:  # each decoder has its own
        raise BadImage(_reason(dataset, error)) from None
    interpretation = dataset.PhotometricInterpretation
    shape = (dataset.Rows, dataset.Columns) + ((3,) if interpretation in _COLOUR else ())
    if values.shape != shape:
        raise BadImage("damaged: what it decodes to has another shape than its header says")
    if interpretation in _COLOUR:
        return Image.fromarray(_scaled(values, 0, (1 << dataset.BitsStored) - 1))
    if interpretation == _PALETTE:
        return Image.fromarray(_from_palette(values, dataset))
    low, high = _stored_range(dataset)
    return Image.fromarray(_eight_bit_table(dataset)[np.clip(values, low, high).astype(np.int32) - low])


def _header(file: BinaryIO) -> Dataset:
    """The elements that decoding needs, but for the pixels, checked."""
    syntax = _transfer_syntax(file)
    if syntax == DeflatedExplicitVRLittleEndian:  # pydicom would inflate it to any size
        raise BadImage(f"deflated as a whole; {_STORE}")
    try:
        if not get_decoder(syntax).is_available:
            raise NotImplementedError
    except NotImplementedError:
        raise BadImage(f"its transfer syntax ({syntax.name}) can't be decoded; {_STORE}") from None
    file.seek(0)
    try:
        header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=[*_ELEMENTS])
        _check(header)
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # values that aren't what they should be
        raise BadImage(f"its header is damaged ({error.__class__.__name__})") from None
    return header


def _transfer_syntax(file: BinaryIO) -> UID:
    file.seek(_PREAMBLE + len(_PREFIX))
    try:
        meta = read_dataset(file, False, True, stop_when=lambda tag, vr, length: tag.group != _FILE_META)
        syntax = meta.get("TransferSyntaxUID")
    except Exception as error:
        raise BadImage(f"its header is damaged ({error.__class__.__name__})") from None
    if not syntax:
        raise BadImage("its header doesn't say how the image is encoded (no transfer syntax)")
    return UID(syntax)


def _check(dataset: Dataset) -> None:
    if missing := [name for name in _NEEDED if dataset.get(name) is None]:
        raise BadImage("holds no image" if len(missing) == len(_NEEDED) else f"its header lacks {', '.join(missing)}")
    refuse_too_large(dataset.Rows, dataset.Columns)
    if not (dataset.Rows and dataset.Columns):
        raise BadImage("holds an image without pixels")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise BadImage(f"holds {frames} frames; expected one, so store the one that is meant by itself")
    interpretation, samples = dataset.PhotometricInterpretation, dataset.SamplesPerPixel
    if samples != (3 if interpretation in _COLOUR else 1) or interpretation not in (*_GREY, _PALETTE, *_COLOUR):
        raise BadImage(f"{interpretation} of {samples} samples a pixel isn't supported; store it as grey or RGB")
    allocated, stored = dataset.BitsAllocated, dataset.BitsStored
    if allocated not in (1, 8, 16) or not 1 <= stored <= allocated:
        raise BadImage(f"{stored} bits in {allocated} have no known range; store it as 8-bit or 16-bit integers")
    if dataset.get("HighBit", stored - 1) != stored - 1:
        raise BadImage("its values don't lie in the lowest bits; store them so")
    if interpretation in _COLOUR and dataset.get("PixelRepresentation"):
        raise BadImage("signed colours have no known range; store it as unsigned RGB")


def _refuse_other_size(dataset: Dataset) -> None:
    """A compressed image has a size of its own, and decoders obey that: a few hundred bytes can say 60,000 x 60,000."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if not syntax.is_compressed or syntax == RLELossless:  # RLE can't grow beyond 64 times its own length
        return
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
        size = _size_of_jpeg2000(frame) if syntax in JPEG2000TransferSyntaxes else _size_of_jpeg(frame)
    except Exception:
        raise BadImage("damaged: its compressed image has no readable header") from None
    if size != (dataset.Rows, dataset.Columns):
        raise BadImage("damaged: its compressed image has another size than its header says")


def _size_of_jpeg2000(frame: bytes) -> tuple[int, int]:
    """Height and width, from the SIZ marker that begins a codestream (ISO/IEC 15444-1, A.5.1)."""
    found = re.search(rb"\xff\x4f\xff\x51", frame)
    if found is None:
        raise ValueError("no codestream")
    right, bottom, left, top = struct.unpack_from(">4I", frame, found.end() + 4)
    return bottom - top, right - left


def _size_of_jpeg(frame: bytes) -> tuple[int, int]:
    """Height and width, from the frame header of JPEG (ISO/IEC 10918-1, B.2.2) or JPEG-LS (marker F7)."""
    at = 2
    while True:
        mark, code, length = struct.unpack_from(">BBH", frame, at)
        if mark != 0xFF:
            raise ValueError("no marker")
        if code == 0xFF:  # padding before a marker
            at += 1
        elif code == 0xF7 or (0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack_from(">HH", frame, at + 5)
            return height, width
        else:
            at += 2 + length


def _reason(dataset: Dataset, error: Exception) -> str:
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_compressed:
        return f"damaged, or compressed in a way that can't be decoded ({syntax.name}); if it is whole, {_STORE}"
    if "less than expected" in str(error):
        return "truncated: the file ends before the image does"
    return f"damaged, can't be decoded ({error.__class__.__name__})"


def _stored_range(dataset: Dataset) -> tuple[int, int]:
    bits = dataset.BitsStored
    return (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dataset.get("PixelRepresentation") else (0, (1 << bits) - 1)


def _eight_bit_table(dataset: Dataset) -> np.ndarray:
    """[2 ** BitsStored] uint8: what each value that can be stored becomes, from the lowest on."""
    low, high = _stored_range(dataset)
    try:
        values = np.asarray(apply_modality_lut(np.arange(low, high + 1, dtype=np.int64), dataset))
        if dataset.get("ModalityLUTSequence"):
            first, last = 0.0, float((1 << dataset.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
        else:
            first, last = float(values[0]), float(values[-1])  # exchanged by a negative slope, as pydicom's window does
        if dataset.get("VOILUTSequence"):
            first, last, values = _looked_up(np.rint(values).astype(np.int64), dataset)
        elif None not in (dataset.get("WindowCenter"), dataset.get("WindowWidth")):
            values = apply_voi_lut(values, dataset)
        else:
            first, last = min(first, last), max(first, last)
        table = _scaled(values, first, last)
    except Exception as error:
        raise BadImage(f"its lookup table or window can't be used ({error.__class__.__name__})") from None
    return 255 - table if dataset.PhotometricInterpretation == "MONOCHROME1" else table


def _looked_up(values: np.ndarray, dataset: Dataset) -> tuple[float, float, np.ndarray]:
    """Range of the VOI LUT's entries, and the entries of `values`."""
    item = dataset.VOILUTSequence[0]
    entries, begin, bits = item.LUTDescriptor
    # pydicom 3.0 counts entries in the type of what they hold: of a table of 8-bit entries it finds the first 256 only,
    # and values beyond the ends of a table may wrap.
    item.LUTDescriptor = [entries, begin, 16]
    within = np.clip(values, begin, begin + (entries or 1 << 16) - 1)
    return 0.0, float((1 << bits) - 1), apply_voi_lut(within, dataset)


def _from_palette(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """[H, W, 3] uint8."""
    try:
        entries, begin, _ = dataset.RedPaletteColorLookupTableDescriptor
        indices = np.arange(begin, begin + (entries or 1 << 16))
        if len(indices) > 256 and len(dataset.get("RedPaletteColorLookupTableData") or b"") <= len(indices):
            raise NotImplementedError("pydicom 3.0 finds the first 256 entries only, see _looked_up")
        colours = apply_color_lut(indices, dataset)
        # The high byte, whether a writer has put zeros or the same byte below it.
        table = colours if colours.dtype == np.uint8 else (colours >> 8).astype(np.uint8)
        return table[np.clip(values.astype(np.int64) - begin, 0, len(indices) - 1)]
    except Exception as error:
        raise BadImage(f"its palette can't be used ({error.__class__.__name__})") from None


def _scaled(values: np.ndarray, first: float, last: float) -> np.ndarray:
    """uint8, 0 at `first` and 255 at `last`."""
    if values.dtype == np.uint8 and (first, last) == (0, 255):
        return values
    if first == last:
        raise ValueError("no range")
    return np.clip(np.floor((values.astype(np.float64) - first) * (255 / (last - first)) + 0.5), 0, 255).astype(
        np.uint8
    )
