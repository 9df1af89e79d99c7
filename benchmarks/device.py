"""How well fine-tuning uses a device: images a second, the share of the measured matrix rate, and where the time goes.

    python -m benchmarks.device [--backbone dinov2_base] [--side 224] [--images 4096] [--json FILE]

The training loop itself is timed (`trainables.loop.fine_tune`: sampling, augmentation, optimizer, evaluation), on
images of noise and random weights, on which its time doesn't depend. Kinds: everything trained; the last block and
the head alone, each with its frozen part computed in every step (a view for each epoch, as the first trial of a
search sees it) and read from what is kept (one view, after the first epoch). The matrix rate is that of one large
product in the type of the training, bf16 on an accelerator, measured in the same run; the share is what the counted
operations of a step (torch's counter: products of matrices and attention, forward and backward, of what isn't read)
would take at that rate, by what it took. The profile is torch's, of one epoch, by its own time on the device. Drawing
random weights is in it, which a search's trials read from a file: `uniform_` and `erfinv_`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from spaces.config import TrialConfig
from trainables.augment import store_resolution
from trainables.data.parts import TrialData
from trainables.loop import fine_tune
from trainables.model import build_model
from trainables.place import Place, precision, this_machine
from trainables.prefix import ActivationStore
from trainables.probe import noise

CLASSES, TASK = 10, "classification"
SIZE = {"cuda": 8192, "cpu": 1024}  # of the matrices whose product is timed
ROOM = 64 << 30  # bytes that kept activations may take
SHOWN = 12  # rows of a profile


@dataclass(frozen=True)
class Kind:
    name: str
    trained_blocks: int | str
    kept: bool


KINDS = (
    Kind("everything trained", "all", kept=False),
    Kind("last block, computed", 1, kept=False),
    Kind("last block, kept", 1, kept=True),
    Kind("head alone, computed", 0, kept=False),
    Kind("head alone, kept", 0, kept=True),
)


def trial(name: str, side: int, kind: Kind, batch: int, epochs: int) -> TrialConfig:
    return TrialConfig.model_validate(
        {
            "backbone": name, "weights": "random", "resolution": [side, side], "trained_blocks": kind.trained_blocks,
            "metric": "accuracy", "epochs": epochs, "seed": 0, "policy": "natural", "level": 0 if kind.kept else 2,
            "head_lr": 1e-6, "batch_size": batch, "head": "linear", "value": "last",
        }
    )  # fmt: skip


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations a second of a large product of matrices."""
    size = SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(precision(device)) for _ in range(2))
    took = []
    for _ in range(10):
        _wait(device)
        started = time.perf_counter()
        a @ b
        _wait(device)
        took.append(time.perf_counter() - started)
    return 2 * size**3 / min(took)


def operations(config: TrialConfig, kept: bool) -> float:
    """Floating-point operations of a training step, an image: forward and backward, without what is read."""
    model = build_model(config, CLASSES).train()
    images = torch.rand(2, 3, *config.resolution)
    counter, frozen = FlopCounterMode(display=False), FlopCounterMode(display=False)
    with frozen:
        hidden = model.hidden(images)
    with counter:
        F.cross_entropy(model.from_hidden(hidden), torch.zeros(2, dtype=torch.int64)).backward()
    forward = frozen.get_total_flops()
    return (counter.get_total_flops() + (0 if kept else forward)) / 2


def measure(kind: Kind, options: argparse.Namespace, place: Place, rate: float) -> dict[str, Any]:
    config = trial(options.backbone, options.side, kind, options.batch, options.epochs)
    data = TrialData(
        train=noise(options.images, store_resolution(config), CLASSES, TASK),
        validation=noise(options.batch, config.resolution, CLASSES, TASK),
        classes=tuple(map(str, range(CLASSES))),
        task=TASK,
    )
    with tempfile.TemporaryDirectory() as home:
        store = ActivationStore(Path(home), ROOM) if kind.kept else None
        if place.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = [report.seconds for report in fine_tune(config, data, place=place, judged=False, store=store).reports]
        peak = torch.cuda.max_memory_allocated() if place.device.type == "cuda" else 0
        with profile(activities=[ProfilerActivity.CPU, *_of_device(place.device)]) as profiled:
            fine_tune(config.model_copy(update={"epochs": 1}), data, place=place, judged=False, store=store)
    speed = options.images / median(seconds[1:])
    needed = operations(config, kind.kept)
    return {
        "kind": kind.name,
        "images_per_second": speed,
        "operations_an_image": needed,
        "share_of_matrix_rate": needed * speed / rate,
        "peak_bytes": peak,
        "first_epoch_seconds": seconds[0],
        "later_epochs_seconds": seconds[1:],
        "profile": busiest(profiled, place.device),
    }


def busiest(profiled: Any, device: torch.device) -> list[dict[str, Any]]:
    """Operators by their own time, and each one's share of the whole."""
    name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    events = sorted(profiled.key_averages(), key=lambda event: -getattr(event, name))
    total = sum(getattr(event, name) for event in events) or 1
    return [{"operator": e.key, "share": getattr(e, name) / total, "calls": e.count} for e in events[:SHOWN]]


def _of_device(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CUDA] if device.type == "cuda" else []


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    cuda = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="dinov2_base" if cuda else "dinov2_small")
    parser.add_argument("--side", type=int, default=224 if cuda else 56, help="of the input, in pixels")
    parser.add_argument("--images", type=int, default=4096 if cuda else 128)
    parser.add_argument("--batch", type=int, default=128 if cuda else 32)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1, help="of the CPU")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    place = this_machine(float(cuda), options.threads)
    rate = matrix_rate(place.device)
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "backbone": options.backbone,
        "side": options.side,
        "batch": options.batch,
        "images": options.images,
        "precision": str(precision(place.device)).removeprefix("torch."),
        "matrix_rate": rate,
    }
    print(", ".join(f"{key} {value}" for key, value in found.items()))
    found["kinds"] = []
    for kind in KINDS:
        row = measure(kind, options, place, rate)
        found["kinds"].append(row)
        peak = f", peak {row['peak_bytes'] / 2**30:.1f} GiB" if cuda else ""
        print(
            f"\n{kind.name}: {row['images_per_second']:,.0f} images/s, {row['operations_an_image'] / 1e9:.2f} GFLOP an "
            f"image, {row['share_of_matrix_rate']:.0%} of the matrix rate{peak}"
        )
        for event in row["profile"]:
            print(f"  {event['share']:>4.0%}  {event['operator'][:90]} ({event['calls']} calls)")
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
