"""Class probabilities of images, by models that a final wrote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from search.outputs import check_file, refuse_replacing
from spaces.mistakes import Mistake
from trainables.data.contents import cpus
from trainables.data.images import SUFFIXES
from trainables.data.manifest import Combine
from trainables.data.problems import Problems
from trainables.data.readers.paths import Root
from trainables.data.readers.table import try_table
from trainables.data.units import Units
from trainables.files import write_text
from trainables.predictor import Predictor, is_model_folder, load_predictor

TABLE, FOLDER = ".csv", "folder"
TAKEN = ("images", "predicted")  # columns of the output
EARLIER = re.compile(r'\A[^\n]*\bpredicted,"?p_')


@dataclass(frozen=True)
class Image:
    """One image to be predicted."""

    file: Path
    name: str
    """As it was given: a path, or a table's cell."""
    unit: str = ""
    """What it is one image of."""


def predict(
    models: Sequence[Path],
    sources: Sequence[Path],
    output: Path,
    *,
    per: str | None = None,
    column: str = "path",
    root: Path | None = None,
) -> tuple[int, Predictor]:
    """Writes a table with one row an image, or a unit: what is predicted, and the probabilities of each class.

    Args:
        models: model folders, or an ensemble's; several are averaged.
        sources: images, folders that are searched for images, and tables (.csv) that list them.
        per: column of the tables by which images are combined (study, patient), or `folder`: by the folder they lie in.
        column: of the tables, with paths relative to `root`.
        root: folder of the tables' images; by default that of each table.

    Returns:
        The number of rows, and what predicted them.

    Raises:
        Mistake: no model, no images, or images that can't be used, all of them together; something else than earlier
            predictions in the output's place.
    """
    check_file("predict", output)
    refuse_replacing("predict", output, "table of predictions", EARLIER, sources)
    if per in TAKEN:
        raise Mistake(f'predict: --per {per}: "{per}" is what another column of the output is called; rename that one.')
    predictor = load_predictor(models)
    images = _images(sources, per, column, root)
    with _all_cpus():
        probabilities = predictor.probabilities([image.file for image in images], [image.name for image in images])
    if per is None:
        about: dict[str, Sequence[object]] = {"image": [image.name for image in images]}
    else:
        units, counts, probabilities = _combined([image.unit for image in images], probabilities, predictor.combine)
        about = {per: units, "images": counts}
    table = pd.DataFrame({**about, **predictor.answers(probabilities)})
    write_text(output.absolute(), table.to_csv(index=False, float_format="%.8g", lineterminator="\r\n"))
    return len(table), predictor


def split_models(given: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Model folders, which come first, and the images that follow them.

    Raises:
        Mistake: no images are left.
    """
    models = 1
    while models < len(given) and is_model_folder(given[models]):
        models += 1
    if models == len(given):
        raise Mistake("predict: there are only model folders; give images, folders or a table of them, too.")
    return list(given[:models]), list(given[models:])


def describe(predictor: Predictor) -> str:
    """A sentence: what stands in the table."""
    several = f"the mean of {len(predictor.members)} models; " if len(predictor.members) > 1 else ""
    temperature = (
        "not calibrated (nothing was fitted for it)"
        if predictor.temperature is None
        else f"calibrated_... at temperature {predictor.temperature:.3f}"
    )
    count = len(predictor.thresholds)
    thresholds = f"positive_... at {count} frozen threshold{'' if count == 1 else 's'}" if count else "no thresholds"
    return f"{several}p_... as they are; {temperature}; {thresholds}"


def _images(sources: Sequence[Path], per: str | None, column: str, root: Path | None) -> list[Image]:
    found: list[Image] = []
    problems = Problems("predict")
    if root is not None and not root.is_dir():
        raise Mistake(f"predict: --root {root}: no such folder; give the one that paths in tables are relative to.")
    for source in sources:
        if source.suffix.lower() == TABLE and source.is_file():
            found += _listed(source, per, column, root, problems)
        elif per is not None and per != FOLDER:
            problems.add(
                "sources that aren't tables",
                f"predict: --per {per}: {source} is no table; give a .csv, or --per folder.",
            )
        elif source.is_dir():
            inside = sorted(p for p in source.rglob("*") if p.is_file() and p.suffix.lower() in SUFFIXES)
            found += [Image(path, str(path), str(path.parent)) for path in inside]
            if not inside:
                problems.add("empty folders", f"{source}: holds no images; give images, or a folder of them.")
        elif source.is_file():
            found.append(Image(source, str(source), str(source.parent)))
        else:
            problems.add(
                "missing sources", f"{source}: no such file or folder; give images, folders or tables that are there."
            )
    problems.raise_if_any()
    return found


def _listed(table: Path, per: str | None, column: str, root: Path | None, problems: Problems) -> list[Image]:
    """The images that a table lists, in its order."""
    home = root if root is not None else table.parent
    before = len(problems)
    needed = [column] if per in (None, FOLDER) else [column, str(per)]
    read = try_table(table.parent, table.name, needed, problems)
    if len(problems) > before:
        return []
    within, found = Root(home, str(home) if home != Path() else str(Path.cwd())), []
    units = read.columns[per] if per in read.columns else [""] * len(read.rows)
    for (row, cell), unit in zip(read.cells(column), units, strict=True):
        where = f"{read.name} row {row}"
        if not cell:
            problems.add("empty paths", f"{where}: {column} is empty, expected an image's path.")
        elif reason := within.problem(cell):
            problems.add("images that can't be used", f'{where}: "{cell}" {reason} (--root names another folder).')
        elif per is not None and per != FOLDER and not unit:
            problems.add("empty units", f"{where}: {per} is empty, expected what the image belongs to.")
        found.append(Image(home / cell, cell, unit or str(Path(cell).parent)))
    return found


def _combined(names: list[str], probabilities: np.ndarray, combine: Combine) -> tuple[list[str], list[int], np.ndarray]:
    """Units in the order of their first image, how many images each has, and its probabilities [U, C]."""
    number, of_unit = pd.factorize(np.array(names, dtype=object))
    truth = np.zeros(len(of_unit), np.int64)  # nothing is scored here
    units = Units(number, truth, of_unit.astype(np.str_), combine, {})
    return of_unit.tolist(), np.bincount(number).tolist(), units.combined(probabilities)


@contextmanager
def _all_cpus() -> Iterator[None]:
    """Torch with all processors that this process may use; its own number of threads again afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(cpus())
    try:
        yield
    finally:
        torch.set_num_threads(before)
