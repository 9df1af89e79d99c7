"""What the tables of CheXpert's size cost: from the files on disk to a grouped, stratified, multi-label split.

    python -m benchmarks.rows [--patients 64540] [--rows 223414] [--folder FOLDER] [--bounded] [--json FILE]

A synthetic copy in the official layout is made first (a minute or more; its images are a few bytes each, all different,
since no pixel is looked at). Then a fresh process goes through what `medtune check` does before it looks at pixels, and
each step's seconds and the process' peak of resident memory are printed:

    table      train.csv and valid.csv read and checked, and every image found on disk
    contents   every file's bytes hashed, which later starts remember
    remembered the same once more, as later starts have it
    manifest   labels, truth, groups and units put together and checked
    split      test, validation and training by patient, with their digests
    check      all of this again, contents remembered, and what `medtune check` tells before it looks at pixels: counts,
               copies, what validation can show, the space
    alike      as many perceptual hashes compared with one another, once images were looked at; drawn at random, a
               quarter of the bits nearly always the same

The bound, 20 s and 1 GiB for 223,414 rows, is for table, manifest and split; contents are bytes of files, and are timed
apart. The bound of check is 60 s.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from spaces.config import SearchConfig, SplitConfig
from trainables.data.contents import content_hashes
from trainables.data.hamming import near_components
from trainables.data.manifest import Manifest
from trainables.data.near import LIMIT, SIDE
from trainables.data.readers.chexpert import FOURTEEN, Options, assemble, read_tables
from trainables.data.splits import split
from trainables.files import write_json

T = TypeVar("T")

ROWS, PATIENTS = 223_414, 64_540  # of train.csv
VALID = 234
BOUND_SECONDS, BOUND_MIB, BOUND_CHECK = 20, 1024, 60
HASH_BITS = SIDE * SIDE
HEADER = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *FOURTEEN)
NEW_STUDY = 0.8  # of a patient's further images
CELLS = ("1.0", "0.0", "-1.0", "")
SHARES = (0.15, 0.10, 0.05, 0.70)


@dataclass(frozen=True)
class Measured:
    """Seconds of each step."""

    rows: int
    groups: int
    table: float
    contents: float
    remembered: float
    manifest: float
    split: float
    processor: float
    """Of the processor, for table, manifest and split: what they would take on an idle machine, but for the disk."""
    peak_mib: float
    """Of the whole process up to the split, the hashing of contents included."""
    check: float | None = None
    alike: float | None = None

    @property
    def bounded(self) -> float:
        return self.table + self.manifest + self.split


def write_chexpert(root: Path, rows: int, patients: int, seed: int = 0) -> None:
    """A copy in the official layout, in which each patient has a study or more, and each study an image or more."""
    drawn = np.random.default_rng(seed)
    patient = np.sort(np.concatenate([np.arange(patients), drawn.integers(0, patients, rows - patients)]))
    _write_part(root, "train", patient, drawn)
    _write_part(root, "valid", patients + np.arange(VALID), drawn)


def _peak_mib() -> float:
    """Of this program alone: what getrusage tells includes the process that started it (its memory before exec)."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def _write_part(root: Path, part: str, patient: np.ndarray, drawn: np.random.Generator) -> None:
    """`patient`: [N] int64, sorted."""
    begins = np.append(True, patient[1:] != patient[:-1])
    begins |= drawn.random(len(patient)) < NEW_STUDY
    study_of = np.cumsum(begins) - 1
    shares = SHARES if part == "train" else (0.2, 0.8, 0.0, 0.0)
    labels = drawn.choice(CELLS, size=(int(study_of[-1]) + 1, len(FOURTEEN)), p=shares)
    with (root / f"{part}.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(HEADER)
        before, study, view = -1, 0, 0
        for row, (of, begin) in enumerate(zip(patient.tolist(), begins.tolist(), strict=True)):
            study, view = (1 if of != before else study + 1, 1) if begin else (study, view + 1)
            before = of
            side = "frontal" if view == 1 else "lateral"
            folder = f"{part}/patient{of + 1:05d}/study{study}"
            name = f"view{view}_{side}.jpg"
            if begin:
                (root / folder).mkdir(parents=True)
            (root / folder / name).write_text(f"{part} {row}")
            facts = (("Female", "Male")[of % 2], str(20 + of % 70), side.title(), "AP" if view == 1 else "")
            table.writerow((f"CheXpert-v1.0-small/{folder}/{name}", *facts, *labels[study_of[row]]))


def measure(root: Path, cache: Path, bounded: bool = False) -> Measured:
    """Reads and splits a copy of CheXpert under `root`, all views, five findings, as `medtune check` does.

    Args:
        bounded: only up to the split.
    """
    seconds: dict[str, float] = {}
    processor: dict[str, float] = {}

    def timed(step: str, do: Callable[[], T]) -> T:
        start, of_processor = time.perf_counter(), time.process_time()
        found = do()
        seconds[step], processor[step] = time.perf_counter() - start, time.process_time() - of_processor
        return found

    options = Options(views="both")
    parts, notes = timed("table", lambda: read_tables(root, options))
    paths = [path for rows in parts for path in rows.paths]
    timed("contents", lambda: content_hashes(root, paths, cache))
    contents = timed("remembered", lambda: content_hashes(root, paths, cache))

    def checked() -> Manifest:
        manifest = assemble(root, parts, contents, options, notes)
        manifest.check_units()
        return manifest

    manifest = timed("manifest", checked)
    timed("split", lambda: split(manifest, SplitConfig()))
    peak = _peak_mib()
    spent = processor["table"] + processor["manifest"] + processor["split"]
    if not bounded:
        timed("check", lambda: checked_whole(root, cache))
        hashes = drawn_hashes(len(manifest))
        timed("alike", lambda: near_components(hashes, LIMIT))
    return Measured(len(manifest), len(np.unique(manifest.groups)), **seconds, processor=spent, peak_mib=peak)


def drawn_hashes(count: int) -> np.ndarray:
    """uint64 [count, 4], a quarter of whose bits are nearly always the same."""
    often = np.repeat([0.05, 0.5], [HASH_BITS // 4, HASH_BITS - HASH_BITS // 4])
    bits = np.random.default_rng(0).random((count, HASH_BITS), dtype=np.float32) < often
    return np.packbits(bits, axis=1).view(np.uint64)


def checked_whole(root: Path, cache: Path) -> list[object]:
    """What `medtune check` tells but for what pixels show and trials cost."""
    from search.check import describe  # here, since their memory is no part of reading a table
    from search.plan import plan

    dataset = {"reader": "chexpert", "root": str(root), "options": {"views": "both"}}
    space = {"resolution": 32, "trained_blocks": 0}
    own = {"backbones": ["mae_tiny"], "weights": "random", "mlflow": "off", "storage": str(cache.parent / "runs")}
    config = SearchConfig.parse(
        {"name": "rows", "dataset": dataset, "cache": str(cache), "space": space, **own}, "rows"
    )
    planned = plan(config, root, decoded=False)
    return list(describe(planned, cache / "check.txt", None))


def in_a_fresh_process(root: Path, cache: Path, bounded: bool) -> Measured:
    """`measure` with no memory but its own."""
    command = [sys.executable, "-m", "benchmarks.rows", "--measure", str(root), str(cache)]
    command += ["--bounded"] if bounded else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return Measured(**json.loads(done.stdout))


def shown(found: Measured) -> str:
    steps = ("table", "contents", "remembered", "manifest", "split", "check", "alike")
    lines = [f"{found.rows} rows, {found.groups} patients"]
    lines += [f"  {step:<10} {getattr(found, step):6.1f} s" for step in steps if getattr(found, step) is not None]
    lines.append(
        f"table, manifest and split: {found.bounded:.1f} s (bound: {BOUND_SECONDS} s), {found.processor:.1f} s of the "
        f"processor; peak memory {found.peak_mib:.0f} MiB (bound: {BOUND_MIB} MiB)"
    )
    if found.check is not None:
        lines.append(f"check before pixels: {found.check:.1f} s (bound: {BOUND_CHECK} s)")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """1 where the bound is missed."""
    parser = argparse.ArgumentParser(prog="benchmarks.rows", description=str(__doc__).splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--patients", type=int, default=PATIENTS)
    parser.add_argument("--folder", type=Path, help="where the copy is made, and removed from; a temporary one")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--measure", type=Path, nargs=2, metavar=("ROOT", "CACHE"), help="this copy, in this process")
    parser.add_argument("--bounded", action="store_true", help="only up to the split")
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(asdict(measure(*options.measure, options.bounded))))
        return 0
    with tempfile.TemporaryDirectory(prefix="rows-", dir=options.folder) as folder:
        root = Path(folder) / "CheXpert-v1.0-small"
        root.mkdir()
        start = time.perf_counter()
        write_chexpert(root, options.rows, options.patients)
        print(f"made in {time.perf_counter() - start:.0f} s", flush=True)
        found = in_a_fresh_process(root, Path(folder) / "cache", options.bounded)
    print(shown(found))
    if options.json:
        write_json(options.json, asdict(found))
    missed = found.bounded > BOUND_SECONDS, found.peak_mib > BOUND_MIB, (found.check or 0) > BOUND_CHECK
    return int(any(missed))


if __name__ == "__main__":
    sys.exit(main())
