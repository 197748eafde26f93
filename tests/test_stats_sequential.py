"Hourly looks: the level of a year, tails far out, and streams that are no stream."

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.core.errors import InputError
from mlops_nb.stats.calendar import CALENDAR, WEEK_H, learn_rhythm, rhythmic, rolling, watch_calendar, window_t
from mlops_nb.stats.sequential import (
    SPANS_H,
    Plan,
    Watched,
    level_scores,
    permutation_tail,
    rank_scores,
    running_sums,
    watch,
    window_p_value,
    window_z,
)
from mlops_nb.stats.two_sample import fisher_p_value


@given(
    alpha=st.floats(0.001, 0.5),
    horizon=st.integers(1, 20_000),
    spans=st.sets(st.integers(1, 2_000), min_size=1, max_size=8),
    tests=st.integers(1, 500),
)
def test_a_year_never_spends_more_than_its_level(alpha: float, horizon: int, spans: set[int], tests: int) -> None:
    plan = Plan(alpha, horizon, tuple(sorted(spans)))
    spent = sum(plan.level(s, tests) * tests * len(plan.ends(s, horizon)) for s in spans)
    assert spent <= alpha * (1 + 1e-9)


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(200, 20_000),
    m=st.integers(50, 2_000),
    share=st.floats(0.001, 0.4),
    factor=st.floats(0.5, 4.0),
)
def test_far_tails_agree_with_the_exact_law_of_two_levels(n: int, m: int, share: float, factor: float) -> None:
    a, b = round(n * share), round(m * min(share * factor, 0.9))
    table = np.array([n - a, a]), np.array([m - b, b])
    exact, found = fisher_p_value(b, m, a, n), permutation_tail(*table, np.array([0.0, 1.0]))
    if 1e-290 < exact < 0.01 and 3 <= b <= m - 3:
        # within a factor of three near the level, and within 2 % of the exponent where a factor decides nothing any more
        assert abs(np.log(found / exact)) < max(np.log(3), 0.02 * abs(np.log(exact)))


def test_a_skewed_score_is_not_judged_by_the_normal_limit() -> None:
    rare = Watched("x", np.array([49_950, 50]), level_scores(2), ("basic",), indicators=1)
    window = np.array([97, 3])
    z, _ = window_z(rare, running_sums(rare, window[None, :]), 1, np.array([1]))
    normal = float(np.exp(-(z[0, 0] ** 2) / 2))
    assert abs(z[0, 0]) > 7
    assert window_p_value(rare, window, 0) > 1e6 * normal


def test_scores_of_a_column_with_ties_are_orthonormal_under_its_reference() -> None:
    counts = np.array([700, 200, 60, 0, 30, 10])
    scores, share = rank_scores(counts), counts / counts.sum()
    assert np.allclose(share @ scores, 0)
    assert np.allclose((scores * share[:, None]).T @ scores, np.eye(scores.shape[1]))
    assert rank_scores(np.array([100])).shape == (1, 0)


def test_a_stream_in_one_piece_and_hour_by_hour_raise_the_same_alarm() -> None:
    rng = np.random.default_rng(0)
    reference = rng.multinomial(20_000, np.full(8, 1 / 8))
    column = Watched("x", reference, rank_scores(reference), ("location", "spread", "skewness", "tails"))
    hours = rng.multinomial(500, np.full(8, 1 / 8), size=120)
    hours[60:] = rng.multinomial(500, np.linspace(0.8, 1.2, 8) / 8, size=60)
    whole = watch([column], [hours])
    assert whole
    at = whole[0].hour
    assert watch([column], [hours[: at - 1]]) == ()
    assert watch([column], [hours[:at]]) == whole
    assert 60 < at < 80


def test_the_calendar_does_not_call_a_rhythm_a_change_and_rows_would() -> None:
    rng = np.random.default_rng(2)
    weeks = 8 * WEEK_H
    stream = rhythmic(rng, weeks + 6 * WEEK_H, 20)
    rows = np.full(len(stream), 1_000)
    names = [(f"c{k}", "location") for k in range(20)]
    rhythm = learn_rhythm(stream[:weeks], rows[:weeks])
    assert watch_calendar(names, rhythm, stream[weeks:], rows[weeks:]) == ()
    shifted = watch_calendar(names, rhythm, stream[weeks:], rows[weeks:], start=12)
    assert shifted, "a stream laid half a day beside its rhythm must alarm: else the rhythm is not looked at"


def test_fewer_rows_than_the_reference_widen_a_window() -> None:
    rng = np.random.default_rng(3)
    weeks = 8 * WEEK_H
    stream = rhythmic(rng, weeks, 1, effect=0.01)
    rhythm = learn_rhythm(stream, np.full(weeks, 1_000))
    few = np.zeros((24, 1)) + 0.3
    many_t, _, _ = window_t(rhythm, few, np.full(24, 1_000), 1)
    few_t, _, _ = window_t(rhythm, few, np.full(24, 10), 1)
    assert (np.abs(few_t) < np.abs(many_t) / 3).all()
    assert set(CALENDAR.spans_h) - set(SPANS_H) == {24, WEEK_H, 2 * WEEK_H, 4 * WEEK_H}


def test_hours_that_are_missing_are_not_judged() -> None:
    rng = np.random.default_rng(4)
    weeks = 8 * WEEK_H
    stream = rhythmic(rng, weeks + WEEK_H, 1)
    rows = np.full(len(stream), 1_000)
    rhythm = learn_rhythm(stream[:weeks], rows[:weeks])
    gone = stream[weeks:].copy()
    gone[20:60] = np.nan
    left = np.where(np.isnan(gone[:, 0]), 0, 1_000)
    assert watch_calendar([("c", "location")], rhythm, gone, left) == ()
    with pytest.raises(InputError, match="weeks of hourly reference"):
        learn_rhythm(stream[:100], rows[:100])
    assert np.isnan(rolling(stream[:5], 3)[:2]).all()
