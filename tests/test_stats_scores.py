from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from mlops_nb.core.errors import InputError
from mlops_nb.stats.scores import HEAVY_TAIL, auc, ece, heavy_tailed, r2, rmse


def sampling_error(share: float, repeats: int) -> float:
    return 2.5 * float(np.sqrt(share * (1 - share) / repeats))


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize(("positives", "ratio"), [(12, 1), (12, 10), (30, 2), (100, 3)])
@pytest.mark.parametrize("true", [0.75, 0.85, 0.95])
def test_an_auc_at_its_threshold_passes_in_at_most_5_percent(
    positives: int, ratio: int, true: float, seed: int
) -> None:
    rng, repeats = np.random.default_rng(seed), 500
    shift = stats.norm.ppf(true) * np.sqrt(2)
    truth = np.arange(positives * (1 + ratio)) < positives
    found = [auc(rng.normal(size=len(truth)) + shift * truth, truth) for _ in range(repeats)]
    assert np.mean([f.low > true for f in found]) <= 0.05 + sampling_error(0.05, repeats)
    assert np.mean([f.low <= true <= f.high for f in found]) >= 0.90 - sampling_error(0.1, repeats) - 0.02


def test_an_auc_with_ties_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    score, truth = rng.integers(0, 5, 300) / 4, rng.uniform(size=300) < 0.3
    assert auc(score, truth).value == pytest.approx(roc_auc_score(truth, score))


def test_a_constant_score_says_nothing() -> None:
    found = auc(np.zeros(60), np.arange(60) < 20)
    assert found.value == 0.5
    assert found.low < 0.45 < 0.55 < found.high


def test_one_row_of_a_class_bounds_nothing_useful() -> None:
    found = auc(np.arange(50.0), np.arange(50) == 49)
    assert found.value == 1
    assert found.low < 0.5


@pytest.mark.parametrize("true", [0.26, 0.6])
@pytest.mark.parametrize("n", [40, 66, 200])
def test_an_r2_at_its_threshold_passes_in_at_most_5_percent_of_normal_samples(true: float, n: int) -> None:
    rng, repeats, found = np.random.default_rng(n), 250, []
    for _ in range(repeats):
        signal = rng.normal(size=n) * np.sqrt(true)
        found.append(r2(signal + rng.normal(size=n) * np.sqrt(1 - true), signal, draws=150))
    assert np.mean([f.low > true for f in found]) <= 0.05 + sampling_error(0.05, repeats)


@pytest.mark.parametrize("n", [30, 100])
def test_an_rmse_of_normal_errors_covers_and_a_heavy_tail_is_flagged(n: int) -> None:
    rng = np.random.default_rng(n)
    draws = rng.normal(size=(2500, n))
    assert abs(np.mean([(f := rmse(e)).low <= 1 <= f.high for e in draws]) - 0.90) < 0.02 + 0.012
    assert np.mean([HEAVY_TAIL in rmse(e).flags for e in draws]) < 0.08
    assert np.mean([HEAVY_TAIL in rmse(e).flags for e in rng.standard_t(2, size=(100, 300))]) > 0.9


def test_a_perfect_regression_needs_no_interval() -> None:
    truth = np.arange(10.0)
    assert r2(truth, truth).low == 1
    assert rmse(np.zeros(5)).high == 0
    assert not heavy_tailed(np.zeros(5))
    with pytest.raises(InputError, match="all the same"):
        r2(np.ones(10), truth)


@pytest.mark.parametrize("off", [0.0, 0.05])
@pytest.mark.parametrize("n", [200, 1000])
def test_the_calibration_error_is_covered(off: float, n: int) -> None:
    rng, held = np.random.default_rng(n), []
    for _ in range(200):
        p = rng.uniform(0.1, 0.9, size=n)
        found = ece(p, rng.uniform(size=n) < p + off, 0.95, draws=200)
        held.append(found.low <= off <= found.high)
    assert np.mean(held) >= 0.93


def test_certain_answers_have_a_calibration_error_too() -> None:
    found = ece(np.ones(50), np.arange(50) < 40)
    assert found.value == pytest.approx(0.2)
    assert found.low > 0
