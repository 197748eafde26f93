"The diagnosis: single faults on drawn columns, and a few of the known faults of `diagnosis_faults` on a real table."

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.monitoring.arrivals import Arrived, arrived, habits_of, longest_runs, repeated_rows
from mlops_nb.monitoring.diagnosis import Scene, breaches_of, diagnose
from mlops_nb.monitoring.drift import compare
from mlops_nb.monitoring.findings import ACTIONS, PIPELINE, Finding
from mlops_nb.monitoring.relation import Judged, compare_relations, input_table, judged_rows
from mlops_nb.poc.metrics import Answers
from mlops_nb.stats.profiles import Encoded, build_profile
from tests import diagnosis_faults as faults

SCHEMA = SimpleNamespace(
    columns=[SimpleNamespace(name="price", kind="number"), SimpleNamespace(name="plan", kind="category")]
)


def draw(rng: np.random.Generator, rows: int, **how: Any) -> dict[str, Encoded]:
    price = rng.gamma(3, 20, rows) * how.get("factor", 1.0) + how.get("by", 0.0)
    price = np.where(rng.random(rows) < how.get("gaps", 0.01), np.nan, price)
    plan = rng.choice(np.array(how.get("plan", ("basic", "plus", "pro")), object), rows, p=[0.5, 0.3, 0.2])
    return {"price": price.astype(np.float32), "plan": plan}


@pytest.mark.parametrize(
    ("how", "cause"),
    [
        ({"factor": 1.2}, "rescaled"),
        ({"factor": 1000}, "rescaled"),
        ({"factor": 0.4}, "rescaled"),
        ({"by": 25}, "offset"),
        ({"gaps": 0.9}, "feed-stopped"),
        ({"gaps": 0.2}, "gaps"),
        ({"plan": ("basic", "PLUS", "pro")}, "renamed"),
    ],
)
def test_faults_of_the_pipeline_are_named(how: dict[str, Any], cause: str) -> None:
    rng, right, draws = np.random.default_rng(7), 0, 20
    reference = build_profile(draw(rng, 4_000), SCHEMA)
    for _ in range(draws):
        window = draw(rng, 800, **how)
        found = diagnose(compare(reference, window), reference, window, "no-go")
        right += [f.cause for f in found] == [cause]
        assert not [f for f in found if f.action == "retrain"]
    assert right >= 17


def test_a_few_rows_explain_nothing() -> None:
    rng = np.random.default_rng(10)
    reference = build_profile(draw(rng, 4_000), SCHEMA)
    window = draw(rng, 25, factor=5.0)
    found = diagnose(compare(reference, window), reference, window, "no-go")
    assert [(f.cause, f.action) for f in found] == [("unclear", "collect")]
    assert 50 < found[0].evidence["rows"] < 200


@pytest.mark.parametrize(
    ("promise", "cause"), [("go", "shift"), ("no-go", "shift-harm"), ("not-assessed", "shift-unlabelled")]
)
def test_what_no_fault_explains_is_a_shift(promise: str, cause: str) -> None:
    rng = np.random.default_rng(8)
    reference = build_profile(draw(rng, 4_000), SCHEMA)
    window = draw(rng, 800)
    kept = np.asarray(window["price"]) > 55
    window = {n: np.asarray(v)[kept] for n, v in window.items()}
    found = diagnose(compare(reference, window), reference, window, promise)
    assert [f.cause for f in found] == [cause]
    assert {m.key for m in found[0].ruled_out} == {"ruled.schema", "ruled.gaps", "ruled.column"}


def test_what_was_not_looked_at_is_not_ruled_out() -> None:
    rng = np.random.default_rng(8)
    reference = build_profile(draw(rng, 4_000), SCHEMA)
    window = draw(rng, 800)
    window = {n: np.asarray(v)[np.asarray(window["price"]) > 55] for n, v in window.items()}
    table = input_table({n: np.asarray(v) for n, v in window.items()})
    now = Arrived(table, np.zeros(24, np.int64))
    blind = diagnose(compare(reference, window), reference, window, "no-go", 0.0, Scene(now=now))
    seeing = diagnose(
        compare(reference, window), reference, window, "no-go", 0.0, Scene(now=now, habits=habits_of([now]))
    )
    told = [{m.key for m in f[0].ruled_out} if f else set() for f in (blind, seeing)]
    assert "ruled.repeated" not in told[0]
    assert told[1] >= {"ruled.repeated", "ruled.stale"}
    assert "ruled.clock" not in told[1]


def test_every_cause_and_action_speaks_both_languages() -> None:
    for lang in LANGUAGES:
        texts = catalogue(lang)
        for cause, action in ACTIONS.items():
            assert {f"cause.{cause}", f"cause.{cause}.reason", f"action.{action}"} <= set(texts)


def test_no_fault_of_the_pipeline_leads_to_retraining() -> None:
    assert "retrain" not in {Finding(cause).action for cause in PIPELINE}
    assert set(faults.CLASS_OF) <= set(ACTIONS)
    assert {faults.CLASS_OF[c] for c in PIPELINE} == set(faults.OF_THE_PIPELINE)


def test_a_window_file_is_plain_json() -> None:
    rng = np.random.default_rng(9)
    reference = build_profile(draw(rng, 1_000), SCHEMA)
    window = draw(rng, 200, gaps=1.0)
    found = diagnose(compare(reference, window), reference, window, "go", refused=0.5)
    assert [f.cause for f in found] == ["feed-stopped", "refused"]
    json.dumps([f.to_dict() for f in found], allow_nan=False)


def test_rows_are_equal_when_every_value_is() -> None:
    rows = pa.table({"a": [1.0, None, 1.0, 1.0, None], "b": ["x", "x", "x", "y", "x"]})
    assert repeated_rows(rows) == 2
    assert repeated_rows(rows.slice(0, 0)) == 0
    assert longest_runs(pa.table({"a": ["x", "x", None, "x", "y"]}))["a"] == (0, 3)


def test_breaches_are_counted_where_they_cost_a_row_or_a_field() -> None:
    log = pa.table(
        {
            "status": ["ok", "rejected", "ok"],
            "flags": [["unknown:id"], ["type:age"], ["missing:age", "range:n"]],
        }
    )
    assert breaches_of(log) == {"type:age": 1, "missing:age": 1}


def test_too_few_outcomes_are_no_relation() -> None:
    rng = np.random.default_rng(0)

    def judged(n: int, hits: float) -> Judged:
        p = rng.random(n)
        y = (rng.random(n) < hits).astype(np.int64)
        rows = input_table({"x": rng.normal(size=n).astype("f4")})
        return Judged(Answers("binary", y, y, np.column_stack([1 - p, p]), classes=("no", "yes")), rows)

    assert compare_relations(judged(1_000, 0.5), judged(60, 0.5)) is None
    assert compare_relations(judged(1_000, 0.5), judged(300, 0.0)) is None


@pytest.mark.parametrize("task", ["regression", "multiclass"])
def test_a_relation_may_change_in_any_task(task: str) -> None:
    rng = np.random.default_rng(4)

    def judged(n: int, turned: bool) -> Judged:
        x, plan = rng.normal(size=n), rng.choice(np.array(["a", "b", "c"], object), n)
        hit = turned & (plan == "b")
        rows = input_table({"x": x.astype("f4"), "plan": plan})
        if task == "regression":
            return Judged(Answers(task, x + rng.standard_t(4, n) + hit, value=x), rows)
        share = rng.dirichlet(np.ones(3) / 2, n)
        truth = np.array([rng.choice(3, p=p) for p in share])
        truth = np.where(hit, (truth + 1) % 3, truth)
        return Judged(Answers(task, truth, share.argmax(axis=1), share, classes=("k", "l", "m")), rows)

    accepted = judged(1_500, False)
    same, changed = (compare_relations(accepted, judged(800, turned)) for turned in (False, True))
    assert same is not None
    assert same.state == "same"
    assert changed is not None
    assert (changed.state, changed.segment) == ("concept", "plan = b")


def test_a_log_that_lacks_columns_is_no_error() -> None:
    contract = Contract(
        (Column("age", "number"), Column("plan", "category")), Target("y", "binary", ("no", "yes"), "yes")
    )
    log = pa.table(
        {
            "prediction_id": ["a", "b"],
            "time": pa.array([0, 1], pa.timestamp("us", tz="UTC")),
            "status": ["ok", "ok"],
            "in.age": pa.array([1.0, None], pa.float32()),
            "p.no": [0.2, 0.4],
            "p.yes": [0.8, 0.6],
            "label": ["yes", "yes"],
        }
    )
    outcomes = pa.table(
        {"prediction_id": ["a"], "kind": ["label"], "value": ["no"], "number": pa.nulls(1, pa.float64())}
    )
    seen, known = arrived(log, contract), judged_rows(log, outcomes, contract)
    assert (seen.rows.column_names, seen.hours.sum()) == (["age"], 0)
    assert known is not None
    assert (len(known.answers), known.rows.column_names) == (1, ["age"])
    assert judged_rows(log, outcomes.slice(0, 0), contract) is None
    assert arrived(log.slice(0, 0), contract).rows.num_rows == 0


@pytest.mark.xdist_group("diagnosis")
def test_known_faults_of_a_real_table_are_named() -> None:
    found = faults.measure("churn", draws=1, seed=11)
    assert found["right"] >= 0.8, found["matrix"]
    assert found["retrain_for_a_fault"] == 0


def test_the_committed_matrix_holds_its_bars() -> None:
    tables = json.loads((Path(faults.TABLE)).read_text())["tables"]
    assert set(tables) <= set(faults.TABLES)
    assert len(tables) >= 3
    for found in tables.values():
        assert found["draws"] >= 30
        assert len(found["matrix"]) >= 11
        assert found["retrain_for_a_fault"] == 0
        assert found["right"] >= 0.9
        assert min(found["recall"].values()) >= 0.8
