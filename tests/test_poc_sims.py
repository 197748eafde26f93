from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlops_nb.poc.beside_sims import TOPICS as BESIDE
from mlops_nb.poc.beside_sims import crowd, rankers
from mlops_nb.poc.metrics import METRICS
from mlops_nb.poc.sims import CASES, TOPICS, fairness_states, mean_coverage, ranked, right
from mlops_nb.stats.claims import run_topics


def test_drawn_models_are_as_good_as_they_say() -> None:
    rng = np.random.default_rng(4)
    assert METRICS["roc_auc"].value(ranked(0.9, 5_000, 20_000, rng)) == pytest.approx(0.9, abs=0.01)
    assert METRICS["ece"].value(ranked(0.8, 20_000, 20_000, rng)) < 0.02
    assert METRICS["accuracy"].value(right(0.4, 20_000, rng)) == pytest.approx(0.4, abs=0.02)


def test_drawn_models_on_the_same_rows_are_as_good_as_they_say_and_agree() -> None:
    rng = np.random.default_rng(5)
    a, b = crowd((0.8, 0.82), 40_000, rng)
    assert METRICS["accuracy"].value(a) == pytest.approx(0.80, abs=0.01)
    assert METRICS["f1"].value(b) == pytest.approx(0.82, abs=0.01)
    assert a.label is not None
    assert (a.label == b.label).mean() > 0.8  # two models that err independently agree on 0.69
    one, other = rankers((0.8, 0.9), 10_000, 20_000, rng)
    assert METRICS["roc_auc"].value(one) == pytest.approx(0.8, abs=0.01)
    assert METRICS["roc_auc"].value(other) == pytest.approx(0.9, abs=0.01)


def test_coverage_is_computed_over_all_counts() -> None:
    assert mean_coverage("accuracy", 20, 0.95) == pytest.approx(0.95, abs=0.02)
    assert mean_coverage("accuracy", 20, 0.5) < 0.7


def test_a_gate_that_says_go_to_everything_would_be_seen() -> None:
    assert fairness_states(0.8, 0.25, 300, runs=30, seed=1).count("go") == 0
    assert fairness_states(0.8, 0.25, 300, runs=30, seed=1, limit=0.5).count("go") == 30


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topic", "scale"), [("wrong-go", 0.1), ("power", 0.1), ("fairness", 0.15), ("drawn", 0.2), ("others", 0.2)]
)
def test_the_claims_hold_for_another_seed(tmp_path: Path, topic: str, scale: float) -> None:
    assert len(CASES) > 10
    claims = run_topics(TOPICS, tmp_path / "poc.json", seed=91, scale=scale, names=[topic])
    assert [c for c in claims if not c.holds] == []


@pytest.mark.slow
def test_the_claims_beside_the_promise_hold_for_another_seed(tmp_path: Path) -> None:
    claims = run_topics(BESIDE, tmp_path / "beside.json", seed=92, scale=0.06)
    assert [c for c in claims if not c.holds] == []
