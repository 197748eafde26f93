"The tests on counts: the same as scipy's where that is exact, and right where that is not."

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from mlops_nb.stats.multiplicity import draws_needed, holm, shares
from mlops_nb.stats.profiles import LevelProfile, count_levels, count_numbers
from mlops_nb.stats.two_sample import (
    chi_square_p_value,
    compare_levels,
    compare_nulls,
    compare_numbers,
    fisher_p_value,
    kolmogorov_tail,
    ks_exact,
    ks_gap,
    ks_p_value,
    margin,
    permutation_p_value,
    rows_needed,
)

sizes = st.integers(2, 60)


@given(sizes, sizes, st.integers(0, 2**32))
def test_ks_is_scipys_exact_test(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=n).astype(np.float32), rng.normal(0.5, size=m).astype(np.float32)
    r = count_numbers(a)
    gap = ks_gap(r, count_numbers(b, r))
    theirs = stats.ks_2samp(a, b, method="exact")
    assert gap == round(theirs.statistic * n * m)
    assert ks_exact(gap, n, m) == pytest.approx(theirs.pvalue, rel=1e-6, abs=1e-9)


@pytest.mark.filterwarnings("ignore:ks_2samp:RuntimeWarning")  # its p-value, which is not asked for
@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.lists(st.integers(-2, 9), min_size=1, max_size=40))
def test_ks_distance_with_ties_and_gaps_is_exact(a: list[int], b: list[int]) -> None:
    r = count_numbers(np.array(a, np.float32))
    w = count_numbers(np.array(b, np.float32) + np.float32(0.5), r)
    theirs = stats.ks_2samp(a, np.array(b) + 0.5).statistic
    assert ks_gap(r, w) == round(theirs * len(a) * len(b))


@pytest.mark.parametrize(("n", "m"), [(50, 1_000_000), (3_000, 100_000), (200_000, 200_000)])
def test_ks_tail_beyond_counting_is_close(n: int, m: int) -> None:
    for z in (1.36, 1.8, 2.3):
        gap = int(z * np.sqrt((n + m) / (n * m)) * n * m)
        exact = stats.kstwo.sf(gap / (n * m), round(n * m / (n + m)))
        assert ks_p_value(gap, n, m) == pytest.approx(exact, rel=0.1)


@given(st.integers(0, 40), st.integers(1, 40), st.integers(0, 40), st.integers(1, 40))
def test_fisher_is_scipys(a: int, n: int, b: int, m: int) -> None:
    a, b = min(a, n), min(b, m)
    theirs = stats.fisher_exact([[a, n - a], [b, m - b]])[1]
    assert fisher_p_value(a, n, b, m) == pytest.approx(theirs, rel=1e-6)


def test_permutation_agrees_with_the_exact_test() -> None:
    a, b = np.array([9, 1, 4, 2]), np.array([20, 15, 22, 3])
    seen = chi_square_p_value(a, b, 40_000)
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), a + b)
    expected = (a + b) * a.sum() / labels.size

    def statistic(counts: np.ndarray) -> float:
        return float(((counts - expected) ** 2 / expected).sum())

    drawn = [statistic(np.bincount(rng.permutation(labels)[: a.sum()], minlength=4)) for _ in range(4_000)]
    p = float(np.mean(np.array(drawn) >= statistic(a) - 1e-9))
    assert seen[1] == pytest.approx(p, abs=4 * np.sqrt(p * (1 - p) / 4_000) + 0.002)


def test_permutation_stops_early_and_never_says_zero() -> None:
    pooled, seen = np.array([50, 50]), np.array([25, 25])
    assert permutation_p_value(pooled, seen, lambda c: np.zeros(len(c)), 10**9) == 1
    far = permutation_p_value(pooled, np.array([50, 0]), lambda c: np.abs(c[:, 0] - 25.0), 2_000)
    assert far == pytest.approx(1 / 2_001)


def test_size_holds_for_rare_levels_ties_and_gaps() -> None:
    "A chi-square by the book rejects 12 to 34 % here."
    rng, draws = np.random.default_rng(1), 600
    w = 1 / np.arange(1, 201)
    names = np.array([f"l{i}" for i in range(200)], object)
    found: dict[str, list[float]] = {"rare": [], "ties": [], "nulls": []}
    for i in range(draws):
        r = count_levels(rng.choice(names, 3_000, p=w / w.sum()))
        found["rare"].append(compare_levels(r, count_levels(rng.choice(names, 100, p=w / w.sum()), r), 400, i).p_value)
        x = count_numbers(rng.poisson(1.5, 2_000).astype(np.float32))
        found["ties"].append(
            compare_numbers(x, count_numbers(rng.poisson(1.5, 80).astype(np.float32), x), 400, i).p_value
        )
        gaps = [LevelProfile({"a": n - k}, 0, int(k)) for n in (2_000, 300) for k in [rng.binomial(n, 0.03)]]
        found["nulls"].append(compare_nulls(gaps[0], gaps[1]).p_value)
    for name, p in found.items():
        share = float(np.mean(np.array(p) <= 0.05))
        assert share <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / draws), name
    assert np.mean(np.array(found["rare"]) <= 0.05) > 0.025, "and is not merely conservative"


def test_power_is_that_of_the_test_on_all_rows() -> None:
    rng, alpha, hits = np.random.default_rng(2), 0.05 / 20, np.zeros(2)
    for _ in range(250):
        a, b = rng.normal(size=5_000).astype("f4"), rng.normal(0.3, 1, 300).astype("f4")
        r = count_numbers(a)
        hits += (
            compare_numbers(r, count_numbers(b, r)).p_value <= alpha,
            stats.ks_2samp(a, b).pvalue <= alpha,
        )
    assert hits[0] >= hits[1] - 2
    assert 100 < hits[1] < 240


def test_limits_hold_the_true_effect() -> None:
    rng, inside, draws = np.random.default_rng(3), 0, 300
    true = 2 * stats.norm.cdf(0.15) - 1  # of a shift by 0.3
    for _ in range(draws):
        r = count_numbers(rng.normal(size=1_000))
        c = compare_numbers(r, count_numbers(rng.normal(0.3, 1, 400), r))
        inside += c.low <= true <= c.high
    assert inside >= 0.98 * draws - 3
    assert margin(100, 100) > margin(1_000, 1_000)


def test_one_empty_side_is_no_evidence() -> None:
    r = count_numbers(np.arange(10))
    assert compare_numbers(r, count_numbers(np.empty(0, np.float32), r)).p_value == 1
    assert compare_levels(LevelProfile({"a": 5}, 0, 0), LevelProfile({"a": 0}, 0, 3)).high == 1


def test_rows_needed_find_what_they_promise() -> None:
    rng = np.random.default_rng(4)
    for levels in (2, 10, 40):
        n = rows_needed(0.2, 4_000, 0.005, df=levels - 1)
        assert n is not None
        p = np.ones(levels) / levels
        q = p + np.where(np.arange(levels) < levels // 2, 0.2 / (levels // 2), -0.2 / (levels - levels // 2))
        names = np.array([f"l{i}" for i in range(levels)], object)
        r = count_levels(rng.choice(names, 4_000, p=p))
        seen = [compare_levels(r, count_levels(rng.choice(names, n, p=q), r)).p_value <= 0.005 for _ in range(150)]
        assert np.mean(seen) > 0.8 - 3 * 0.033
    assert rows_needed(0.01, 1_000, 0.05) is None


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.data())
def test_holm_is_monotone_and_at_least_the_raw_value(p: list[float], data: st.DataObject) -> None:
    w = data.draw(st.lists(st.floats(0.01, 1), min_size=len(p), max_size=len(p)))
    adjusted = holm(p, w)
    assert all(a >= raw - 1e-12 for a, raw in zip(adjusted, p, strict=True))
    order = np.argsort(np.array(p) / np.array(w), kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_shares_and_draws() -> None:
    w = shares({"values": 3, "nulls": 2}, {"values": 0.97, "nulls": 0.03})
    assert 3 * w["values"] + 2 * w["nulls"] == pytest.approx(1)
    assert draws_needed(0.05, 100) == 40_000
    assert kolmogorov_tail(0.1) == 1
