"""Images decoded once: a file of uint8 pixels, named by what is in it, that every trial of a machine maps.

<cache>/pixels/<key> is a stored array (trainables.data.stored), [N, C, H, W].
"""

from __future__ import annotations

import errno
import io
import logging
import os
import shutil
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import gdcm
import numpy as np
import PIL
import pydicom
import scipy
from PIL import Image, ImageOps
from pydantic import Field

from spaces.config import Crop, DatasetConfig, Resolution, Side
from spaces.mistakes import Mistake
from spaces.sources import sources_digest
from spaces.strict import Strict, digest
from trainables import watchdog
from trainables.data.contents import content_hash, cpus
from trainables.data.crops import cropped
from trainables.data.images import BadImage, open_image, read_header
from trainables.data.manifest import Manifest
from trainables.data.problems import Problems
from trainables.data.stored import ARRAY, PIXELS, free_disk, only_builder, stored, trust, write_meta
from trainables.files import sync

log = logging.getLogger(__name__)

DECODING = ("trainables.data.pixels", "trainables.data.images", "trainables.data.dicom", "trainables.data.crops")
"""The code that pixels follow from."""
CODE = sources_digest(DECODING)  # as this process loads it, whatever is edited meanwhile
DECODERS = {
    "pillow": PIL.__version__,
    "pydicom": pydicom.__version__,
    "gdcm": gdcm.Version.GetVersion(),
    "scipy": scipy.__version__,
}
ROWS_A_TASK = 16
Progress = Callable[[int, int], None]
T = TypeVar("T")


class PixelSpec(Strict):
    """How an image becomes an array of fixed size."""

    height: int = Field(ge=1)
    width: int = Field(ge=1)
    fit: Literal["stretch", "pad", "crop"] = "stretch"
    """Stretched to the size, padded with black around it, or its centre cropped."""
    centre: float = Field(default=1, gt=0, le=1)
    """Share of each side that is kept of what that gives: it is fitted to a larger size, and the middle is cut out."""
    crop: Crop = "none"
    """What is cut out before: see trainables.data.crops."""
    side: Side = "keep"
    """Whether a breast at the right edge is mirrored."""


def pixel_spec(dataset: DatasetConfig, resolution: Resolution) -> PixelSpec:
    """How a dataset's images become the network's input. The dataset's crop is resolved (see `search.plan`)."""
    return PixelSpec(
        height=resolution[0],
        width=resolution[1],
        fit=dataset.fit,
        centre=dataset.centre,
        crop=dataset.crop or "none",
        side=dataset.side,
    )


@dataclass(frozen=True, eq=False)
class Pixels:
    """The mapped pixels of a manifest's rows."""

    array: np.memmap
    """[N, C, H, W] uint8, read-only; C is 1 where all images are grey, else 3."""
    key: str
    decoded: int
    """Images decoded by this call for this file; 0 where it was there, or where another file's decoding served it."""
    contents: str
    """SHA-256 of the images' contents in their order and of the spec: what the pixels are of, whatever code and
    decoders made them."""


def pixel_key(manifest: Manifest, spec: PixelSpec) -> str:
    """SHA-256 of the contents in order, the spec, the code and the decoders."""
    contents = manifest.contents.tolist()
    return digest({"code": CODE, "decoders": DECODERS, "spec": spec.plain(), "contents": contents})


def contents_key(manifest: Manifest, spec: PixelSpec) -> str:
    """As `pixel_key`, but for the code and the decoders."""
    return digest({"spec": spec.plain(), "contents": manifest.contents.tolist()})


def open_pixels(
    manifest: Manifest, spec: PixelSpec, cache: Path, workers: int = 0, progress: Progress | None = None
) -> Pixels:
    """`open_many` for one spec."""
    return open_many(manifest, [spec], cache, workers, progress)[0]


def open_many(
    manifest: Manifest, specs: Sequence[PixelSpec], cache: Path, workers: int = 0, progress: Progress | None = None
) -> list[Pixels]:
    """Maps the pixels of all rows under each spec, building what isn't there.

    Every image is read once and decoded once for all missing specs; a JPEG once for each different scale that its
    decoder is asked for, since a file's pixels must not depend on what else was built with it. A process that finds
    another one building waits for it. A file's digests are checked once a process; a damaged one is built again.

    Args:
        specs: may repeat.
        cache: folder in which `pixels/` is kept.
        workers: threads; 0 is one for each CPU that this process may use.
        progress: called with (images done, images) from the calling thread.

    Raises:
        Mistake: images that can't be used (their count, the first ten with the reason), or no place to write.
    """
    home = cache / PIXELS
    keys = [pixel_key(manifest, spec) for spec in specs]
    wanted = dict(zip(keys, specs, strict=True))
    decoded = dict.fromkeys(wanted, 0)
    try:
        home.mkdir(parents=True, exist_ok=True)
        ready = {key: array for key in wanted if (array := stored(home, key)) is not None}
        missing = sorted(set(wanted) - set(ready))  # everybody locks in this order, so nobody waits in a circle
        with ExitStack() as locks:
            for key in missing:
                locks.enter_context(only_builder(home, key))
            for key in missing:
                array = stored(home, key)
                if array is not None:
                    ready[key] = array
                elif (home / key).exists():
                    shutil.rmtree(home / key)
            absent = {key: wanted[key] for key in missing if key not in ready}
            if absent:
                decoded |= _build(manifest, absent, home, workers or cpus(), progress)
                for key in absent:
                    array = stored(home, key)
                    assert array is not None, "pixels that were just built can't be mapped"
                    ready[key] = array
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EPERM):
            raise Mistake(
                f"cache: {home} can't be written ({error.strerror}; {_free_gib(cache)}); free space, or set `cache` to "
                "another folder."
            ) from None
        raise
    opened = {key: Pixels(ready[key], key, decoded[key], contents_key(manifest, spec)) for key, spec in wanted.items()}
    pixels = []
    for key in keys:
        pixels.append(opened[key])
        opened[key] = replace(opened[key], decoded=0)
    return pixels


def decode_file(path: Path, spec: PixelSpec) -> np.ndarray:
    """One image as a pixel file would hold it, [C, H, W] uint8; C is 1 for a grey image, else 3.

    Raises:
        BadImage: it can't be used, and why.
    """
    with path.open("rb") as file:
        return decode(file, spec)


def decode(file: BinaryIO, spec: PixelSpec) -> np.ndarray:
    """As `decode_file`, of an open file."""
    image = cropped(open_image(file, _target(spec)), spec.crop, spec.side)
    return _fitted(image, spec, 1 if image.mode == "L" else 3)


def _target(spec: PixelSpec) -> tuple[int, int] | None:
    """The size that an image is going to be shrunk to; none where something is cut out of it first.

    How small that will be isn't known before it is decoded, and it should be the same whatever the size.
    """
    return (round(spec.height / spec.centre), round(spec.width / spec.centre)) if spec.crop == "none" else None


def _build(
    manifest: Manifest, specs: Mapping[str, PixelSpec], home: Path, workers: int, progress: Progress | None
) -> dict[str, int]:
    """Writes the folders of several keys. The locks of all of them are held. Returns the images decoded for each."""
    problems: dict[int, str] = {}
    headers = _in_threads(
        manifest, lambda row: read_header(manifest.root / manifest.paths[row]).grey, workers, problems
    )
    channels = 1 if all(grey for _, grey in headers) else 3
    partial = {key: home / f"{key}.partial" for key in specs}
    sizes = {key: len(manifest) * channels * spec.height * spec.width for key, spec in specs.items()}
    free_disk(home, sum(sizes.values()))
    with ExitStack() as cleanup:
        for folder in partial.values():
            shutil.rmtree(folder, ignore_errors=True)  # what a killed process left
            folder.mkdir()
            cleanup.callback(shutil.rmtree, folder, ignore_errors=True)
        descriptors: dict[str, int] = {}
        for key in specs:
            descriptors[key] = os.open(partial[key] / ARRAY, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
            cleanup.callback(os.close, descriptors[key])
            # Asked for at once, so that a full disk is known now and not in an hour.
            os.posix_fallocate(descriptors[key], 0, sizes[key])

        def decode(row: int) -> list[str]:
            data = (manifest.root / manifest.paths[row]).read_bytes()
            if content_hash(data) != manifest.contents[row]:
                raise BadImage("changed since the dataset was read; start again")
            header = read_header(io.BytesIO(data))
            images: dict[int, Image.Image] = {}
            parts: dict[tuple[int, Crop, Side], Image.Image] = {}
            paid = []
            for key, spec in specs.items():
                scale = header.reduction(_target(spec))
                if scale not in images:
                    images[scale] = open_image(io.BytesIO(data), _target(spec))
                    paid.append(key)
                part = (scale, spec.crop, spec.side)
                if part not in parts:
                    parts[part] = cropped(images[scale], spec.crop, spec.side)
                pixels = _fitted(parts[part], spec, channels)
                if os.pwrite(descriptors[key], pixels.tobytes(), row * pixels.nbytes) != pixels.nbytes:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return paid

        counts = dict.fromkeys(specs, 0)
        # Closed before the descriptors are: a thread must never write into a number that means another file by then.
        decoding = cleanup.enter_context(closing(_in_threads(manifest, decode, workers, problems)))
        for done, (_, paid) in enumerate(decoding, start=1):
            for key in paid:
                counts[key] += 1
            if progress is not None and (done % ROWS_A_TASK == 0 or done == len(manifest)):
                progress(done, len(manifest))
        _refuse_bad_images(manifest, problems)
        for key, spec in specs.items():
            os.fsync(descriptors[key])
            shape = (len(manifest), channels, spec.height, spec.width)
            write_meta(partial[key], shape, np.dtype(np.uint8), {"spec": spec.plain(), "decoders": DECODERS})
            partial[key].rename(home / key)
            sync(home)
            trust(home, key)
    return counts


def _in_threads(
    manifest: Manifest, work: Callable[[int], T], workers: int, problems: dict[int, str]
) -> Generator[tuple[int, T], None, None]:
    """Gives (row, work(row)) as they come. Leaves out rows in `problems`, to which it adds bad images with reasons."""
    rows = [row for row in range(len(manifest)) if row not in problems]

    def several(some: Iterable[int]) -> list[tuple[int, T | BadImage]]:
        results: list[tuple[int, T | BadImage]] = []
        for row in some:
            watchdog.beat()
            try:
                results.append((row, work(row)))
            except BadImage as bad:
                results.append((row, bad))
            except FileNotFoundError:
                results.append((row, BadImage("no such file any more")))
            except PermissionError:
                results.append((row, BadImage("may not be read by this user")))
        return results

    pool = ThreadPoolExecutor(workers)
    try:
        tasks = [pool.submit(several, rows[i : i + ROWS_A_TASK]) for i in range(0, len(rows), ROWS_A_TASK)]
        for task in as_completed(tasks):
            for row, result in task.result():
                if isinstance(result, BadImage):
                    problems[row] = result.reason
                else:
                    yield row, result
    finally:
        pool.shutdown(cancel_futures=True)


def _refuse_bad_images(manifest: Manifest, bad: Mapping[int, str]) -> None:
    problems = Problems("dataset")
    if bad:
        sentence = f"dataset: {len(bad)} of {len(manifest)} images can't be used; repair them, or take them out."
        problems.add("counts of bad images", sentence)
    for row in sorted(bad):
        problems.add("images that can't be used", f"{manifest.paths[row]}: {bad[row]}.")
    problems.raise_if_any()


def _fitted(image: Image.Image, spec: PixelSpec, channels: int) -> np.ndarray:
    """[C, H, W] uint8. Pillow's bicubic filter widens when it shrinks, so that nothing aliases."""
    size = round(spec.width / spec.centre), round(spec.height / spec.centre)
    if spec.fit == "pad":
        image = ImageOps.pad(image, size, Image.Resampling.BICUBIC)
    elif spec.fit == "crop":
        image = ImageOps.fit(image, size, Image.Resampling.BICUBIC)
    else:
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (size[0] - spec.width) // 2, (size[1] - spec.height) // 2
    image = image.crop((left, top, left + spec.width, top + spec.height))
    pixels = np.asarray(image)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return np.ascontiguousarray(np.broadcast_to(pixels, (channels, spec.height, spec.width)))


def _free_gib(folder: Path) -> str:
    try:
        return f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB free"
    except OSError:
        return "free space unknown"
