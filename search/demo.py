"""A real search on scikit-learn's handwritten digits, with everything switched on, in minutes on two cores."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np

from search.console import Console, duration
from search.outputs import check_folder
from spaces.mistakes import Mistake

NAME = "digits"
MARK = ".medtune-demo"
AGAIN = "the demo was run again"
SETTINGS = """\
# The demo's search: handwritten digits, two tiny backbones with RANDOM weights. Run it: medtune search search.yaml
name: digits
dataset:
  reader: folder
  root: images
  policy: digits
backbones: [dinov2_tiny, mae_tiny]
weights: random          # there are no trained weights of this size
space:
  batch_size: 32
  head: {choice: [linear, attentive]}
  head_lr: {float: [1.0e-3, 1.0e-2], log: true, default: 3.0e-3}
budget: {trials: 16, epochs: 20}
metric: balanced_accuracy
stopping: {rule: halving, eta: 2}
storage: STORAGE
seed: 0
"""


def write_digits(folder: Path) -> int:
    """The 1,797 digits (8 x 8 pixels, 17 grey levels) as PNG files in class folders. Returns their number."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        path = folder / str(label) / f"{index:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.round(pixels * (255 / 16)).astype(np.uint8)).save(path)
    return len(digits.target)


def demo(folder: Path, console: Console) -> int:
    """Writes the images, searches, exports, makes final runs with three seeds, reports. Returns 0.

    Of an earlier demo in that folder its search is removed and its files are written anew; what else lies there, such
    as other searches and the ledger of test openings, stays.

    Raises:
        Mistake: the folder holds something else than an earlier demo.
    """
    from search.export import export
    from search.final import final
    from search.launch import search
    from search.report import report
    from search.settings import load

    started = time.monotonic()
    folder = folder.absolute()
    check_folder("demo: -o", folder)
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise Mistake(f"demo: {folder} isn't empty and holds no earlier demo; name another folder with -o.")
    again = AGAIN if (folder / MARK).exists() else None
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()
    runs, best, page = folder / "runs", folder / "best.yaml", folder / "report.html"
    shutil.rmtree(runs / NAME, ignore_errors=True)
    for file in (best, page):
        file.unlink(missing_ok=True)
    count = write_digits(folder / "images")
    settings = folder / "search.yaml"
    settings.write_text(SETTINGS.replace("STORAGE", str(runs)), encoding="utf-8")
    console.print(
        f"Demo: {count} handwritten digits in {folder / 'images'}; DINOv2 and MAE at a tiny size, with RANDOM weights.",
        f"$ medtune search {settings}",
    )
    found = search(load(settings), folder, console=console)
    console.print(f"$ medtune export {found.path} -o {best}")
    for path, line in export(found, best):
        console.print(f"{path}: {line}")
    console.print(f"$ medtune final {best} --seeds 3" + (f' --again "{again}"' if again else ""))
    result = final([best], seeds=3, again=again, console=console)
    console.print(f"$ medtune report {found.path} -o {page}")
    report([found], page)
    model = next(result.glob("model-*"))
    console.print(
        f"Report: {page}",
        f"The demo took {duration(time.monotonic() - started)}. Best configuration: {best}",
        "Next, try:",
        f"  medtune status {found.path}",
        f"  medtune predict {model} {folder / 'images' / '3'} -o predictions.csv",
        f"  medtune ui {found.path}",
        f"  medtune check {settings} --set budget.trials=40 --set name=mine",
    )
    return 0
