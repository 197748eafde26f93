from __future__ import annotations

import math

import numpy as np
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.value.experiments import Arm, arm, compare
from mlops_nb.value.sequential import (
    Arrivals,
    Look,
    boundaries,
    looks,
    open_ended,
    planned_end,
    sequence_factor,
    sequential_ratio,
    simulate_looking,
    spent,
)


def test_the_spending_function_spends_all_of_alpha() -> None:
    assert spent(1.0) == pytest.approx(0.05)
    assert spent(0.1) < 1e-9
    assert spent(2.0) == spent(1.0)


def test_boundaries_keep_the_error_for_uneven_looks() -> None:
    fractions = (0.05, 0.3, 0.31, 0.7, 0.95, 1.0)
    critical = np.array(boundaries(fractions))
    rng = np.random.default_rng(0)
    steps = np.sqrt(np.diff((0.0, *fractions)))
    z = (rng.standard_normal((200_000, 6)) * steps).cumsum(axis=1) / np.sqrt(fractions)
    assert (np.abs(z) > critical).any(axis=1).mean() == pytest.approx(0.05, abs=0.0015)


def test_daily_looks_keep_the_error_and_the_power() -> None:
    false = simulate_looking(runs=700, daily=20, seed=21)
    assert false["planned-end"] <= 0.07
    assert false["open-ended"] <= 0.05
    power = simulate_looking(effect=0.093, runs=300, daily=20, seed=22)  # about 80 % for one look
    assert power["planned-end"] >= power["one look, no covariate"]


def test_skewed_metrics_keep_the_error() -> None:
    false = simulate_looking(runs=400, daily=40, zeros=0.9, seed=23)
    assert false["planned-end"] <= 0.08
    assert false["open-ended"] <= 0.05


def test_looks_of_a_ratio_agree_with_compare() -> None:
    rng = np.random.default_rng(1)
    sides = []
    for rate in (0.2, 0.3):
        visits = 1 + rng.poisson(2, 900)
        sides.append(Arrivals(arm(rng.binomial(visits, rate), denominators=visits), np.repeat(np.arange(1, 10), 100)))
    last, once = looks(*sides)[-1], compare(sides[0].arm, sides[1].arm)
    assert last.difference == pytest.approx(once.difference)
    assert last.error == pytest.approx(once.error, rel=1e-3)
    assert last.df == pytest.approx(once.df, rel=1e-2)


def test_a_covariate_of_one_arm_alone_adjusts_nothing() -> None:
    rng = np.random.default_rng(5)
    x, y, other = (rng.normal(50, 10, 200) for _ in range(3))
    day = np.repeat([1, 2], 100)
    bare = looks(Arrivals(Arm(x + y), day), Arrivals(Arm(other), day))
    assert looks(Arrivals(arm(x + y, covariates=x), day), Arrivals(Arm(other), day)) == bare
    unknown = Arrivals(arm(other, covariates=np.full(200, np.nan)), day)
    assert looks(Arrivals(arm(x + y, covariates=x), day), unknown) == bare


def test_days_without_enough_units_are_not_read() -> None:
    rng = np.random.default_rng(2)
    day = np.r_[1, 1, np.repeat(3, 50)]
    side = Arrivals(Arm(rng.standard_normal(52)), day)
    assert [k.day for k in looks(side, side)] == [3]
    with pytest.raises(InputError, match="no day with enough units"):
        planned_end([], 100)
    with pytest.raises(InputError, match="days count from 1"):
        looks(Arrivals(side.arm, day - 1), side)


def test_looks_past_the_plan_are_not_read() -> None:
    seen = [Look(1, 500, 0.0, 0.1, 400), Look(2, 1000, 0.0, 0.1, 900), Look(3, 1500, 9.0, 0.1, 900)]
    verdict = planned_end(seen, 1000)
    assert (verdict.winner, verdict.day, verdict.ended) == ("", 2, True)


def test_an_early_end_spends_what_is_left() -> None:
    seen = [Look(1, 500, 0.21, 0.1, 1e6)]
    assert planned_end(seen, 1000).winner == ""
    assert planned_end(seen, 1000, last=True).winner == "treatment"
    lost = planned_end([Look(1, 1000, -0.5, 0.1, 1e6)], 1000)
    assert lost.winner == "control"
    assert lost.high < 0


def test_the_confidence_sequence_pays_with_width() -> None:
    assert all(sequence_factor(n, 5000) > 2.5 for n in (100, 1000, 5000, 50_000, 10**6))
    assert sequence_factor(5000, 5000) < sequence_factor(5000, 500)
    assert math.isfinite(open_ended([Look(1, 400, 0.0, 0.1, 300)]).low)


def test_sample_ratio_at_every_look() -> None:
    rng = np.random.default_rng(3)
    counts = rng.multinomial(200, [1 / 3] * 3, size=(800, 90)).cumsum(axis=1)
    assert sum(sequential_ratio(c.tolist(), [1, 1, 1])[-1] < 0.05 for c in counts) / 800 <= 0.05
    p = sequential_ratio([[10, 10], [5000, 5600], [10_000, 10_100]], [0.5, 0.5])
    assert p[1] < 0.001
    assert p[2] == p[1]  # what was seen stays seen
    with pytest.raises(InputError, match="2 arms but 3"):
        sequential_ratio([[1, 2]], [1, 1, 1])
    with pytest.raises(InputError, match="arm 2 has no units"):
        sequential_ratio([[1, 0]], [1, 1])
