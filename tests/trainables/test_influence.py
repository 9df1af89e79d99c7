"""What groups do to scores, kept by epoch: the standard error of a difference is paired over them."""

import errno
import resource
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import special

from tests.trainables.digits import Digits
from trainables.head_group import fine_tune_heads
from trainables.influence import FILE, METRIC, PROPER, TEMPERED, keep, paired_error
from trainables.intervals import error_of, influence, standard_error
from trainables.loop import fine_tune
from trainables.metrics import compute


@pytest.mark.parametrize("metric", ["balanced_accuracy", "macro_auroc", "log_loss"])
def test_the_error_of_a_difference_is_that_of_leaving_groups_out(metric: str) -> None:
    rng = np.random.default_rng(0)
    groups, labels = np.repeat(np.arange(50), 3), rng.integers(0, 3, 150)
    common = rng.normal(size=(150, 3)) + np.eye(3)[labels]
    a, b = (special.softmax(common + 0.2 * rng.normal(size=(150, 3)), axis=1) for _ in range(2))
    moved = [influence(metric, labels, p, groups, 3) for p in (a, b)]
    assert moved[0] is not None and moved[1] is not None
    assert abs(moved[0].mean()) < 1e-9
    assert error_of(moved[0]) == pytest.approx(standard_error(metric, labels, a, groups, 3))

    def difference(kept: np.ndarray) -> float:
        return compute(metric, labels[kept], a[kept], 3) - compute(metric, labels[kept], b[kept], 3)

    left_out = np.array([difference(groups != g) for g in range(50)])
    assert error_of(moved[0] - moved[1]) == pytest.approx(np.sqrt(49 * left_out.var()), rel=1e-5)
    assert error_of(moved[0] - moved[1]) < error_of(moved[0]), "what is hard for both cancels out"


def test_rows_are_kept_by_epoch_and_averaged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4, 2, 30)).astype(np.float32)
    for epoch in (1, 2, 2, 4):
        keep(tmp_path / "a", epoch, 4, a[epoch - 1])
        keep(tmp_path / "b", epoch, 4, b[epoch - 1])
    table = np.load(tmp_path / "a" / FILE)
    np.testing.assert_array_equal(table[[0, 1, 3]], a[[0, 1, 3]])
    assert np.isnan(table[2]).all()
    pair = (tmp_path / "a", tmp_path / "b")
    for score in (METRIC, PROPER):
        means = [table[[0, 1], score].mean(axis=0, dtype=float) for table in (a, b)]
        expected = error_of(means[0] - means[1])
        assert paired_error([pair], score, (1, 2)) == pytest.approx(expected, rel=1e-6)
        assert paired_error([pair, pair], score, (1, 2)) == pytest.approx(expected / np.sqrt(2), rel=1e-6), "two folds"
    assert paired_error([pair], METRIC, (2, 3)) is None, "an epoch that isn't done"
    assert paired_error([pair], METRIC, (5,)) is None
    assert paired_error([(tmp_path / "a", tmp_path / "c")], METRIC, (1,)) is None
    keep(tmp_path / "c", 1, 4, a[0, :, :20])
    assert paired_error([(tmp_path / "a", tmp_path / "c")], METRIC, (1,)) is None, "other groups"
    keep(tmp_path / "c", 2, 4, a[1])
    assert paired_error([(tmp_path / "a", tmp_path / "c")], METRIC, (2,)) == 0, "begun anew"
    (tmp_path / "b" / FILE).write_bytes((tmp_path / "b" / FILE).read_bytes()[:200])
    assert paired_error([pair], METRIC, (1,)) is None, "torn"
    (tmp_path / "b" / FILE).write_bytes(b"")
    assert paired_error([pair], METRIC, (1,)) is None, "empty"
    keep(tmp_path / "b", 1, 4, a[0])
    assert paired_error([pair], METRIC, (1,)) == 0, "begun anew where it was empty"


def test_a_disk_without_room_is_told_by_the_errors_number(tmp_path: Path) -> None:
    """Which is how an outage is known. A limit of a file's size stands for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(OSError) as told:
            keep(tmp_path, 1, 50, np.zeros((2, 100)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_a_trial_keeps_what_its_reports_say(digits: Digits, tmp_path: Path) -> None:
    configs = [
        digits.config(trained_blocks=0, seed=seed, label_smoothing=smooth) for seed, smooth in ((1, 0), (2, 0.1))
    ]
    data = digits.data(configs[0])
    outcome = fine_tune(configs[0], data, tmp_path / "alone")
    table = np.load(tmp_path / "alone" / FILE)
    assert table.shape == (3, 2, len(set(data.validation.units.groups)))
    for report, row in zip(outcome.reports, table, strict=True):
        assert error_of(row[METRIC]) == pytest.approx(report.standard_error, rel=1e-4)
        assert np.isfinite(row[PROPER]).all()
        assert report.metrics[TEMPERED] <= report.metrics["log_loss"] + 1e-6, "the temperature can only help"
    folders = [tmp_path / "one", tmp_path / "two"]
    fine_tune_heads(configs, data, folders=folders)
    np.testing.assert_allclose(np.load(folders[0] / FILE), table, atol=1e-3)
    assert paired_error([(folders[0], folders[1])], PROPER, (1, 2, 3)) > 0  # type: ignore[operator]


def test_what_is_not_learned_as_a_probability_has_no_log_loss(digits: Digits, tmp_path: Path) -> None:
    config = digits.config(trained_blocks=0, epochs=1, loss="regression")
    data = replace(digits.data(config), task="ordinal")
    outcome = fine_tune(config, data, tmp_path)
    assert TEMPERED not in outcome.reports[0].metrics
    assert np.isnan(np.load(tmp_path / FILE)[0, PROPER]).all()
