"The stated shortfall is the one that would have been seen, and says nothing where it cannot."

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from mlops_nb.core.facts import Fact
from mlops_nb.poc.metrics import METRICS
from mlops_nb.poc.shortfall import shortfall, shortfall_message
from mlops_nb.poc.shortfall_sims import TOPICS
from mlops_nb.stats.claims import run_topics
from mlops_nb.stats.intervals import guarded_proportion, to_fact

SEEN = to_fact(guarded_proportion(850, 1000), "performance.accuracy", threshold=0.8)


def test_a_share_of_mistakes_is_treated_as_the_share_of_hits() -> None:
    wrong = to_fact(guarded_proportion(150, 1000), "performance.false_positive_rate", threshold=0.2)
    hits, mistakes = shortfall(SEEN, METRICS["accuracy"]), shortfall(wrong, METRICS["false_positive_rate"])
    assert hits == pytest.approx(mistakes, rel=1e-6)


def test_more_power_takes_a_larger_shortfall() -> None:
    found = [shortfall(SEEN, METRICS["accuracy"], power) for power in (0.5, 0.8, 0.9, 0.99)]
    assert found == sorted(found, key=lambda f: f or 0.0)
    assert found[0] is not None
    assert 0.02 < found[0] < 0.03  # at even odds, the distance at which the upper bound meets the threshold


@pytest.mark.parametrize("gone", ["value", "low", "high", "threshold", "level"])
def test_without_an_interval_or_a_promise_nothing_is_stated(gone: str) -> None:
    assert shortfall(replace(SEEN, **{gone: None}), METRICS["accuracy"]) is None
    assert shortfall_message(replace(SEEN, **{gone: None}), METRICS["accuracy"]) is None


def test_a_handful_of_rows_would_show_no_shortfall_at_all() -> None:
    few = to_fact(guarded_proportion(3, 3), "performance.accuracy", threshold=0.3)
    assert shortfall(few, METRICS["accuracy"]) is None
    assert shortfall(Fact("p", -1.0, low=-2.0, high=0.5, level=0.9, threshold=0.2), METRICS["rmse"]) is None


def test_it_is_said_in_both_languages() -> None:
    found = shortfall_message(SEEN, METRICS["accuracy"])
    assert found is not None
    assert "3.8 points" in found[1].text("en") or "points below the promised 0.800" in found[1].text("en")
    assert "gate." not in found[1].text("fr")


@pytest.mark.slow
def test_the_claim_holds_for_another_seed(tmp_path: Path) -> None:
    claims = run_topics(TOPICS, tmp_path / "shortfall.json", seed=91, scale=0.08)
    assert [c for c in claims if not c.holds] == []
