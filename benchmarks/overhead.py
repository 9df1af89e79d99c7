"""What a trial costs before its first step, and what the record and tracking cost the driver.

    make bench-overhead        (python -m benchmarks.overhead [--trials 24])

Runs a real search of short one-worker trials of tiny backbones on handwritten digits, with MLflow's mirror on. The
fixed cost of a trial is the time from the driver's order (when its point enters the record, Tune being free to start
it) to the start of its first training step in the actor, both by this machine's clock. Actors' first trials, which pay
for imports, are shown apart.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import search.launch
from search.demo import write_digits
from spaces.config import SearchConfig


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=24)
    trials = options.parse_args().trials
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        write_digits(home / "images")
        config = SearchConfig.parse(
            {
                "name": "overhead",
                "dataset": {"reader": "folder", "root": "images", "policy": "digits"},
                "backbones": ["dinov2_tiny", "mae_tiny"],
                "weights": "random",
                "space": {"batch_size": 32},
                "budget": {"trials": trials, "epochs": 2},
                "stopping": {"rule": "off"},
                "storage": str(home / "runs"),
            },
            "benchmark",
        )
        found = search.launch.search(config, home)
        driver = json.loads((found.path / search.launch.DRIVER).read_text())
        study = found.study()
        order = sorted(study.trials, key=lambda t: t.number)
        costs = np.array([t.epochs[1].time - t.epochs[1].seconds - t.started for t in order])
    concurrent = 2
    first, later = costs[:concurrent], costs[concurrent:]
    figures = {
        "trials": trials,
        "fixed_cost_first_in_actor_s": [round(float(c), 3) for c in first],
        "fixed_cost_later_median_s": round(float(np.median(later)), 3),
        "fixed_cost_later_max_s": round(float(later.max()), 3),
        "search_wall_s": round(driver["wall_seconds"], 1),
        "driver_record_share": round(driver["record_seconds"] / driver["wall_seconds"], 5),
        "driver_tracking_share": round(driver["tracking_seconds"] / driver["wall_seconds"], 5),
    }
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
