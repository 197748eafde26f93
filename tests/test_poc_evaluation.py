from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import Message
from mlops_nb.poc.evaluation import (
    confusion,
    evaluate,
    gain,
    judge_performance,
    judge_stability,
    metric_facts,
    reliability,
    skill_p_value,
)
from mlops_nb.poc.metrics import METRICS, Answers, metric_for, metrics_of, naive_answers
from mlops_nb.poc.verdict import CONDITIONAL, GO, NO_GO, NOT_ASSESSED, judge, judge_band, overall, together
from mlops_nb.stats.intervals import Interval, exact


def ranked(n: int, auc: float, seed: int, share: float = 0.4) -> Answers:
    "Scores of a model whose AUC is truly `auc`, as calibrated probabilities."
    rng, shift = np.random.default_rng(seed), stats.norm.ppf(auc) * np.sqrt(2)
    y = (rng.uniform(size=n) < share).astype(np.int64)
    p = 1 / (1 + np.exp(-(shift * (rng.normal(size=n) + shift * y) - shift**2 / 2 + np.log(share / (1 - share)))))
    return Answers("binary", y, (p > 0.5).astype(np.int64), np.column_stack([1 - p, p]), classes=("no", "yes"))


def classified(n: int, accuracy: float, seed: int, k: int = 3) -> Answers:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, k, n)
    said = np.where(rng.uniform(size=n) < accuracy, y, (y + rng.integers(1, k, n)) % k)
    rest = (1 - accuracy) / (k - 1)
    return Answers("multiclass", y, said, rest + (accuracy - rest) * np.eye(k)[said], classes=tuple("abcdef"[:k]))


def valued(n: int, r2: float, seed: int) -> Answers:
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=n) * np.sqrt(r2)
    return Answers("regression", signal + rng.normal(size=n) * np.sqrt(1 - r2), value=signal)


MAKERS = {"roc_auc": ranked, "accuracy": classified, "r2": valued}


def judged(metric: str, n: int, true: float, threshold: float, repeats: int) -> list[str]:
    found = []
    for seed in range(repeats):
        a = MAKERS[metric](n, true, seed)
        found.append(judge_performance(METRICS[metric], a, a.truth, threshold).verdict.state)
    return found


@pytest.mark.parametrize(
    ("metric", "threshold", "n"),
    [("roc_auc", 0.70, 85), ("roc_auc", 0.90, 150), ("accuracy", 0.70, 27), ("accuracy", 0.90, 60), ("r2", 0.26, 66)],
)
def test_a_model_at_its_threshold_passes_in_at_most_5_percent(metric: str, threshold: float, n: int) -> None:
    states = judged(metric, n, threshold, threshold, 120)
    assert states.count(GO) / 120 <= 0.05 + 0.045


@pytest.mark.parametrize(("metric", "threshold"), [("roc_auc", 0.75), ("accuracy", 0.80), ("r2", 0.40)])
def test_five_points_above_are_seen_in_four_of_five_cases_with_the_rows_that_suffice(
    metric: str, threshold: float
) -> None:
    first = MAKERS[metric](200, threshold + 0.05, 1)
    rows = judge_performance(METRICS[metric], first, first.truth, threshold).sufficient
    assert rows
    states = judged(metric, rows, threshold + 0.05, threshold, 60)
    assert states.count(GO) / 60 >= 0.80 - 0.11


@pytest.mark.parametrize(
    ("metric", "threshold", "n"), [("roc_auc", 0.70, 85), ("accuracy", 0.70, 27), ("r2", 0.26, 66)]
)
def test_answers_to_a_shuffled_target_are_a_no_go(metric: str, threshold: float, n: int) -> None:
    states = []
    for seed in range(60):
        a = MAKERS[metric](n, 0.8, seed)
        shuffled = replace(a, truth=np.random.default_rng(seed).permutation(a.truth))
        states.append(judge_performance(METRICS[metric], shuffled, a.truth, threshold).verdict.state)
    assert states.count(NO_GO) >= 58


@pytest.mark.parametrize(
    ("metric", "true", "threshold", "n"),
    [("roc_auc", 0.97, 0.7, 85), ("accuracy", 0.97, 0.7, 27), ("r2", 0.6, 0.26, 66)],
)
def test_good_models_on_small_sets_are_never_refused(metric: str, true: float, threshold: float, n: int) -> None:
    assert NO_GO not in judged(metric, n, true, threshold, 60)


@pytest.mark.parametrize(("metric", "n", "threshold"), [("roc_auc", 20, 0.9), ("accuracy", 20, 0.9), ("r2", 20, 0.3)])
def test_too_few_rows_are_never_a_go(metric: str, n: int, threshold: float) -> None:
    found = judge_performance(METRICS[metric], MAKERS[metric](n, 0.99, 0), np.arange(3), threshold)
    assert found.verdict.state == NOT_ASSESSED
    assert found.verdict.n_needed
    assert found.verdict.n_needed > n


def test_skill_is_exact_and_does_not_need_a_naive_model() -> None:
    p = [
        skill_p_value(
            METRICS["accuracy"],
            replace(classified(60, 0.5, s), label=np.random.default_rng(s + 900).integers(0, 3, 60)),
        )
        for s in range(60)
    ]
    assert np.mean(np.array(p) <= 0.2) < 0.35
    assert skill_p_value(METRICS["brier"], ranked(200, 0.8, 0)) <= 0.01
    assert judge_performance(METRICS["roc_auc"], ranked(400, 0.9, 0), np.array([]), 0.7).naive is None


def test_a_model_below_the_naive_one_is_a_condition() -> None:
    rng = np.random.default_rng(0)
    y = (rng.uniform(size=3000) < 0.05).astype(np.int64)
    said = np.where(rng.uniform(size=3000) < 0.06, 1 - y, y)
    p = np.where(said == 1, 0.5, 0.02)
    a = Answers("binary", y, said, np.column_stack([1 - p, p]), classes=("no", "yes"))
    found = judge_performance(METRICS["accuracy"], a, y, 0.90)
    assert found.verdict.reason.key == "score.performance.below-naive"
    assert found.verdict.state == CONDITIONAL


def test_one_class_in_the_test_rows_is_not_assessed() -> None:
    a = ranked(100, 0.8, 0)
    found = judge_performance(METRICS["roc_auc"], replace(a, truth=np.zeros(100, dtype=np.int64)), a.truth, 0.7)
    assert found.verdict.state == NOT_ASSESSED
    assert "one class" in found.verdict.reason.text()


@pytest.mark.parametrize("name", ["roc_auc", "accuracy", "average_precision", "brier"])
def test_a_paired_gain_is_sharper_than_two_intervals(name: str) -> None:
    metric, a = METRICS[name], ranked(600, 0.8, 3)
    assert a.probability is not None
    noisy = np.clip(a.probability[:, 1] + np.random.default_rng(1).normal(0, 0.3, 600), 0, 1)
    b = replace(a, probability=np.column_stack([1 - noisy, noisy]), label=(noisy > 0.5).astype(np.int64))
    found, alone = gain(metric, a, b), metric.measure(a, 0.9)
    assert found.low <= found.value <= found.high
    assert found.high - found.low < 2.2 * (alone.high - alone.low)
    assert gain(metric, a, a).value == 0
    assert gain(metric, b, a).value == pytest.approx(-found.value)


def test_a_paired_auc_gain_covers_nothing_when_there_is_none() -> None:
    held = []
    for seed in range(200):
        rng, y = np.random.default_rng(seed), np.arange(150) < 50
        p, q = (1 / (1 + np.exp(-(rng.normal(size=150) + y))) for _ in range(2))
        one, two = (
            Answers("binary", y.astype(np.int64), None, np.column_stack([1 - s, s]), classes=("n", "y")) for s in (p, q)
        )
        found = gain(METRICS["roc_auc"], one, two)
        held.append(found.low <= 0 <= found.high)
    assert np.mean(held) >= 0.90 - 0.055


def test_average_precision_of_few_events_is_not_believed_too_much() -> None:
    def drawn(n: int, seed: int) -> Answers:
        rng = np.random.default_rng(seed)
        y = rng.random(n) < 0.1
        p = 1 / (1 + np.exp(-(rng.normal(size=n) + 4 * y)))
        return Answers("binary", y.astype(np.int64), probability=np.column_stack([1 - p, p]), classes=("no", "yes"))

    metric = METRICS["average_precision"]
    truth = metric.value(drawn(100_000, 99))
    found = [metric.measure(drawn(120, seed), 0.9) for seed in range(40)]
    assert sum(i.low > truth for i in found) <= 4  # every second one by the bootstrap alone
    assert sum(i.high < truth for i in found) <= 4


def test_macro_f1_of_a_rare_class_is_not_believed_too_much() -> None:
    metric, truth = METRICS["f1_macro"], np.repeat([0, 1, 2], [98, 100, 2])
    names = ("a", "b", "c")
    perfect = metric.measure(Answers("multiclass", truth, truth, classes=names), 0.9)
    balanced = METRICS["balanced_accuracy"].measure(Answers("multiclass", truth, truth, classes=names), 0.9)
    assert perfect.high == 1
    assert balanced.low < perfect.low < 0.9
    two = truth[truth < 2]
    unseen = metric.measure(Answers("multiclass", two, two, classes=names), 0.9)
    assert unseen.low < 2 / 3 + 1e-9, "of a class without a row anything may be true"


def test_reliability_and_confusion_count_every_row() -> None:
    for a in (ranked(333, 0.8, 0), classified(333, 0.8, 0)):
        assert sum(int(r["n"]) for r in reliability(a)) == 333
        assert a.label is not None
        assert confusion(a) == sk.confusion_matrix(a.truth, a.label).tolist()
    assert reliability(valued(50, 0.5, 0)) == confusion(valued(50, 0.5, 0)) == []
    constant = naive_answers(ranked(100, 0.8, 0), np.array([0, 0, 1]))
    assert len(reliability(constant)) == 1


def test_every_metric_of_a_task_becomes_a_fact() -> None:
    for a in (ranked(300, 0.8, 0), classified(300, 0.8, 0), valued(300, 0.5, 0)):
        found = evaluate(metrics_of(a.task)[0], a, a.truth, 0.2)
        assert {f"performance.{m.name}" for m in metrics_of(a.task)} <= {f.id for f in found.facts}
    silent = replace(ranked(50, 0.8, 0), label=np.zeros(50, dtype=np.int64))
    assert "performance.precision" not in {f.id for f in metric_facts(silent)}


@pytest.mark.parametrize(
    ("values", "limit", "state"),
    [
        ((0.84, 0.84, 0.84), 0.02, GO),
        ((0.7, 0.8, 0.9), 0.02, NO_GO),
        ((0.82, 0.84, 0.83), 0.02, CONDITIONAL),
        ((0.8,), 0.02, NOT_ASSESSED),
    ],
)
def test_stability_has_four_states(values: tuple[float, ...], limit: float, state: str) -> None:
    verdict, found = judge_stability(values, limit)
    assert verdict.state == state
    assert (found is None) == (state == NOT_ASSESSED)


def test_a_spread_at_its_limit_passes_in_at_most_5_percent() -> None:
    draws = 0.8 + 0.02 * np.random.default_rng(0).normal(size=(1000, 3))
    assert np.mean([judge_stability(list(d), 0.02)[0].state == GO for d in draws]) <= 0.05 + 0.018


def test_metrics_say_what_they_lack() -> None:
    bare = Answers("binary", np.array([0, 1]), classes=("no", "yes"))
    for name, what in (("roc_auc", "no probabilities"), ("accuracy", "no answered classes")):
        with pytest.raises(InputError, match=what):
            METRICS[name].measure(bare, 0.9)
    with pytest.raises(InputError, match="no answered values"):
        METRICS["mae"].measure(Answers("regression", np.arange(3.0)), 0.9)
    with pytest.raises(InputError, match="no metric 'mae' for a binary task; use roc_auc, "):
        metric_for("mae", "binary")


@pytest.mark.parametrize("key", ["score.performance", "score.fairness", "score.reproducibility", "score.latency"])
def test_every_state_has_its_sentence_in_both_languages(key: str) -> None:
    for interval in (Interval(0.9, 0.85, 0.95, n=9), Interval(0.2, 0.1, 0.3, n=9), Interval(0.5, 0.4, 0.6, n=9)):
        for needed in (500, None):
            for lang in ("en", "fr"):
                said = judge(interval, 0.5, key, n_needed=needed, args={"column": "sex"}).reason.text(lang)
                assert not said.startswith("score.")
                assert "{" not in said


def test_bands_and_the_order_of_states() -> None:
    for key in ("completeness", "duplicates", "leakage", "freshness"):
        for value in (0.0, 0.5, 1.0):
            assert " " in judge_band(value, 0.2, 0.7, f"score.{key}").reason.text("fr")
    both = together([judge(exact(1.0), 2.0, "score.latency"), judge(Interval(1, 0, 2), 1, "score.latency")])
    assert both.state == NO_GO
    assert len(both.conditions) == 1
    assert overall([{"state": NO_GO, "required": False}], draft=True) == NO_GO
    assert Message("gate.go").text("fr") != Message("gate.go").text("en")


@pytest.mark.parametrize(("rows", "state"), [(120, "no-go"), (12, "not-assessed")])
def test_few_rows_can_show_that_a_promise_is_broken_but_not_very_few(rows: int, state: str) -> None:
    rng = np.random.default_rng(4)
    truth = np.arange(rows) % 2
    share = np.clip(0.5 + 0.15 * (truth - 0.5) + rng.normal(0, 0.15, rows), 0.01, 0.99)
    said = Answers(
        "binary", truth, (share > 0.5).astype(np.int64), np.column_stack([1 - share, share]), classes=("no", "yes")
    )
    found = judge_performance(METRICS["roc_auc"], said, truth, 0.995)
    assert found.verdict.state == state
