from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlops_nb.core.errors import InputError
from mlops_nb.stats.intervals import (
    LEVEL,
    Interval,
    bootstrap,
    difference,
    exact,
    f1,
    guarded_proportion,
    logit_bootstrap,
    mean,
    proportion,
    quantile,
    spread,
    to_fact,
)

SHARES = np.linspace(0.70, 0.999, 300)


def passes(n: int, threshold: float, true: float) -> float:
    "Exact chance that n rows of a model truly at `true` show that it is above `threshold`."
    low = np.array([guarded_proportion(k, n).low for k in range(n + 1)])
    return float(stats.binom.pmf(np.arange(n + 1), n, true)[low >= threshold].sum())


@pytest.mark.parametrize("n", [10, 11, 12, 15, 21, 27, 30, 52, 59, 85, 120])
def test_a_share_at_its_threshold_passes_in_at_most_5_percent_at_every_n(n: int) -> None:
    assert max(passes(n, t, t) for t in np.linspace(0.5, 0.99, 60)) <= 0.05 + 1e-9


@pytest.mark.parametrize("level", [0.90, 0.95])
@pytest.mark.parametrize("n", [10, 11, 13, 17, 20, 30, 50, 85, 200])
def test_wilson_covers_what_it_states_on_average(n: int, level: float) -> None:
    bounds = [proportion(k, n, level) for k in range(n + 1)]
    held = np.array([[b.low <= s <= b.high for b in bounds] for s in SHARES])
    covered = (stats.binom.pmf(np.arange(n + 1), n, SHARES[:, None]) * held).sum(axis=1).mean()
    assert abs(covered - level) < 0.02


@pytest.mark.parametrize(("n", "seed"), [(10, 0), (14, 1), (40, 2), (150, 3)])
def test_f1_covers_what_it_states_on_average(n: int, seed: int) -> None:
    rng, held = np.random.default_rng(seed), []
    for star in rng.uniform(0.54, 1, 4000):  # F1 from 0.7 to 1
        hits = int(rng.binomial(n, star))
        found = f1(hits, n - hits, 0, 0.95)
        held.append(found.low <= 2 * star / (1 + star) <= found.high)
    assert abs(np.mean(held) - 0.95) < 0.02


@given(
    st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), st.sampled_from([0.8, 0.9, 0.98])
)
@settings(deadline=None)
def test_bounds_stand_around_the_value_and_inside_0_and_1(counts: tuple[int, int], level: float) -> None:
    for found in (proportion(*counts, level), guarded_proportion(*counts, level)):
        assert 0 <= found.low <= found.value <= found.high <= 1
    assert guarded_proportion(*counts, level).low <= proportion(*counts, level).low


@pytest.mark.parametrize("q", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("n", [20, 59, 299, 300, 600])
def test_quantile_bounds_are_wrong_in_at_most_5_percent_on_either_side(q: float, n: int) -> None:
    found = quantile(np.arange(n), q)  # the value at a bound is its position
    if math.isfinite(found.low):
        assert stats.binom.cdf(found.low, n, q) <= 0.05 + 1e-9
    if math.isfinite(found.high):
        assert stats.binom.sf(found.high, n, q) <= 0.05 + 1e-9
    assert math.isfinite(found.high) == (q**n <= 0.05)


def test_three_runs_bound_a_spread_as_stated() -> None:
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    found = [spread(d) for d in draws]
    assert abs(np.mean([f.high < 1 for f in found]) - 0.05) < 0.012
    assert abs(np.mean([f.low > 1 for f in found]) - 0.05) < 0.012
    assert spread([0.8, 0.8, 0.8]).high < 1e-12


def test_a_mean_covers_and_a_single_value_bounds_nothing() -> None:
    draws = np.random.default_rng(1).normal(3, 2, size=(3000, 8))
    assert abs(np.mean([(m := mean(d)).low <= 3 <= m.high for d in draws]) - LEVEL) < 0.02
    assert mean([5.0]).side(1.0) == "straddles"


def test_a_difference_is_the_mirror_of_its_opposite() -> None:
    a, b = proportion(40, 50), proportion(60, 100)
    one, other = difference(a, b), difference(b, a)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


def test_a_bootstrap_without_values_bounds_nothing() -> None:
    nothing = bootstrap(lambda rows: math.nan if len(set(rows)) < 30 else 1.0, 30)
    assert (nothing.low, nothing.high) == (-math.inf, math.inf)
    sure = logit_bootstrap(lambda rows: 1.0, 30)
    assert sure.low <= 1 <= sure.high


def test_a_bound_on_the_threshold_meets_it() -> None:
    assert exact(0.95).side(0.95) == "met"
    assert exact(200.0).side(200.0, higher_is_better=False) == "met"
    assert Interval(1, 0, 2).side(5) == "missed"


def test_an_infinite_bound_is_absent_from_the_fact() -> None:
    fact = to_fact(quantile([1.0, 2.0], 0.99), "latency.p99", "ms", 200.0, "not-assessed")
    assert (fact.value, fact.low, fact.high, fact.n) == (2.0, 2.0, None, 2)


@pytest.mark.parametrize(
    "call",
    [
        lambda: proportion(1, 0),
        lambda: proportion(3, 2),
        lambda: mean([1.0, math.nan]),
        lambda: spread([1.0]),
        lambda: mean(np.ones((2, 2))),
    ],
)
def test_bad_input_is_one_clear_error(call) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError):
        call()
