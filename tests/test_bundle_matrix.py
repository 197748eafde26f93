"""The matrix of export: each combination at parity for each task, or refused as it was written down before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from threadpoolctl import threadpool_limits

from mlops_nb.bundle.fitting import at_jumps
from mlops_nb.bundle.onnx import convert
from mlops_nb.core.errors import Refused
from tests.onnx_cases import CASES, MAY_BE_REFUSED, SAVED, TARGETS, contract, fitted, measure, table
from tests.onnx_grammar import draw

QUICK = ["hist categorical", "forest scaled", "linear union", "bigrams", "stacking", "dummy"]
LONG = [name for name in CASES if name not in QUICK]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    "Many small fits: threads would only wait for each other."
    with threadpool_limits(1):
        yield


def saved() -> dict[tuple[str, str], Any]:
    return {(row["case"], row["task"]): row for row in json.loads(SAVED.read_text())["results"]}


def holds(name: str, task: str) -> None:
    found, told = measure(name, task), saved()[name, task]
    assert found["state"] == told["state"], found
    assert found["state"] == "parity" or name in MAY_BE_REFUSED


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("name", QUICK)
def test_answers_alike_on_sample_edges_and_jumps(name: str, task: str) -> None:
    holds(name, task)


@pytest.mark.slow
@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize("name", LONG)
def test_answers_alike_on_sample_edges_and_jumps_of_the_others(name: str, task: str) -> None:
    holds(name, task)


@pytest.mark.parametrize("task", TARGETS)
def test_the_saved_table_holds_every_combination_and_enough_parity(task: str) -> None:
    rows = [row for (_, t), row in saved().items() if t == task]
    assert {row["case"] for row in rows} == set(CASES)
    assert sum(row["state"] == "parity" for row in rows) >= 35
    assert {row["case"] for row in rows if row["state"] != "parity"} <= set(MAY_BE_REFUSED)


def test_a_graph_with_another_split_is_refused_with_its_rows() -> None:
    model, other = fitted("forest scaled", "binary"), fitted("forest scaled", "binary", rows=490)
    graph, frame = convert(other, contract("binary")), table(60, 3)
    with pytest.raises(
        Refused, match=r"the graph differs on \d+ of \d+ rows \(set 'sample'\): value=.*: model .*, graph "
    ):
        at_jumps(model, graph, contract("binary"), frame)


def exported(seed: int, task: str) -> str:
    "What becomes of a drawn pipeline."
    drawn, frame, model = draw(seed, task)
    try:
        return "parity" if at_jumps(model, convert(model, drawn), drawn, frame).wrong == 0 else "wrong"
    except Refused as e:
        return "refused" if e.where and "does not convert to ONNX: " in e.what else str(e)


@pytest.mark.parametrize("seed", [1, 2])
def test_drawn_pipelines_are_at_parity_or_refused_by_name(seed: int) -> None:
    assert {exported(seed, task) for task in TARGETS} <= {"parity", "refused"}


@pytest.mark.slow
def test_many_drawn_pipelines_are_at_parity_or_refused_by_name() -> None:
    found = [exported(seed, task) for seed in range(100, 120) for task in TARGETS]
    assert set(found) <= {"parity", "refused"}
    assert found.count("parity") > len(found) / 2
