from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from mlops_nb.core.errors import InputError
from mlops_nb.value.experiments import (
    Arm,
    adjust,
    arm,
    compare,
    draw_revenue,
    effect_table,
    guard_rail,
    holm,
    simulate_coverage,
)
from mlops_nb.value.planning import SRM_ALPHA, Plan, days_needed, sample_ratio, units_needed


def normal(rng: np.random.Generator, n: int, mean: float = 0.0, correlation: float = 0.0) -> Arm:
    x = rng.standard_normal(n)
    y = mean + correlation * x + math.sqrt(1 - correlation**2) * rng.standard_normal(n)
    return arm(y, covariates=x)


def test_without_covariate_it_is_welch() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, 300), rng.normal(0.2, 3, 80)
    found, peer = compare(arm(a), arm(b)), stats.ttest_ind(b, a, equal_var=False)
    assert found.p_value == pytest.approx(peer.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(peer.confidence_interval(0.95)))


@pytest.mark.parametrize("how", ["cuped", "regression"])
def test_adjustment_shortens_the_interval_and_still_covers(how: str) -> None:
    rng, held, widths = np.random.default_rng(1), 0, []
    for _ in range(800):
        c, t = normal(rng, 200, 0.0, 0.6), normal(rng, 200, 0.3, 0.6)
        found = compare(c, t, how=how)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.3 <= found.high
        widths.append(found.error / compare(c, t, how="none").error)
    assert 0.93 <= held / 800 <= 0.97
    assert np.mean(widths) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("how", ["cuped", "regression"])
def test_covariates_that_say_nothing_win_nothing(how: str) -> None:
    wins = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        sides = [arm(rng.standard_normal(10), covariates=rng.standard_normal((10, 6))) for _ in range(2)]
        wins += bool(compare(*sides, how=how).winner)
    assert wins / 300 <= 0.08  # 18 and 17 % with slopes taken for known


def test_more_slopes_than_units_adjust_nothing() -> None:
    rng = np.random.default_rng(0)
    bare = [rng.standard_normal(5) for _ in range(2)]
    sides = [arm(y, covariates=rng.standard_normal((5, 9))) for y in bare]
    assert compare(*sides, how="regression").error == compare(*map(arm, bare)).error


def test_p_value_and_interval_of_proportions_agree() -> None:
    tables = [(a, b, n, m) for n, m in ((2, 2), (8, 8), (5, 40)) for a in range(n + 1) for b in range(m + 1)]
    for a, b, n, m in tables:
        found = compare(arm(np.repeat([1.0, 0.0], [a, n - a])), arm(np.repeat([1.0, 0.0], [b, m - b])))
        assert found.p_value is not None
        assert found.p_value > 0
        assert bool(found.winner) == (found.p_value < 0.05), (a, b, n, m)


def test_arms_without_any_spread_say_nothing() -> None:
    found = compare(arm([5.0, 5.0]), arm([7.0, 7.0]))
    assert (found.state, found.low, found.p_value, found.winner) == ("too-few", None, None, "")
    assert found.reason is not None
    assert found.reason.key == "experiment.no_spread"
    assert guard_rail(found, 1.0) == "inconclusive"
    assert compare(arm([1.0, 1.0]), arm([0.0, 0.0])).relative_low is None


def test_ratio_metrics_cover_when_the_denominators_vary() -> None:
    rng, held = np.random.default_rng(2), 0
    for _ in range(800):
        sides = []
        for rate in (0.10, 0.13):
            visits = 1 + rng.poisson(3, 400)
            taste = rng.beta(2, 2 / rate - 2, 400)  # units differ: visits of one unit are not independent
            sides.append(arm(rng.binomial(visits, taste), denominators=visits))
        found = compare(*sides, metric="orders per visit")
        assert found.kind == "ratio"
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.03 <= found.high
    assert 0.93 <= held / 800 <= 0.97


def test_an_unknown_covariate_loses_no_unit() -> None:
    rng = np.random.default_rng(3)
    c, t = normal(rng, 500, 0.0, 0.8), normal(rng, 500, 0.0, 0.8)
    assert c.covariates is not None
    holes = c.covariates.copy()
    holes[::5] = np.nan
    found = compare(replace(c, covariates=holes), t)
    assert found.n_control == 500
    assert 0.36 < found.kept < 0.7
    assert adjust(arm(c.values, covariates=np.zeros(500)), arm(t.values, covariates=np.zeros(500))).kept == 1.0


@pytest.mark.parametrize("sigma", [0.5, 2.0])
def test_revenue_differences_cover_from_100_payers(sigma: float) -> None:
    assert 0.93 <= simulate_coverage((115, 115), sigma, runs=1500, seed=4) <= 0.975


def test_revenue_with_unequal_arms_covers_with_a_cap() -> None:
    assert 0.93 <= simulate_coverage((700, 290), 2.0, cap=15.0, runs=700, seed=5) <= 0.97


@pytest.mark.slow
def test_the_relative_lift_covers_from_2500_payers() -> None:
    assert 0.93 <= simulate_coverage((2650, 2650), 2.0, relative=True, runs=800, seed=6) <= 0.975


def test_too_few_payers_is_an_answer() -> None:
    rng = np.random.default_rng(7)
    few, many = arm(draw_revenue(rng, 60, 1.0)), arm(draw_revenue(rng, 600, 1.0))
    assert compare(few, few).state == "too-few"
    unequal = compare(many, few)
    assert unequal.reason is not None
    assert unequal.reason.key == "experiment.needs_cap"
    assert (unequal.low, unequal.p_value, unequal.winner) == (None, None, "")
    enough = compare(many, arm(draw_revenue(rng, 600, 1.0)))
    assert enough.low is not None
    assert enough.relative_low is None  # 600 payers do not carry a relative lift
    assert guard_rail(unequal, 1.0) == "inconclusive"
    assert "too few payers" in effect_table((compare(few, few),)).html()


def test_a_control_without_mean_has_no_relative_lift() -> None:
    found = compare(arm([0.0, 0.0, -1.0, 1.0]), arm([1.0, 2.0, 3.0, 5.0]))
    assert found.relative is None
    assert found.relative_low is None


def test_guard_rails() -> None:
    rng = np.random.default_rng(8)
    worse = compare(normal(rng, 5000), normal(rng, 5000, -0.5))
    assert guard_rail(worse, margin=0.1) == "harmed"
    assert guard_rail(worse, margin=0.1, higher_is_better=False) == "safe"
    assert guard_rail(worse, margin=0.5) == "inconclusive"


def test_holm_is_never_below_the_raw_value() -> None:
    rng = np.random.default_rng(9)
    effects = [compare(normal(rng, 50), normal(rng, 50), metric=f"m{i}") for i in range(8)]
    corrected = holm(effects)
    assert all(corrected[e.metric] >= (e.p_value or 0) for e in effects)
    assert holm([replace(effects[0], p_value=None)]) == {}


def test_sample_ratio() -> None:
    rng = np.random.default_rng(10)
    false = sum(
        sample_ratio({"c": k, "t": 1000 - k}, {"c": 9, "t": 1}) < 0.05 for k in rng.binomial(1000, 0.9, 1000).tolist()
    )
    assert 0.03 < false / 1000 < 0.07
    assert SRM_ALPHA == 0.001
    with pytest.raises(InputError, match="only one arm"):
        sample_ratio({"c": 10})
    with pytest.raises(InputError, match="planned shares of c, units of c, t"):
        sample_ratio({"c": 10, "t": 10}, {"c": 0.5})


def test_the_plan_delivers_its_power() -> None:
    plan = Plan("margin", effect=0.25, sd=1.0, daily_units=50, correlation=0.6, window_days=7)
    rng, n = np.random.default_rng(11), units_needed(plan) // 2
    wins = sum(compare(normal(rng, n, 0, 0.6), normal(rng, n, 0.25, 0.6)).winner == "treatment" for _ in range(600))
    assert 0.76 <= wins / 600 <= 0.87
    assert days_needed(plan) == math.ceil(units_needed(plan) / 50) + 7
    assert units_needed(replace(plan, design="open-ended")) > units_needed(plan)
    with pytest.raises(InputError, match="effect and sd"):
        units_needed(replace(plan, effect=0.0))
    with pytest.raises(InputError, match="no units a day"):
        days_needed(replace(plan, daily_units=0))


def test_denominators_must_fit() -> None:
    with pytest.raises(InputError, match="denominators must be finite"):
        arm([1.0, 2.0], denominators=[0.0, 0.0])
