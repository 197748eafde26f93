"Estimates without labels: every metric, what is refused, and the ledger that holds them to account."

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mlops_nb.core.files import write_json
from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.monitoring.coverage import coverage_fact, coverage_table, entry, record, surprise, watch_labels
from mlops_nb.monitoring.estimation import RECIPES, Labelled, estimable, estimate
from mlops_nb.monitoring.sims import ESTIMATED, TOPICS, drawn_case, labels_until_found
from mlops_nb.poc.metrics import METRICS, Answers
from mlops_nb.stats.claims import run_topics

TASKS = tuple(ESTIMATED)


@pytest.mark.parametrize("task", TASKS)
def test_every_metric_is_estimated_near_its_truth_or_refused_by_name(task: str) -> None:
    contract, reference, window = drawn_case(task, np.random.default_rng(5), 0.5, trees=0.0)
    for metric in (m for m in METRICS.values() if task in m.tasks and m.pairs):
        found = estimate(metric.name, contract, reference, window.inputs, window.answers)
        assert (found.state == "estimated") == estimable(metric.name)
        if found.interval is not None:
            assert abs(found.interval.value - metric.value(window.answers)) < 5 * found.carried.error + 1e-9  # type: ignore[union-attr]
            assert np.isfinite([found.interval.low, found.interval.high]).all()
        else:
            assert found.reason is not None
            assert metric.name in found.reason.text("en")
    assert "average_precision" not in RECIPES


def test_the_labels_of_a_whole_window_are_its_realised_figure() -> None:
    contract, reference, window = drawn_case("binary", np.random.default_rng(8), 0.5, trees=0.0)
    for metric in ("accuracy", "roc_auc"):
        found = estimate(metric, contract, reference, window.inputs, window.answers)
        told = surprise(found, window.answers, np.arange(len(window.answers)))
        assert found.interval is not None
        assert told is not None
        realised = METRICS[metric].value(window.answers)
        assert found.interval.value + told.difference == pytest.approx(realised, abs=0.002)


def test_the_truth_of_a_window_is_not_looked_at() -> None:
    contract, reference, window = drawn_case("binary", np.random.default_rng(9), 0.5, trees=0.0)
    blind = replace(window.answers, truth=1 - window.answers.truth)
    first, second = (estimate("f1", contract, reference, window.inputs, a) for a in (window.answers, blind))
    assert first.interval == second.interval


def test_reasons_and_facts_have_words_in_every_language() -> None:
    contract, reference, window = drawn_case("binary", np.random.default_rng(10), 0.0, trees=0.0)
    far = {k: v + np.float32(9) for k, v in window.inputs.items()}
    gone = {k: np.full_like(v, np.nan) for k, v in window.inputs.items()}
    few = {k: v[:5] for k, v in window.inputs.items()}
    one = replace(reference, answers=replace(reference.answers, truth=np.zeros(len(reference.answers), np.int64)))
    kept = window.answers
    refused = [
        estimate("accuracy", contract, reference, far, kept),
        estimate("accuracy", contract, reference, gone, kept),
        estimate("accuracy", contract, reference, few, kept.take(np.arange(5))),
        estimate("accuracy", contract, one, window.inputs, kept),
        estimate("ece", contract, reference, window.inputs, kept),
    ]
    keys = [f.reason.key.rpartition(".")[2] for f in refused if f.reason]
    assert keys == ["outside", "stopped", "rows", "classes", "metric"]
    assert all(f.reason.text(lang) for f in refused if f.reason for lang in LANGUAGES)
    assert all(f.fact("w").value is None for f in refused)
    assert all("fact.window.estimated" in catalogue(lang) for lang in LANGUAGES)


def test_a_gap_where_the_reference_has_none_is_refused() -> None:
    rng = np.random.default_rng(0)
    contract = Contract((Column("x", "number"), Column("z", "number")), Target("y", "regression"))

    def rows(n: int, gaps: float) -> Labelled:
        x, z = rng.standard_normal((2, n))
        answers = Answers("regression", x + rng.standard_normal(n), value=x)
        return Labelled({"x": x.astype("f4"), "z": np.where(rng.random(n) < gaps, np.nan, z).astype("f4")}, answers)

    reference, some = rows(1_000, 0.0), rows(500, 0.3)
    found = estimate("mae", contract, reference, some.inputs, some.answers)
    assert found.reason is not None
    assert found.reason.key == "estimate.refused.unseen"
    used_to = rows(1_000, 0.3)
    assert estimate("mae", contract, used_to, some.inputs, some.answers).state == "estimated"


def test_a_ledger_of_wrong_estimates_is_broken(tmp_path: Path) -> None:
    contract, reference, window = drawn_case("regression", np.random.default_rng(3), 0.3, trees=0.0)
    found = estimate("mae", contract, reference, window.inputs, window.answers)
    told = surprise(found, window.answers, np.arange(len(window.answers)))
    right = entry("v", "w0", found, told)
    assert right is not None
    wrong = [replace(right, window=f"w{k}", covered=k % 2 == 0) for k in range(20)]
    kept = record(tmp_path / "c.json", wrong)
    assert coverage_fact(kept).state == "broken"
    assert record(tmp_path / "c.json", []) == kept
    table = coverage_table(kept, "fr").html()
    assert "oui" in table
    assert "non" in table
    write_json(tmp_path / "c.json", {"entries": None})
    with pytest.raises(Exception, match="not a ledger of estimates"):
        record(tmp_path / "c.json", [])


def test_labels_break_an_estimate_only_when_the_concept_moved() -> None:
    rng = np.random.default_rng(6)
    assert 0 < labels_until_found(0.3, rng) <= 100
    assert labels_until_found(0.0, rng) > 10**6
    assert watch_labels([]).state == "waiting"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("topic", "scale"), [("year", 0.01), ("delay", 0.1), ("rhythm", 0.01), ("estimates", 0.05), ("labels", 0.1)]
)
def test_the_claims_hold_for_another_seed(tmp_path: Path, topic: str, scale: float) -> None:
    claims = run_topics(TOPICS, tmp_path / "monitoring.json", seed=91, scale=scale, names=[topic])
    assert [c for c in claims if not c.holds] == []
