from __future__ import annotations

from collections import Counter

import numpy as np
import pandas as pd
import pytest

from mlops_nb.poc.fairness import gap, group_labels, joint_level, judge_fairness, judge_groups, measure_groups
from mlops_nb.poc.metrics import METRICS, Answers
from mlops_nb.poc.verdict import CONDITIONAL, GO, NO_GO, NOT_ASSESSED

LIMIT = 0.10
REPEATS = 150


def audits(metric: str, n: int, base: float, worse: float, seed: int = 0, repeats: int = REPEATS) -> dict[str, float]:
    "Share of audits in each state: five groups of n rows in the denominator, one worse by that much."
    rng, names = np.random.default_rng(seed), np.repeat(np.array(list("abcde"), dtype=object), n)
    rates = np.where(names == "a", base - worse, base)
    found: Counter[str] = Counter()
    for _ in range(repeats):
        right = (rng.uniform(size=5 * n) < rates).astype(np.int64)
        a = Answers("binary", np.ones(5 * n, dtype=np.int64), right, classes=("no", "yes"))
        found[judge_groups(measure_groups(METRICS[metric], a, names), LIMIT, "team").state] += 1
    return {s: found[s] / repeats for s in (GO, CONDITIONAL, NO_GO, NOT_ASSESSED)}


def room(rate: float) -> float:
    "What 150 audits may be off by."
    return 2.5 * float(np.sqrt(rate * (1 - rate) / REPEATS))


@pytest.mark.parametrize("seed", [0, 11])
@pytest.mark.parametrize("metric", ["accuracy", "recall"])
@pytest.mark.parametrize("base", [0.5, 0.7, 0.85, 0.95])
def test_fair_models_pass_and_unfair_ones_do_not(metric: str, base: float, seed: int) -> None:
    assert audits(metric, 100, base, 0.0, seed)[NO_GO] <= 0.05
    assert audits(metric, 1000, base, 0.0, seed, 60)[GO] >= 0.90
    assert audits(metric, 300, base, 0.15, seed)[GO] <= 0.05
    assert audits(metric, 300, base, 0.25, seed)[NO_GO] >= 0.90
    at_limit = audits(metric, 300, base, 0.10, seed)
    assert at_limit[GO] <= 0.05 + room(0.05)
    assert at_limit[NO_GO] <= 0.05


def test_an_auc_gap_is_judged_by_the_same_rule() -> None:
    rng, n, states = np.random.default_rng(0), 1600, Counter[str]()
    names = np.repeat(np.array(["a", "b"], dtype=object), n // 2)
    for _ in range(60):
        y = (rng.uniform(size=n) < 0.3).astype(np.int64)
        s = rng.normal(size=n) + np.where(names == "a", 0.3, 1.6) * y
        p = 1 / (1 + np.exp(-s))
        a = Answers("binary", y, (p > 0.5).astype(np.int64), np.column_stack([1 - p, p]), classes=("no", "yes"))
        states[judge_groups(measure_groups(METRICS["roc_auc"], a, names), LIMIT, "team").state] += 1
    assert states[NO_GO] >= 54
    assert states[GO] == 0


def test_every_further_column_makes_a_no_go_harder() -> None:
    assert joint_level(2, 1) == pytest.approx(0.95)
    assert joint_level(5, 1) > joint_level(3, 1) > 0.95
    assert joint_level(3, 4) > joint_level(3, 1)


def binary(n: int, right: float = 0.9, seed: int = 0) -> Answers:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    return Answers("binary", y, np.where(rng.uniform(size=n) < right, y, 1 - y), classes=("no", "yes"))


def test_a_tiny_group_is_named_and_never_makes_a_go() -> None:
    names = np.where(np.arange(3000) < 6, "rare", np.where(np.arange(3000) % 2, "f", "m")).astype(object)
    found = judge_groups(measure_groups(METRICS["accuracy"], binary(3000), names), LIMIT, "sex")
    assert found.state == CONDITIONAL
    assert "rare" in found.reason.text()
    alone = judge_groups(measure_groups(METRICS["accuracy"], binary(6), names[:6]), LIMIT, "sex")
    assert alone.state == NOT_ASSESSED


def test_a_metric_that_does_not_exist_in_a_group_leaves_it_out() -> None:
    y = np.r_[np.ones(200, dtype=np.int64), np.arange(400) % 2]
    p = np.clip(y * 0.5 + np.random.default_rng(0).uniform(size=600) / 2, 0, 1)
    a = Answers("binary", y, (p > 0.5).astype(np.int64), np.column_stack([1 - p, p]), classes=("no", "yes"))
    groups = measure_groups(METRICS["roc_auc"], a, np.where(np.arange(600) < 200, "only yes", "both").astype(object))
    assert [g.name for g in groups if g.alone] == ["both"]
    assert gap(groups) is None


def test_straddling_says_how_many_rows_of_the_smallest_group_decide() -> None:
    names = np.where(np.arange(600) < 60, "few", "many").astype(object)
    found = judge_groups(measure_groups(METRICS["accuracy"], binary(600, 0.7), names), LIMIT, "sex")
    assert found.state == CONDITIONAL
    assert found.n_needed
    assert found.n_needed > 60
    size = 10 * found.n_needed
    again = np.where(np.arange(size) % 10 == 0, "few", "many").astype(object)
    passed = [
        judge_groups(measure_groups(METRICS["accuracy"], binary(size, 0.7, s), again), LIMIT, "sex").state
        for s in range(30)
    ]
    assert passed.count(GO) >= 24


@pytest.mark.parametrize(
    ("values", "groups"),
    [
        (["f", "m", None, "f"], ["", "f", "m"]),
        ([0, 1, 1, 0], ["0", "1"]),
        ([True, False, True, True], ["False", "True"]),
        ([1.5, np.nan, 1.5, 2.0], ["", "1.5", "2.0"]),
    ],
)
def test_groups_are_the_values_of_a_column(values: list[object], groups: list[str]) -> None:
    assert sorted(set(group_labels(pd.Series(values)))) == groups


def test_many_numbers_are_cut_into_quarters_that_hold_every_row() -> None:
    values = pd.Series(np.random.default_rng(0).exponential(size=400))
    values.iloc[:7] = np.nan
    counts = Counter(group_labels(values))
    assert counts.pop("") == 7
    assert len(counts) == 4
    assert min(counts.values()) > 90
    skewed = pd.Series(np.r_[np.zeros(300), np.arange(20)])
    assert 1 <= len(set(group_labels(skewed))) <= 4


def test_gaps_beside_the_promise_have_no_state() -> None:
    a = binary(2000)
    names = np.where(np.arange(2000) % 2, "f", "m").astype(object)
    found = judge_fairness(METRICS["accuracy"], a, {"sex": names}, LIMIT, [METRICS["recall"], METRICS["accuracy"]])
    gaps = {f.id: f for f in found.facts if "gap_" in f.id}
    assert set(gaps) == {"fairness.gap_accuracy/sex", "fairness.gap_recall/sex"}
    assert gaps["fairness.gap_accuracy/sex"].state == GO
    assert gaps["fairness.gap_recall/sex"].state == ""
    assert gaps["fairness.gap_recall/sex"].threshold is None
    assert {f.qualifier for f in found.facts if f.key == "fact.fairness.recall"} == {"sex=f", "sex=m"}
