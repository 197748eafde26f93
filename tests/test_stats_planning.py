from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mlops_nb.stats.intervals import Interval, guarded_proportion, mean
from mlops_nb.stats.planning import (
    auc_passes,
    least_rows,
    rows_for_auc,
    rows_for_share,
    scaled_power,
    scaled_rows,
    share_passes,
)
from mlops_nb.stats.scores import auc


@pytest.mark.parametrize(("threshold", "rows"), [(0.75, 11), (0.90, 29), (0.95, 59), (0.99, 299), (0.0, 1), (1.0, 1)])
def test_the_least_rows_are_those_of_a_perfect_result(threshold: float, rows: int) -> None:
    assert least_rows(threshold) == rows
    if rows > 1:
        assert guarded_proportion(rows, rows).low >= threshold > guarded_proportion(rows - 1, rows - 1).low


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.8, 0.9])
def test_the_rows_for_a_share_suffice_and_few_less_do_not(threshold: float) -> None:
    rows = rows_for_share(threshold, threshold + 0.05)
    assert rows
    assert share_passes(threshold, threshold + 0.05, rows) >= 0.80
    assert share_passes(threshold, threshold + 0.05, int(rows * 0.8)) < 0.80
    assert share_passes(threshold, threshold, rows) <= 0.05


@pytest.mark.parametrize(("threshold", "share"), [(0.70, 0.4), (0.80, 0.2), (0.90, 0.1)])
def test_with_the_rows_for_an_auc_five_points_are_seen_in_four_cases_of_five(threshold: float, share: float) -> None:
    rows = rows_for_auc(threshold, threshold + 0.05, share)
    assert rows
    rng, shift = np.random.default_rng(0), stats.norm.ppf(threshold + 0.05) * np.sqrt(2)
    truth = np.arange(rows) < share * rows
    passed = [auc(rng.normal(size=rows) + shift * truth, truth).low >= threshold for _ in range(300)]
    assert np.mean(passed) >= 0.80 - 0.058


def test_what_cannot_be_decided_has_no_number() -> None:
    assert rows_for_share(0.8, 0.8) is None
    assert rows_for_auc(0.8, 0.7, 0.3) is None
    assert rows_for_auc(0.8, 0.9, 0.0) is None
    assert auc_passes(0.95, 0.99, 40, 0.5) == 0
    assert scaled_rows(Interval(1.0, -np.inf, np.inf, n=1), 2.0) is None
    assert scaled_power(Interval(1.0, -np.inf, np.inf, n=1), 2.0, 0.5) == 0


def test_scaled_rows_are_what_a_mean_needs() -> None:
    rng = np.random.default_rng(3)
    rows = scaled_rows(mean(rng.normal(0.3, 1, 100)), 0.0, 0.3)
    assert rows
    passed = [mean(rng.normal(0.3, 1, rows)).low > 0 for _ in range(400)]
    assert 0.7 < np.mean(passed) < 0.95
