"""How much a leak inflates: training images of other patients or lesions, exchanged for siblings of the test's.

    python -m benchmarks.leak SEARCH.yaml [--set KEY=VALUE ...] [--replicates 10] [--test 0.2] [--json FILE]

In each replicate the groups (lesions, patients) of a search's training and validation images are divided anew. Of each
test group one unit is tested; its other images are siblings. Both arms are tested on the same units and learn from
equally many images of each label:

    clean    images of other groups alone
    leaking  the same, but that each sibling takes the place of an image with its label, for as long as there is one

Both are fine-tuned by the code that trials run, with the first configuration that the search would try and the same
seed. Printed is the difference leaking - clean, replicate by replicate, and its mean. Replicates share images, which a
plain interval ignores; this one is the corrected t interval (Nadeau and Bengio, Inference for the generalization error,
2003). The search's sealed test isn't read.

The difference of a paper's figure and a clean one isn't this: these have different test sets.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import stats

from search.plan import resolve, with_readers_defaults
from search.settings import load
from spaces.config import SearchConfig, SplitConfig, TrialConfig
from spaces.library import assemble, first_points, trial_config
from spaces.mistakes import Mistake
from trainables.augment import store_resolution
from trainables.causes import Diverged, Infeasible
from trainables.data.manifest import Manifest
from trainables.data.order import sample_order
from trainables.data.parts import TrialData, rows_of
from trainables.data.pixels import open_many, pixel_spec
from trainables.data.prepared import prepare
from trainables.data.splits import split
from trainables.loop import fine_tune
from trainables.place import Place, this_machine

LEAST = 10  # replicates
LEVEL = 0.95
EXCHANGE = 1 << 20  # stages of the random orders here, apart from those of splits
UNITS = 2 << 20


@dataclass(frozen=True, eq=False)
class Replicate:
    """Rows of a manifest, [.] int64 each."""

    test: np.ndarray
    clean: np.ndarray
    leaking: np.ndarray
    """As many as `clean`, of the same labels."""

    @property
    def exchanged(self) -> int:
        """Images of the clean arm that siblings of the test took the place of."""
        return len(np.setdiff1d(self.leaking, self.clean))


@dataclass(frozen=True)
class Pair:
    """One replicate's values."""

    clean: float
    leaking: float
    exchanged: int
    tested: int
    """Units."""
    trained: int
    """Images."""


@dataclass(frozen=True)
class Inflation:
    """The mean of the replicates' differences leaking - clean, with its interval."""

    mean: float
    low: float
    high: float
    level: float
    replicates: int


def replicate(manifest: Manifest, seed: int, test: float) -> Replicate:
    """Divides the groups anew, and makes both arms.

    Args:
        seed: of the division, of which unit of a group is tested, and of what is exchanged.
        test: share of the groups that are tested.

    Raises:
        Mistake: too few groups to divide, or no group with a sibling.
    """
    divided = split(manifest, SplitConfig(test=test, seed=seed, official=False))
    clean = np.union1d(divided.train, divided.validation)
    inside = manifest.take(divided.test)
    tested = _first_units(inside, seed)
    siblings = divided.test[~tested]
    if not len(siblings):
        raise Mistake(
            "leak: no group of this dataset has two units, so that nothing can leak; give a dataset whose images have "
            "patients or lesions in common."
        )
    leaking = _exchanged(manifest, clean, siblings, seed)
    return Replicate(divided.test[tested], clean, leaking)


def _first_units(manifest: Manifest, seed: int) -> np.ndarray:
    """[N] bool: the rows of one drawn unit of each group."""
    units, unit = np.unique(manifest.units, return_inverse=True)
    drawn = np.argsort(sample_order(seed, UNITS, len(units)))[unit]
    _, group = np.unique(manifest.groups, return_inverse=True)
    first = np.full(int(group.max()) + 1, len(units))
    np.minimum.at(first, group, drawn)
    return drawn == first[group]


def _exchanged(manifest: Manifest, clean: np.ndarray, siblings: np.ndarray, seed: int) -> np.ndarray:
    """The rows `clean`, some of them exchanged for siblings of the same label, sorted."""
    labels = manifest.labels
    if labels.ndim == 2:
        labels = np.unique(np.nan_to_num(labels, nan=-2), axis=0, return_inverse=True)[1].reshape(-1)
    out, within = [], []
    for label in np.unique(labels[siblings]):
        new = siblings[labels[siblings] == label]
        old = clean[labels[clean] == label]
        count = min(len(new), len(old))
        within.append(new[sample_order(seed, EXCHANGE, len(new))[:count]])
        out.append(old[sample_order(seed, EXCHANGE + 1, len(old))[:count]])
    return np.sort(np.concatenate([np.setdiff1d(clean, np.concatenate(out)), *within]))


def inflation(pairs: list[Pair]) -> Inflation:
    """The corrected t interval of the mean difference. At least two pairs."""
    differences = np.array([pair.leaking - pair.clean for pair in pairs])
    shared = float(np.mean([pair.tested / pair.trained for pair in pairs]))
    error = math.sqrt((1 / len(pairs) + shared) * float(differences.var(ddof=1)))
    mean, reach = float(differences.mean()), float(stats.t.ppf((1 + LEVEL) / 2, len(pairs) - 1)) * error
    return Inflation(mean, mean - reach, mean + reach, LEVEL, len(pairs))


def experiment(
    config: SearchConfig,
    base: Path,
    *,
    replicates: int = LEAST,
    test: float = 0.2,
    place: Place | None = None,
    tell: Callable[[Pair], None] = lambda _: None,
) -> tuple[list[Pair], Inflation]:
    """The whole experiment.

    Args:
        base: folder that the dataset's root is relative to.
        tell: called after each replicate.

    Raises:
        Mistake: too few replicates, settings or data that can't be used, or a configuration that can't be trained.
    """
    if replicates < LEAST:
        raise Mistake(f"leak: --replicates {replicates}: expected at least {LEAST}.")
    if config.protocol != "own":
        raise Mistake("leak: a protocol keeps the best epoch, which would be chosen on the test; leave protocol out.")
    config = resolve(config, base)
    cache = config.cache_folder
    prepared = prepare(config.dataset, cache, None)
    manifest = prepared.manifest
    config = with_readers_defaults(config, manifest)
    trial = _first_trial(config, len(prepared.train))
    specs = [pixel_spec(config.dataset, size) for size in (store_resolution(trial), trial.resolution)]
    stored, plain = open_many(manifest, specs, cache)
    place = place or this_machine(config.resources.accelerators, config.resources.cpus)

    def value(rows: np.ndarray, tested: np.ndarray) -> float:
        data = TrialData(
            train=rows_of(manifest, stored, rows),
            validation=rows_of(manifest, plain, tested),
            classes=manifest.classes,
            task=manifest.task,
        )
        return _value(trial, data, place)

    pairs = []
    for seed in range(replicates):
        arms = replicate(manifest, seed, test)
        units = len(np.unique(manifest.units[arms.test]))
        found = value(arms.clean, arms.test), value(arms.leaking, arms.test)
        pairs.append(Pair(*found, exchanged=arms.exchanged, tested=units, trained=len(arms.clean)))
        tell(pairs[-1])
    return pairs, inflation(pairs)


def _first_trial(config: SearchConfig, training_images: int) -> TrialConfig:
    space = assemble(config)
    point = [*first_points(config, space, training_images), space.complete({})][0]
    metric, policy = str(config.metric), str(config.dataset.policy)
    return trial_config(config, point, metric=metric, policy=policy, seed=config.seed)


def _value(trial: TrialConfig, data: TrialData, place: Place) -> float:
    try:
        outcome = fine_tune(trial, data, place=place)
    except (Diverged, Infeasible) as reason:
        raise Mistake(f"leak: the search's first configuration can't be trained: {reason}.") from None
    assert outcome.value is not None  # it was judged
    return outcome.value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change to the settings")
    parser.add_argument("--replicates", type=int, default=LEAST)
    parser.add_argument("--test", type=float, default=0.2, help="share of the groups that are tested")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    options = parser.parse_args(arguments)

    def tell(pair: Pair) -> None:
        print(
            f"clean {pair.clean:.4f}  leaking {pair.leaking:.4f}  difference {pair.leaking - pair.clean:+.4f}  "
            f"({pair.exchanged} of {pair.trained} training images exchanged, {pair.tested} units tested)",
            flush=True,
        )

    try:
        config = load(options.settings, options.set)
        pairs, found = experiment(
            config, options.settings.parent, replicates=options.replicates, test=options.test, tell=tell
        )
    except Mistake as mistake:
        print(*mistake.sentences, sep="\n", file=sys.stderr)
        return 2
    print(
        f"A leak inflates by {found.mean:+.4f} ({found.level:.0%} interval {found.low:+.4f} to {found.high:+.4f}, "
        f"{found.replicates} replicates)."
    )
    if options.json:
        options.json.write_text(json.dumps({"pairs": [asdict(pair) for pair in pairs], **asdict(found)}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
