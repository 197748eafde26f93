from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.value.roi import (
    KEEP_TAIL,
    LEVEL,
    RETIRE_TAIL,
    Amounts,
    break_even,
    fieller,
    judge,
    monthly,
    rate_facts,
    rates,
    review_rates,
    roi_facts,
    simulate_rates,
    tornado,
    value_of_waiting,
)

money = st.floats(1.0, 1e6, allow_nan=False)


@given(st.lists(st.floats(-1e5, 1e6), min_size=2, max_size=12), money)
def test_the_ratio_and_the_net_value_never_disagree(values: list[float], cost: float) -> None:
    roi = judge(monthly(values, [cost] * len(values)))
    assert roi.low is not None
    assert roi.high is not None
    assert roi.net_low is not None
    assert roi.net_high is not None
    assert (roi.low > 1) == (roi.net_low > 0) or math.isclose(roi.low, 1, rel_tol=1e-6)
    assert (roi.high < 1) == (roi.net_high < 0) or math.isclose(roi.high, 1, rel_tol=1e-6)


@given(st.lists(money, min_size=2, max_size=12), money, st.floats(0.5, 20))
def test_a_currency_is_only_a_unit(values: list[float], cost: float, rate: float) -> None:
    one = judge(monthly(values, [cost] * len(values)))
    other = judge(monthly([v * rate for v in values], [cost * rate] * len(values)))
    assert other.ratio == pytest.approx(one.ratio)
    assert other.net == pytest.approx(one.net * rate, abs=1e-6 * rate * (abs(cost) + max(values)))


def test_fieller_covers_the_ratio_when_both_parts_are_noisy() -> None:
    rng = np.random.default_rng(0)
    below = above = 0
    for _ in range(2000):
        low, high = fieller(monthly(rng.normal(1.5, 0.5, 6).tolist(), rng.normal(1.0, 0.2, 6).tolist()))
        assert low is not None
        assert high is not None
        below, above = below + (low > 1.5), above + (high < 1.5)
    assert abs(below / 2000 - KEEP_TAIL) < 0.015
    assert abs(above / 2000 - RETIRE_TAIL) < 0.015


@pytest.mark.parametrize("seed", [1, 2])
def test_the_bars_of_a_review(seed: int) -> None:
    assert simulate_rates(1.2, 0.30, reviews=1500, seed=seed)["decommission"] <= 0.05
    assert simulate_rates(0.6, 0.30, reviews=500, seed=seed)["keep"] <= 0.05
    assert simulate_rates(0.5, 0.30, reviews=500, seed=seed)["decommission"] >= 0.70
    assert simulate_rates(2.0, 0.30, reviews=1500, seed=seed)["keep"] >= 0.37  # 41 % less three standard errors
    even = simulate_rates(1.0, 0.30, reviews=1500, seed=seed)
    assert max(even["keep"], even["decommission"]) <= 0.065


def test_known_errors_decide_more_often_than_scatter() -> None:
    scatter, known = ({r.true: r for r in rates(0.15, known_error=k)} for k in (False, True))
    assert known[2.0].keep > 0.94 > scatter[2.0].keep > 0.85
    assert {r.true: r for r in rates(0.20)}[0.5].decommission > 0.90


def test_given_errors_replace_the_scatter() -> None:
    amounts = monthly([1000.0] * 6, [500.0] * 6, errors=[60.0] * 6)
    assert amounts.var_value == pytest.approx(600.0)
    assert math.isinf(amounts.df)
    assert judge(amounts).decision == "keep"


def test_an_error_common_to_all_months_does_not_shrink_with_their_number() -> None:
    wide = [judge(monthly([1000.0] * n, [900.0] * n, [1.0] * n, shared_error=0.3)) for n in (6, 60)]
    assert wide[0].relative_error == pytest.approx(wide[1].relative_error, rel=0.01)


def test_one_month_is_never_a_reason() -> None:
    one = judge(monthly([10.0], [1000.0]))
    assert (one.decision, one.low, one.net_low) == ("extend", None, None)
    assert value_of_waiting(one).months_to_decide is None
    assert rate_facts(one) == ()


def test_a_cost_that_may_be_zero_leaves_the_ratio_open() -> None:
    roi = judge(Amounts(100.0, 1.0, var_value=4.0, var_cost=9.0, months=6))
    assert (roi.low, roi.high) == (None, None)
    assert roi.decision == "keep"
    assert {f.id: f for f in roi_facts(roi)}["roi.ratio"].low is None


@pytest.mark.parametrize(
    ("values", "costs", "told"), [([], [], "no month"), ([1.0], [1.0, 2.0], "1 months of value but 2")]
)
def test_months_must_match(values: list[float], costs: list[float], told: str) -> None:
    with pytest.raises(InputError, match=told):
        monthly(values, costs)


def test_eight_reviews_are_worse_than_one_and_far_better_than_the_point() -> None:
    one = {r.true: r for r in rates(0.3, true=(1.2,))}[1.2]
    eight = review_rates(0.3, true=(1.2,))[0]
    assert one.decommission < eight.decommission < 0.12
    assert eight.point_below > 0.7


def test_waiting_is_worth_most_where_the_answer_may_change() -> None:
    sure, unsure = (
        judge(monthly([c + d for d in (-300, 200, 100, -100, 300, -200)], [1000.0] * 6)) for c in (4000, 1050)
    )
    assert value_of_waiting(unsure).gain > value_of_waiting(sure).gain
    losing = value_of_waiting(judge(monthly([700.0, 800, 900, 600, 750, 850], [1000.0] * 6)))
    assert losing.price > 0
    assert losing.months_to_decide is not None


def test_every_sentence_exists_in_both_languages() -> None:
    roi = judge(monthly([1500.0, 900, 1300, 1100, 1700, 700], [1000.0] * 6))
    keys = {f.key for f in (*roi_facts(roi), *rate_facts(roi))} | {
        f"roi.decision.{d}" for d in ("keep", "optimise", "extend")
    }
    keys |= {"roi.decision.decommission", "roi.reason.above", "roi.reason.below", "roi.reason.below_early"}
    keys |= {"roi.reason.holds_below", "roi.reason.holds_above", "roi.reason.unknown_error"}
    for lang in LANGUAGES:
        assert keys <= set(catalogue(lang))
    assert pytest.approx(0.912) == LEVEL


def test_tornado_and_break_even() -> None:
    def net(a: float, b: float) -> float:
        return 3 * a - b

    swings = tornado(net, {"a": 1.0, "b": 2.0}, {"a": (0.5, 1.5), "b": (1.9, 2.1)})
    assert [s.name for s in swings] == ["a", "b"]
    assert break_even(net, {"a": 1.0, "b": 2.0}, "b", (0.0, 10.0)) == pytest.approx(3.0)
