"""Where what belongs to a trial lies, and what its files are called. Needs no torch: whoever looks at a search does."""

from __future__ import annotations

from pathlib import Path

END, PREDICTIONS, CONFIG, STOPPED = "end.json", "validation.npz", "config.json", "stopped"
CHECKPOINTS = "checkpoints"
STACKS = "hang.txt"


def trial_folder(search: Path, number: int) -> Path:
    return search / "trials" / f"{number:05d}"


def fold_folder(folder: Path, fold: int, folds: int) -> Path:
    """Of a trial's folder, what belongs to one of its folds, counted from 0; of a plain split the folder itself."""
    return folder / f"fold-{fold + 1}" if folds > 1 else folder


def halt(search: Path, number: int) -> None:
    """Lets a job know that one of its trials isn't to go on."""
    trial_folder(search, number).mkdir(parents=True, exist_ok=True)
    (trial_folder(search, number) / STOPPED).touch()
