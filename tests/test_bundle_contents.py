"""Thresholds, base rates and explanations: their formulas, and their behaviour at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.bundle.contents import (
    base_rate,
    choose_thresholds,
    explanation_baseline,
    licences,
    loss,
)
from mlops_nb.charter import Business, parse_charter
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.poc.operating import best_f1, break_even

BINARY = Contract((Column("x", "number"),), Target("y", "binary", ("No", "Yes"), "Yes"))
NUMBER = Contract((Column("x", "number"),), Target("y", "regression"))
CHARTER = parse_charter(
    {
        "problem": {"name": "t"},
        "data": {"file": "t.csv", "target": "y", "task": "binary"},
        "criteria": {"performance": {"threshold": 0.8}},
    },
    "charter.toml",
)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 20)), min_size=2, max_size=60))
def test_best_f1_is_the_best(rows: list[tuple[bool, int]]) -> None:
    truth, p = np.array([r[0] for r in rows]), np.array([r[1] / 20 for r in rows])
    if truth.all() or not truth.any():
        assert best_f1(truth, p) == 0.5
        return

    def f1(cut: float) -> float:
        said = p >= cut
        return float(2 * (said & truth).sum() / (said.sum() + truth.sum()))

    assert f1(best_f1(truth, p)) == pytest.approx(max(f1(c) for c in np.unique(p)))


@given(st.floats(0.01, 0.99), st.floats(1, 1_000), st.floats(0.05, 1))
def test_break_even_is_where_acting_begins_to_pay(cut: float, value: float, uptake: float) -> None:
    found = break_even(Business(value_per_action=value, uptake=uptake, uptake_low=0, action_cost=cut * value * uptake))
    assert found == pytest.approx(cut)


def test_no_money_or_no_gain_is_no_threshold() -> None:
    assert break_even(Business(value_per_action=10, action_cost=20)) is None
    assert break_even(Business(value_per_action=10, action_cost=0)) is None


def test_only_two_classes_have_a_threshold() -> None:
    assert choose_thresholds(NUMBER, CHARTER, np.zeros(3), np.zeros((3, 1)), {}).default is None
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    assert choose_thresholds(BINARY, CHARTER, np.array([0, 1]), p, {}).default == pytest.approx(0.45)


def test_base_rates() -> None:
    assert base_rate(NUMBER, np.array([1.0, 2, 9])).otherwise.value == 2
    assert base_rate(BINARY, np.array([1, 1, 0])).otherwise.label == "Yes"


def test_losses() -> None:
    assert loss("regression", np.array([0.0, 2]), np.array([[0.0], [0]])) == pytest.approx(np.sqrt(2))
    assert loss("binary", np.array([0, 1]), np.array([[1.0, 0], [0, 1]])) == 0
    assert np.isfinite(loss("binary", np.array([0]), np.array([[0.0, 1]])))


def test_an_all_null_column_has_no_ordinary_value() -> None:
    encoded = {"x": np.full(4, np.nan, np.float32)}
    about = explanation_baseline(NUMBER, lambda e: np.zeros((4, 1)), encoded, np.zeros(4))
    assert about["ordinary"] == {"x": None}


def test_licences_name_what_runs_the_graph() -> None:
    assert {entry["name"] for entry in licences()} == {"numpy", "onnxruntime"}
    assert all(entry["licence"] != "unknown" for entry in licences())
