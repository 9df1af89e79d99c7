"""Which form of Optuna's TPE finds good configurations soonest in a conditional space?

    python -m benchmarks.sampler [--trials 60] [--repeats 20]

The space is the shipped one for four backbones, the quality a function of the asked values made up for this purpose:
each backbone, depth and head has a best learning rate, ratio and decay of its own, which matter only where they are
asked, and observations carry the noise of a validation set. Prints the regret (best possible minus noiseless quality
of the configuration that looks best) after 20, 40 and 60 trials: mean and standard error over repeats. The same
seeds are used for every sampler.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from search.sampler import suggest
from spaces.config import SearchConfig
from spaces.dimensions import Point, Space
from spaces.library import assemble

BACKBONES = ["dinov2_base", "dinov2_large", "mae_base", "mae_large"]
NOISE = 0.01
SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "random": lambda seed: RandomSampler(seed=seed),
    "tpe, univariate": lambda seed: TPESampler(multivariate=False, constant_liar=True, seed=seed),
    "tpe, multivariate": lambda seed: TPESampler(multivariate=True, group=False, constant_liar=True, seed=seed),
    "tpe, multivariate, groups": lambda seed: TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed),
}


def taste(*parts: object) -> float:
    """A number in [0, 1) that belongs to these names."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "little") / 2**32


def quality(point: Point, world: int) -> float:
    """Between about .5 and 1: what a perfect measurement of this configuration would give."""
    backbone, depth = point["backbone"], point["trained_blocks"]
    value = 0.85 + 0.06 * taste(world, backbone) + 0.06 * taste(world, backbone, depth)
    best_lr = 10 ** (-3.5 + 1.5 * taste(world, backbone, depth == 0))
    value -= 0.06 * min(1.0, abs(math.log10(float(point["head_lr"]) / best_lr))) ** 1.5
    if depth != 0:
        best_ratio = 10 ** (-2.5 + 1.5 * taste(world, backbone, depth, "ratio"))
        value -= 0.08 * min(1.5, abs(math.log10(float(point["backbone_lr_ratio"]) / best_ratio))) ** 1.5
        value -= 0.1 * abs(float(point["layer_decay"]) - 0.6 - 0.3 * taste(world, backbone, "decay"))
        value -= 0.1 * abs(float(point["drop_path"]) - 0.3 * taste(world, backbone, "drop"))
    value -= 0.01 * abs(int(point["level"]) - round(3 * taste(world, "level")))
    value -= 0.01 * (float(point["ema"]) == 0)
    return value


def regrets(space: Space, sampler: BaseSampler, world: int, trials: int, top: float) -> list[float]:
    study = optuna.create_study(direction="maximize", sampler=sampler)
    generator = np.random.default_rng(world)
    seen: list[tuple[float, float]] = []
    found = []
    for _ in range(trials):
        trial = study.ask()
        point = space.ask(partial(suggest, trial))
        true = quality(point, world)
        measured = true + NOISE * generator.standard_normal()
        study.tell(trial, measured)
        seen.append((measured, true))
        found.append(top - max(seen)[1])
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--trials", type=int, default=60)
    options.add_argument("--repeats", type=int, default=20)
    arguments = options.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    settings = {
        "name": "bench",
        "dataset": {"reader": "folder", "root": "."},
        "backbones": BACKBONES,
        "weights": "random",
    }
    space = assemble(SearchConfig.parse(settings, "bench"))
    generator = np.random.default_rng(0)
    tops = []
    for world in range(arguments.repeats):  # the best of many random points stands for the best possible
        study = optuna.create_study(sampler=RandomSampler(seed=int(generator.integers(2**31))))
        points = [space.ask(partial(suggest, study.ask())) for _ in range(1500)]
        tops.append(max(quality(p, world) for p in points))
    marks = [n for n in (20, 40, 60, 100) if n <= arguments.trials]
    print(f"{'sampler':<28}" + "".join(f"{f'regret after {n}':>22}" for n in marks))
    for name, make in SAMPLERS.items():
        runs = np.array(
            [regrets(space, make(1000 + w), w, arguments.trials, tops[w]) for w in range(arguments.repeats)]
        )
        cells = [
            f"{runs[:, n - 1].mean():.4f} +- {runs[:, n - 1].std(ddof=1) / math.sqrt(len(runs)):.4f}" for n in marks
        ]
        print(f"{name:<28}" + "".join(f"{cell:>22}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
