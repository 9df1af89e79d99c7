from __future__ import annotations

import io
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pydicom.data
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_color_lut, apply_voi_lut, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
)

from trainables.data.images import BadImage, open_image, read_header

# What pydicom's own package brings along; never get_testdata_file, which would download what isn't there.
BUNDLED = sorted((Path(str(pydicom.data.__file__)).parent / "test_files").glob("*.dcm"))
REFUSED = {
    "12-bit lossy JPEG": ("JPEG-lossy JPGExtended", r"can't be decoded \(JPEG Extended"),
    "broken fragments": ("JPEG2000-embedded-sequence-delimiter", "^damaged: its compressed image has another size"),
    "truncated": ("MR_truncated", "^truncated"),
    "no preamble": ("ExplVR_BigEndNoMeta ExplVR_LitEndNoMeta no_meta rtstruct", "not an image in one of the formats"),
    "no transfer syntax": ("meta_missing_tsyntax", "no transfer syntax"),
    "deflated": ("image_dfl", "^deflated as a whole"),
    "several frames": (
        "SC_rgb_rle_16bit_2frame SC_rgb_rle_2frame SC_rgb_rle_32bit_2frame examples_ybr_color rtdose rtdose_expb "
        "rtdose_rle",
        "^holds (2|15|30) frames",
    ),
    "32 bits": ("SC_rgb_rle_32bit rtdose_1frame rtdose_expb_1frame rtdose_rle_1frame", "32 bits in 32 have no known"),
    "damaged header": ("badVR", "its header is damaged"),
    "no image": (
        "UN_sequence empty_charset_LEI nested_priv_SQ no_meta_group_length priv_SQ reportsi "
        "reportsi_with_empty_number_tags rtplan rtplan_truncated test-SR waveform_ecg",
        "^holds no image",
    ),
}
REASONS = {f"{name}.dcm": reason for names, reason in REFUSED.values() for name in names.split()}
OPENED = [path for path in BUNDLED if path.name not in REASONS]


def test_pydicom_brings_what_is_named_here() -> None:
    assert set(REASONS) <= {path.name for path in BUNDLED}
    assert len(OPENED) >= 40


@pytest.mark.parametrize("name", REASONS)
def test_refused(name: str) -> None:
    (path,) = (path for path in BUNDLED if path.name == name)
    with pytest.raises(BadImage, match=REASONS[name]):
        open_image(path)


@pytest.mark.parametrize("path", OPENED, ids=lambda path: path.name)
def test_opened_as_pydicom_says(path: Path) -> None:
    dataset = pydicom.dcmread(path)
    values = pixel_array(dataset)
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        golden = apply_color_lut(values, dataset) >> 8
    elif dataset.SamplesPerPixel == 3:
        golden = values if values.dtype == np.uint8 else np.floor(values / 65535 * 255 + 0.5)
    else:
        signed, bits = dataset.PixelRepresentation, dataset.BitsStored
        scale, shift = (float(dataset.get(f"Rescale{name}", no)) for name, no in (("Slope", 1), ("Intercept", 0)))
        low, high = (
            (x * scale + shift) for x in ((-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1))
        )
        shown = apply_voi_lut(values * scale + shift, dataset)
        golden = np.floor((shown - low) / (high - low) * 255 + 0.5).clip(0, 255)
    image = open_image(path)
    np.testing.assert_allclose(np.asarray(image, dtype=int), golden, atol=0)
    header = read_header(path)
    assert (header.grey, header.jpeg) == (image.mode == "L", False) and header.size == (image.height, image.width)
    assert header.reduction((1, 1)) == 1


@pytest.mark.parametrize("path", OPENED, ids=lambda path: path.name)
def test_truncated(path: Path) -> None:
    data = path.read_bytes()
    for left in (len(data) // 2, len(data) * 9 // 10, len(data) - 300):  # behind the pixels, some have padding
        with pytest.raises(BadImage):
            open_image(io.BytesIO(data[:left]))


def write(values: np.ndarray | bytes, syntax: str = ExplicitVRLittleEndian, bits: int = 16, **elements) -> io.BytesIO:
    """A DICOM file of `values`, or of a compressed frame, and of the elements named."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, "1.2.3"
    dataset.PatientName, dataset.PatientID = "Secret^Name", "SECRET-ID"
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsStored, dataset.HighBit, dataset.BitsAllocated = bits, bits - 1, 8 if bits <= 8 else 16
    if isinstance(values, bytes):
        dataset.PixelRepresentation = 0
        dataset.PixelData = encapsulate([values])
        dataset["PixelData"].VR = "OB"
    else:
        dataset.Rows, dataset.Columns = values.shape[:2]
        dataset.PixelRepresentation = int(values.dtype.kind == "i")
        dataset.PixelData = values.tobytes() + b"\0" * (values.nbytes % 2)
        dataset["PixelData"].VR = "OB" if values.itemsize == 1 else "OW"
    for name, value in elements.items():
        setattr(dataset, name, value)
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    file.seek(0)
    return file


def opened(*arguments, **elements) -> list:
    return np.asarray(open_image(write(*arguments, **elements))).tolist()


def reason(file: io.BytesIO) -> str:
    with pytest.raises(BadImage) as bad:
        open_image(file)
    return bad.value.reason


def table(first: int, bits: int, entries: list[int]) -> list[Dataset]:
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries) % 65536, first, bits], entries
    item["LUTDescriptor"].VR = item["LUTData"].VR = "US"
    return [item]


@pytest.mark.parametrize(("bits", "most"), [(8, 255), (10, 1023), (12, 4095), (16, 65535)])
def test_stored_bits_are_scaled_linearly(bits: int, most: int) -> None:
    values = np.array([[0, most // 4, most]], dtype=np.uint8 if bits == 8 else np.uint16)
    quarter = int(most // 4 / most * 255 + 0.5)
    assert opened(values, bits=bits) == [[0, quarter, 255]]
    assert opened(values, bits=bits, PhotometricInterpretation="MONOCHROME1") == [[255, 255 - quarter, 0]]


def test_signed() -> None:
    values = np.array([[-2048, -1, 0, 2047]], dtype=np.int16)
    assert opened(values, bits=12) == [[0, 127, 128, 255]]
    assert opened(values, bits=12, RescaleSlope=2, RescaleIntercept=-7) == [[0, 127, 128, 255]]
    assert opened(values, bits=12, RescaleSlope=-1, RescaleIntercept=0) == [[255, 128, 127, 0]]


def test_the_first_window_of_several() -> None:
    values = np.array([[0, 100, 150, 200, 4095]], dtype=np.uint16)
    windows = {"WindowCenter": [150.5, 2048], "WindowWidth": [101, 4096]}
    golden = [[0, 0, 128, 255, 255]]
    assert opened(values, bits=12, **windows) == golden
    assert opened(values, bits=12, WindowCenter=150.5, WindowWidth=101) == golden
    inverted = opened(values, bits=12, **windows, PhotometricInterpretation="MONOCHROME1")
    assert inverted == [[255 - value for value in golden[0]]]
    exact = opened(values, bits=12, WindowCenter=150, WindowWidth=100, VOILUTFunction="LINEAR_EXACT")
    assert exact == golden
    shifted = {"WindowCenter": 50.5, "WindowWidth": 101, "RescaleSlope": 1, "RescaleIntercept": -100}
    assert opened(values, bits=12, **shifted) == golden
    falling = {"WindowCenter": -149.5, "WindowWidth": 101, "RescaleSlope": -1, "RescaleIntercept": 0}
    assert opened(values, bits=12, **falling) == [[255, 255, 128, 0, 0]]


def test_an_empty_window_is_none() -> None:
    values = np.array([[0, 4095]], dtype=np.uint16)
    assert opened(values, bits=12, WindowCenter=None, WindowWidth=None) == [[0, 255]]


def test_an_impossible_window_is_refused() -> None:
    values = np.array([[0, 4095]], dtype=np.uint16)
    assert "window can't be used" in reason(write(values, bits=12, WindowCenter=50, WindowWidth=0))


def test_lookup_tables() -> None:
    values = np.array([[0, 300, 2000, 4095]], dtype=np.uint16)
    falling = [255 - i // 16 for i in range(4096)]
    golden = [[255, 255 - 300 // 16, 255 - 2000 // 16, 0]]
    assert opened(values, bits=12, VOILUTSequence=table(0, 8, falling)) == golden
    assert opened(values, bits=12, VOILUTSequence=table(0, 16, [257 * v for v in falling])) == golden
    window = {"WindowCenter": 10, "WindowWidth": 5}
    assert opened(values, bits=12, VOILUTSequence=table(0, 8, falling), **window) == golden
    # Below its first and above its last value a table goes on as it ends.
    assert opened(values, bits=12, VOILUTSequence=table(300, 8, [9] + [80] * 1000 + [200])) == [[9, 9, 200, 200]]
    assert opened(values, bits=12, ModalityLUTSequence=table(0, 8, falling)) == golden


def test_a_palette_of_more_than_256_colours_of_8_bits_is_refused_rather_than_misread() -> None:
    def palette(entries: int, depth: int) -> dict:
        data = np.arange(entries).astype(np.uint8 if depth == 8 else np.uint16).tobytes()
        colours = ("Red", "Green", "Blue")
        return {f"{c}PaletteColorLookupTableDescriptor": [entries, 0, depth] for c in colours} | {
            f"{c}PaletteColorLookupTableData": data for c in colours
        }

    values = np.array([[0, 255, 300, 1023]], dtype=np.uint16)
    kind = {"PhotometricInterpretation": "PALETTE COLOR"}
    shades = np.asarray(open_image(write(values, **kind, **palette(1024, 16))))
    assert shades.shape == (1, 4, 3) and shades[0, :, 1].tolist() == [0, 0, 1, 3]
    assert "palette can't be used" in reason(write(values, **kind, **palette(1024, 8)))


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({"NumberOfFrames": 2}, "holds 2 frames"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"}, "YBR_PARTIAL_420 of 1 samples"),
        ({"PhotometricInterpretation": "RGB"}, "RGB of 1 samples"),
        ({"Rows": 60_000, "Columns": 60_000}, "60000 x 60000 pixels are more than"),
        ({"Rows": 0}, "without pixels"),
        ({"Rows": None}, "lacks Rows"),
        ({"BitsStored": 20}, "20 bits in 16"),
        ({"HighBit": 15, "BitsStored": 12}, "lowest bits"),
        ({"Rows": 3}, "truncated"),
    ],
)
def test_what_cannot_be_used(elements: dict, expected: str) -> None:
    assert expected in reason(write(np.zeros((2, 2), dtype=np.uint16), **elements))


def test_syntaxes_that_are_not_decoded() -> None:
    zeros = np.zeros((2, 2), dtype=np.uint8)
    assert reason(write(zeros, DeflatedExplicitVRLittleEndian, bits=8)).startswith("deflated")
    found = reason(write(zeros.tobytes(), HTJ2KLossless, bits=8, Rows=2, Columns=2))
    assert found.startswith("its transfer syntax (High-Throughput JPEG 2000") and "store it" in found


def test_without_pixels() -> None:
    file = write(np.zeros((2, 2), dtype=np.uint16))
    dataset = pydicom.dcmread(file)
    del dataset.PixelData
    empty = io.BytesIO()
    dataset.save_as(empty)
    assert "without pixels" in reason(empty)


@pytest.mark.parametrize(("kind", "syntax"), [("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)])
def test_a_compressed_image_larger_than_the_header_says_is_not_decoded(kind: str, syntax: str) -> None:
    small, large = io.BytesIO(), io.BytesIO()
    Image.new("L", (8, 8), 100).save(small, kind)
    Image.new("L", (4000, 4000)).save(large, kind)
    assert opened(small.getvalue(), syntax, bits=8, Rows=8, Columns=8) == [[100] * 8] * 8
    bomb = write(large.getvalue(), syntax, bits=8, Rows=8, Columns=8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "another size than its header says" in reason(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 4_000, "KiB more"
    assert "no readable header" in reason(write(b"\xff\xd8\xff", syntax, bits=8, Rows=8, Columns=8))


def test_nothing_of_the_header_is_told(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    file = write(np.zeros((2, 2), dtype=np.uint16), PatientBirthDate="19500101")
    image = open_image(file)
    assert image.info == {} and not image.getexif()
    broken = file.getvalue().replace(b"\x28\x00\x10\x00US", b"\x28\x00\x10\x00DS").replace(b"19500101", b"1950010x")
    for data in (broken, broken[:-3], file.getvalue()[:400], file.getvalue()[:-3]):
        for opener in (open_image, read_header):
            try:
                opener(io.BytesIO(data))
            except BadImage as bad:
                assert "ecret" not in bad.reason.lower() and "1950" not in bad.reason
    said = caplog.text + "".join(capfd.readouterr())
    assert "ecret" not in said.lower() and "1950" not in said


def test_pydicom_says_nothing_of_the_header_either() -> None:
    """Its warnings quote values; pytest shows warnings whatever a module's filters say, so this has its own process."""
    code = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from trainables.data.images import BadImage, open_image
for name in sys.argv[1:]:
    try:
        open_image(Path(name))
    except BadImage as bad:
        print(bad.reason)
"""
    files = [str(path) for path in BUNDLED if path.name in ("badVR.dcm", "SC_rgb_jpeg.dcm", "MR_truncated.dcm")]
    done = subprocess.run([sys.executable, "-c", code, *files], capture_output=True, text=True, check=True)
    assert done.stderr == "" and len(done.stdout.splitlines()) == 2 and "1A" not in done.stdout


def test_a_dicom_file_is_known_by_its_preamble(tmp_path: Path) -> None:
    values = np.array([[0, 65535]], dtype=np.uint16)
    for name in ("a.dcm", "b.dicom", "c", "d.png"):
        (tmp_path / name).write_bytes(write(values).getvalue())
        assert np.asarray(open_image(tmp_path / name)).tolist() == [[0, 255]]
        assert read_header(tmp_path / name).grey
    Image.new("L", (3, 2)).save(tmp_path / "plain.png")
    (tmp_path / "e.dcm").write_bytes((tmp_path / "plain.png").read_bytes())
    assert open_image(tmp_path / "e.dcm").size == (3, 2)


def test_threads_decode_the_same() -> None:
    once = [open_image(path).tobytes() for path in OPENED]
    with ThreadPoolExecutor(4) as pool:
        assert [image.tobytes() for image in pool.map(open_image, OPENED * 3)] == once * 3
