from __future__ import annotations

import numpy as np
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.value.prepost import METHODS, before_after, draw_series, prepost_table, simulate_placebo


@pytest.mark.parametrize(("rho", "drift"), [(0.0, 0.0), (0.8, 0.0), (0.95, 0.0), (0.5, 0.1)])
def test_nothing_is_found_where_nothing_is(rho: float, drift: float) -> None:
    assert simulate_placebo(rho, drift, after=14, before=168, runs=70, seed=31) <= 0.15  # 10 %, known to 4 points


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "drift"), [(0.0, 0.0), (0.5, 0.0), (0.8, 0.0), (0.95, 0.0), (0.3, 0.03), (0.5, 0.1)])
@pytest.mark.parametrize(("after", "before"), [(28, 336), (14, 168), (28, 730)])
def test_the_rate_at_full_size(rho: float, drift: float, after: int, before: int) -> None:
    assert simulate_placebo(rho, drift, after, before, annual=1.5, runs=200, seed=32) <= 0.10


def test_an_effect_is_found_and_its_size_told() -> None:
    rng, found = np.random.default_rng(33), []
    for _ in range(40):
        y = draw_series(rng, 350, 0.4, annual=0.5)
        y[336:] += 2.5
        found.append(before_after(y, 14))
    assert sum(f.changed for f in found) >= 30
    assert np.mean([f.effect for f in found if f.effect is not None]) == pytest.approx(2.5, abs=0.35)
    held = [f.low is not None and f.high is not None and f.low <= 2.5 <= f.high for f in found]
    assert np.mean(held) >= 0.85


def test_the_scale_does_not_matter() -> None:
    y = draw_series(np.random.default_rng(34), 182, 0.5)
    one, other = before_after(y, 14), before_after(1000 * y + 5000, 14)
    assert one.effect is not None
    assert other.effect == pytest.approx(1000 * one.effect, rel=1e-3)
    assert other.changed == one.changed


def test_weeks_have_no_short_cycle() -> None:
    y = draw_series(np.random.default_rng(35), 117, 0.3, annual=0.0, weekly=0.0)
    result = before_after(y, 6, cycle=0)
    assert result.state == "assessed"
    assert result.total == pytest.approx(6 * (result.effect or 0))


@pytest.mark.parametrize("method", METHODS[1:])
def test_controls_take_out_what_they_share(method: str) -> None:
    rng = np.random.default_rng(36)
    shared = draw_series(rng, 182, 0.9, 0.3)
    controls = shared[:, None] + 0.2 * rng.standard_normal((182, 3))
    mine = shared + 0.2 * rng.standard_normal(182)
    mine[168:] += 0.6
    result = before_after(mine, 14, controls, method)
    assert result.changed
    assert result.effect == pytest.approx(0.6, abs=0.25)


def test_too_short_a_past_is_said() -> None:
    result = before_after(np.arange(100.0), 14)
    assert (result.state, result.changed, result.placebos) == ("not-assessable", False, ())
    assert "168" in result.reason.text()
    assert "non évaluable" in prepost_table(result, "fr").html()


@pytest.mark.parametrize(
    ("series", "after", "method", "told"),
    [
        ([1.0] * 10, 0, "trend", "0 steps after"),
        ([1.0] * 10, 1, "magic", "method 'magic'"),
        ([1.0] * 10, 1, "difference", "needs control"),
    ],
)
def test_what_cannot_be_read(series: list[float], after: int, method: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        before_after(series, after, method=method)


def test_a_flat_series_has_no_effect() -> None:
    assert not before_after(np.full(182, 3.0), 14).changed
