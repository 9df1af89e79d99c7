"""How long does a search take, beside two baselines that run the same trials?

    make bench-search    (python -m benchmarks.search [--regime NAME ...] [--repeats 3] [--json FILE] [--tiny])

*plain*: a function under Ray Tune with timm, torchvision's transforms, an image folder and DataLoader workers.
*strong*: images resized beforehand to uint8 files, reused actors, bf16 on an accelerator, a fused optimizer.
Each regime is a recorded list of trials that every side runs to the end, in the same order, without anything stopped
early, each side in a process of its own; sides take turns in an order that changes with each repeat. Caches are cold,
and what is built is built inside the clock; the clock holds everything from the start of the process to its end. The
files of images are in the page cache for all sides alike. A baseline runs a stratified tenth of a long list (`--whole`:
all of it) and its time is scaled: what each stratum's trials held a slot for, times their number, and what lies around
the trials once. `uncached` is medtune without stored activations, on the baselines' trials.

Columns: wall seconds (* scaled), about how many of ours went into building, ratios of a baseline's wall to ours and
what is wanted of them; the same inside: of building and trials, without what lies around them (imports, Ray's start and
end); the ceiling that sharing alone sets on the list, in block passes. Then counts, and how far final values lie apart,
mean and largest.

`--equal-quality` compares searches instead of replays: each side searches the same space with as many trials, the plain
one with OptunaSearch and ASHA; the best configuration of each is then trained by the plain script on three seeds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.search import images
from benchmarks.search.kept import Kept, OutOfTime
from benchmarks.search.quality import equal_quality, quality_table
from benchmarks.search.regimes import REGIMES, Regime, Trained
from benchmarks.search.replay import SIDES
from benchmarks.search.replayed import measure, table
from benchmarks.search.setting import Setting


@dataclasses.dataclass(frozen=True)
class Size:
    """How large everything is."""

    backbone: str
    resolution: int
    images: dict[str, int]
    epochs: int
    trials: int | None = None
    """Of every list; None: as many as the regime has."""
    blocks: tuple[Trained, ...] = (0, 1, 2, 4, "all")


FULL = Size("dinov2_small", 56, {"digits": 400, "jpegs": 500}, 10)
TINY = Size("dinov2_tiny", 56, {"digits": 240, "jpegs": 60}, 2, 4, (0, 1, "all"))
WIDTH = 180  # of the tables where there is no terminal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--regime", nargs="+", choices=[regime.name for regime in REGIMES], help="all by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plain-repeats", type=int, default=3, help="of the plain side, if fewer")
    parser.add_argument("--plain-epochs", type=int, help="of the plain side's trials, if fewer; scaled as well")
    parser.add_argument("--sides", nargs="+", choices=[*SIDES, "uncached"], default=[*SIDES, "uncached"])
    parser.add_argument("--keep", type=Path, help="folder of images and runs; what is there isn't run again")
    parser.add_argument("--minutes", type=float, help="after which no further run is begun; goes on with --keep")
    parser.add_argument("--tiny", action="store_true", help="a tiny backbone and four trials: does it run?")
    parser.add_argument("--whole", action="store_true", help="baselines run whole lists")
    parser.add_argument("--equal-quality", action="store_true", help="searches instead of replays")
    parser.add_argument("--backbone", help=f"of the DINOv2 family; {FULL.backbone} by default")
    parser.add_argument("--resolution", type=int, help=f"side in pixels; {FULL.resolution} by default")
    parser.add_argument("--images", type=int, help="in a data set")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--trials", type=int, help="of every list")
    parser.add_argument("--accelerators", type=float, default=0, help="of a trial; a fraction shares one")
    parser.add_argument(
        "--cpus",
        type=int,
        help="of a trial; with accelerators, all are shared out among the trials that run at once; else 1",
    )
    parser.add_argument("--compile", action="store_true", help="the strong baseline compiles its model")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    size = _size(options)
    cpus, console, started = len(os.sched_getaffinity(0)), Console(), time.monotonic()
    if not console.is_terminal:
        console.width = WIDTH
    found: dict[str, Any] = {
        "machine": {"cpus": cpus, "processor": platform.processor() or platform.machine(), "load": os.getloadavg()[0]},
        "size": dataclasses.asdict(size),
    }
    with tempfile.TemporaryDirectory() as temporary:
        home = (options.keep or Path(temporary)).absolute()
        home.mkdir(parents=True, exist_ok=True)
        weights = home / f"{size.backbone}-{size.resolution}.safetensors"
        found["weights"] = images.write_weights(size.backbone, size.resolution, weights)

        def setting(kind: str) -> Setting:
            folder = home / f"{kind}-{size.images[kind]}"
            if not folder.exists():
                partial = folder.with_suffix(".partial")
                shutil.rmtree(partial, ignore_errors=True)
                images.write(kind, partial, size.images[kind])
                partial.rename(folder)
            return Setting(
                str(folder), "digits" if kind == "digits" else "natural", size.backbone, str(weights), size.resolution,
                size.epochs, _cpus(options, cpus), options.accelerators, options.compile,
            )  # fmt: skip

        if options.equal_quality:
            found["quality"] = equal_quality(
                setting("digits"), size.trials or 24, size.blocks, cpus, options.repeats, console
            )
            console.print(quality_table(found["quality"]))
        else:
            chosen: list[Regime] = [r for r in REGIMES if not options.regime or r.name in options.regime]
            found["regimes"] = []
            kept = Kept(home / "runs", options.minutes)
            repeats = {side: options.repeats if side in options.sides else 0 for side in (*SIDES, "uncached")}
            repeats["plain"] = min(repeats["plain"], options.plain_repeats)
            repeats["uncached"] = min(repeats["uncached"], 1)
            for regime in chosen:
                fitting, on = _fitting(regime, size), setting(regime.images)
                try:
                    found["regimes"].append(
                        measure(fitting, on, cpus, repeats, options.whole, console, kept, options.plain_epochs)
                    )
                except OutOfTime:
                    console.print(f"{regime.name}: not whole yet; the same command goes on with it", highlight=False)
                _keep(found, options.json)  # a later regime may take an hour
            console.print(table(found["regimes"]))
    found["seconds"] = time.monotonic() - started
    console.print(f"{found['seconds']:.0f} s in all")
    _keep(found, options.json)


def _keep(found: dict[str, Any], file: Path | None) -> None:
    if file is not None:
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _size(options: argparse.Namespace) -> Size:
    size = TINY if options.tiny else FULL
    given = {name: getattr(options, name) for name in ("backbone", "resolution", "epochs", "trials")}
    if options.images:
        given["images"] = dict.fromkeys(size.images, options.images)
    return dataclasses.replace(size, **{name: value for name, value in given.items() if value is not None})


def _cpus(options: argparse.Namespace, cpus: int) -> int:
    """Of a trial: a loader's workers and a trial's threads."""
    if options.cpus or not options.accelerators:
        return options.cpus or 1
    import torch

    return max(1, cpus // max(1, int(torch.cuda.device_count() / options.accelerators)))


def _fitting(regime: Regime, size: Size) -> Regime:
    """The regime with blocks that a small backbone has, and as many trials as were asked for."""
    trained = tuple(k for k in regime.trained if k in size.blocks) or (1,)
    return dataclasses.replace(regime, trained=trained, trials=size.trials or regime.trials)


if __name__ == "__main__":
    main()
