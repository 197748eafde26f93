"The monitoring stage on the real server, and the parts it is made of."

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.files import read_json, write_json
from mlops_nb.core.hashing import sha256_file, sha256_folder
from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.core.workspace import Workspace, stage_evidence
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.monitoring.performance import answer_columns, realise, window_profile, with_answers
from mlops_nb.monitoring.policy import Change, Policy, WindowPlan, load_policy
from mlops_nb.monitoring.rehearsal import apply_changes, window_slices
from mlops_nb.monitoring.stage import run_monitor
from mlops_nb.poc.metrics import METRICS
from mlops_nb.serving.log import read_log, read_outcomes
from mlops_nb.stats.profiles import build_profile
from tests.tried_workspace import copy

pytestmark = pytest.mark.slow  # the lifecycle of `make test` runs this stage once

TWO_WINDOWS = """
[[window]]
name = "as-it-is"
share = 0.2
[[window]]
name = "changed"
share = 0.8
changes = [
  { kind = "scale", column = "amount", factor = 1.6 },
  { kind = "null", column = "income" },
  { kind = "replace", column = "purpose", old = "car", new = "vehicle" },
]
"""


def accepted(folder: Path, policy: str) -> Workspace:
    "A tried workspace whose model was accepted."
    ws = copy(folder)
    write_json(ws.decision_file, {"decision": "conditional"})
    ws.policy_file.write_text(policy)
    return ws


@pytest.mark.xdist_group("tried")
def test_the_stage_finds_what_was_declared_and_nothing_else(tmp_path: Path) -> None:
    ws = accepted(tmp_path, TWO_WINDOWS)
    evidence = run_monitor(ws)
    first, second = (read_json(ws.windows / f"{n}.json") for n in ("as-it-is", "changed"))
    assert first["state"] in ("stable", "inconclusive", "alert")
    assert first["drift"]["drifted"] == []
    found = {c: d["cause"] for d in second["diagnosis"] for c in d["columns"]}
    assert {"amount", "income", "purpose"} <= set(second["drift"]["drifted"])
    assert (found["income"], found["purpose"], found["amount"]) == ("feed-stopped", "renamed", "rescaled")
    assert 1.4 < next(d for d in second["diagnosis"] if d["cause"] == "rescaled")["evidence"]["factor"] < 1.8
    assert not [d for d in second["diagnosis"] if d["action"] == "retrain"]
    listed = evidence.data["windows"]
    assert [w["name"] for w in listed] == ["as-it-is", "changed"]
    assert all(w["sha256"] == sha256_file(ws.windows / f"{w['name']}.json") for w in listed)
    assert {f.basis for f in evidence.facts} == {"simulated"}
    assert first["rows"] + second["rows"] == read_log(ws.logs / "rehearsal").num_rows
    assert set(read_outcomes(ws.logs / "rehearsal")["basis"].to_pylist()) == {"simulated"}
    for fact in evidence.facts:
        assert all(fact.key in catalogue(lang) for lang in LANGUAGES), fact.key


@pytest.mark.xdist_group("tried")
def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    ws = accepted(tmp_path, TWO_WINDOWS)
    run_monitor(ws)
    before = {**sha256_folder(ws.windows), "evidence": sha256_file(ws.evidence / "monitor.json")}
    (ws.windows / "leftover.json").write_text("{}")
    run_monitor(ws)
    assert {**sha256_folder(ws.windows), "evidence": sha256_file(ws.evidence / "monitor.json")} == before
    assert (
        stage_evidence(ws, "monitor").fact("window.rows/changed").value
        == read_json(ws.windows / "changed.json")["rows"]
    )


@pytest.mark.xdist_group("tried")
def test_rows_that_break_the_contract_are_counted_not_lost(tmp_path: Path) -> None:
    ws = accepted(
        tmp_path, '[[window]]\nname = "w"\nshare = 1\nchanges = [{kind = "null", column = "amount", share = 0.5}]'
    )
    run_monitor(ws)
    window = read_json(ws.windows / "w.json")
    assert 0.3 * window["rows"] < window["refused"] < 0.7 * window["rows"]
    causes = {d["cause"] for d in window["diagnosis"]}
    assert "refused" in causes
    assert causes & {"feed-stopped", "gaps"}
    assert window["layers"]["model"]["labelled"] == window["rows"] - window["refused"]


@pytest.mark.xdist_group("tried")
@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (
            '[[window]]\nname="w"\nshare=1\nchanges=[{kind="null",column="amont"}]',
            "window 'w': no column 'amont'.*amount",
        ),
        ('[[window]]\nname="w"\nshare=1\nchanges=[{kind="shift",column="purpose",by=1}]', "'shift' needs a number"),
        ('[[window]]\nname="w"\nshare=0.0001', "window 'w': its share of .* rows is none"),
        ("alhpa = 0.1", "unknown key 'alhpa'; did you mean 'alpha'"),
    ],
)
def test_a_policy_that_does_not_fit_is_one_line(tmp_path: Path, policy: str, message: str) -> None:
    ws = accepted(tmp_path, policy)
    with pytest.raises(InputError, match=message):
        run_monitor(ws)
    assert not (ws.evidence / "monitor.json").exists()


@pytest.mark.xdist_group("tried")
def test_only_an_accepted_model_is_monitored(tmp_path: Path) -> None:
    ws = accepted(tmp_path, "")
    write_json(ws.decision_file, {"decision": "no-go"})
    with pytest.raises(InputError, match="the decision is 'no-go'"):
        run_monitor(ws)


CONTRACT = Contract(
    (Column("age", "number", nullable=True), Column("n", "number", integer=True), Column("paid", "category")),
    Target("y", "multiclass", ("a", "b", "c")),
)


def test_changes_keep_types_and_gaps() -> None:
    rows: list[dict[str, Any]] = [{"age": 10.0, "n": 3, "paid": "card"}, {"age": None, "n": 4, "paid": "cash"}]
    plan = WindowPlan(
        name="w",
        share=1,
        changes=(Change(kind="scale", column="n", factor=1.5), Change(kind="shift", column="age", by=2)),
    )
    found = apply_changes(rows, plan, CONTRACT)
    assert found == [{"age": 12.0, "n": 4, "paid": "card"}, {"age": None, "n": 6, "paid": "cash"}]
    assert isinstance(found[0]["n"], int)
    assert rows[0]["n"] == 3, "the given rows stay as they are"


@pytest.mark.parametrize("shares", [(0.3, 0.3, 0.4), (1.0,), (0.1, 0.2)])
@pytest.mark.parametrize("rows", [17, 352])
def test_windows_are_disjoint_slices_in_order(shares: tuple[float, ...], rows: int) -> None:
    plans = [WindowPlan(name=f"w{i}", share=s) for i, s in enumerate(shares)]
    slices = window_slices(plans, rows)
    assert [s.start for s in slices[1:]] == [s.stop for s in slices[:-1]]
    assert slices[-1].stop == round(sum(shares) * rows)


def test_a_policy_is_optional(tmp_path: Path) -> None:
    assert load_policy(tmp_path / "policy.toml") == Policy()


def log_of(task: Any, n: int, seed: int = 0) -> tuple[pa.Table, list[Any], Target]:
    "Answers that are right more often than not, and what came true."
    rng = np.random.default_rng(seed)
    ids = {"prediction_id": [f"p{i}" for i in range(n)], "unit_id": [f"u{i}" for i in range(n)], "status": ["ok"] * n}
    if task == "regression":
        value = rng.normal(size=n)
        table = pa.table({**ids, "label": pa.nulls(n, pa.string()), "value": value})
        return table, (value + rng.normal(0, 0.5, n)).tolist(), Target("y", task)
    classes = ("a", "b", "c") if task == "multiclass" else ("no", "yes")
    share = rng.dirichlet(np.ones(len(classes)), n)
    truth = [classes[rng.choice(len(classes), p=p)] for p in share]
    shares = {f"p.{c}": share[:, k] for k, c in enumerate(classes)}
    label = [classes[k] for k in share.argmax(axis=1)]
    table = pa.table({**ids, **shares, "label": label, "value": pa.nulls(n, pa.float64())})
    return table, truth, Target("y", task, classes, classes[-1] if task == "binary" else "")


def outcomes_of(truth: list[Any], by: str = "prediction_id") -> pa.Table:
    "All outcomes, reported in order."
    n, numeric = len(truth), isinstance(truth[0], float)
    ids = {"prediction_id": [f"p{i}" for i in range(n)], "unit_id": [f"u{i}" for i in range(n)]}
    return pa.table(
        {
            **{name: v if name == by else pa.nulls(n, pa.string()) for name, v in ids.items()},
            "kind": ["label"] * n,
            "value": [str(t) for t in truth],
            "number": truth if numeric else pa.nulls(n, pa.float64()),
            "received": list(range(n)),
        }
    )


@pytest.mark.parametrize(
    ("task", "metric", "kept", "broken"),
    [("binary", "roc_auc", 0.6, 0.99), ("multiclass", "accuracy", 0.5, 0.99), ("regression", "r2", 0.5, 0.99)],
)
def test_the_promise_is_kept_broken_or_open(task: str, metric: str, kept: float, broken: float) -> None:
    log, truth, target = log_of(task, 600)
    outcomes = outcomes_of(truth)
    assert realise(log, outcomes, target, "w", metric, kept).state == "go"
    assert realise(log, outcomes, target, "w", metric, broken).state == "no-go"
    few = realise(log, outcomes.slice(0, 0), target, "w", metric, kept)
    assert (few.state, few.labelled, few.answered) == ("not-assessed", 0, 600)
    found = realise(log, outcomes, target, "w", metric, kept)
    assert found.facts[0].id == f"window.{metric}/w"
    assert (found.counts is not None) == (task == "binary")


def test_three_labels_break_no_promise_that_needs_more() -> None:
    log, truth, target = log_of("regression", 600)
    wrong = outcomes_of([-1000.0 * (i + 1) for i in range(600)])
    assert realise(log, wrong, target, "w", "r2", 0.5).state == "no-go"
    few = realise(log, wrong.slice(0, 3), target, "w", "r2", 0.5)
    assert (few.labelled, few.state) == (3, "conditional")
    assert realise(log, outcomes_of(truth).slice(0, 12), target, "w", "mae", 1e9).state == "conditional"
    assert realise(log, outcomes_of(truth), target, "w", "mae", 1e9).state == "go"


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_outcomes_join_by_unit_and_the_latest_counts(task: str) -> None:
    log, truth, target = log_of(task, 300)
    metric = "roc_auc" if task == "binary" else "r2"
    by_id = realise(log, outcomes_of(truth), target, "w", metric, 0.5)
    by_unit = realise(log, outcomes_of(truth, "unit_id"), target, "w", metric, 0.5)
    wrong = [-1000.0] * 300 if task == "regression" else ["no"] * 300
    corrected = pa.concat_tables([outcomes_of(wrong), outcomes_of(truth)])
    corrected = corrected.set_column(corrected.column_names.index("received"), "received", [list(range(600))])
    assert by_id.facts == by_unit.facts == realise(log, corrected, target, "w", metric, 0.5).facts


def test_an_outcome_that_is_no_class_is_not_counted() -> None:
    log, truth, target = log_of("binary", 200)
    odd = ["maybe" if i % 4 == 0 else t for i, t in enumerate(truth)]
    assert realise(log, outcomes_of(odd), target, "w", "roc_auc", 0.5).labelled == 150


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_answers_are_compared_like_inputs(task: str) -> None:
    accepted_answers, _, target = log_of(task, 2_000)
    contract = Contract((Column("age", "number"),), target)
    rng = np.random.default_rng(1)
    inputs = build_profile({"age": rng.normal(size=3_000).astype("f4")}, contract)
    reference = with_answers(inputs, accepted_answers, target)

    def verdict(log: pa.Table) -> tuple[str, ...]:
        from mlops_nb.monitoring.drift import compare_profiles

        log = log.append_column("in.age", pa.array(rng.normal(size=log.num_rows)))
        return compare_profiles(reference, window_profile(log, reference, contract)).drifted

    assert verdict(log_of(task, 500, 5)[0]) == ()
    moved = log_of(task, 500, 6)[0]
    if task == "regression":
        moved = moved.set_column(moved.column_names.index("value"), "value", [np.asarray(moved["value"]) + 1])
    else:
        sure = np.full(500, 0.98)
        name = f"p.{target.classes[-1]}"
        moved = moved.set_column(moved.column_names.index(name), name, [sure])
    assert verdict(moved)
    none = moved.set_column(moved.column_names.index("status"), "status", [["rejected"] * 500])
    assert verdict(none) == ()
    assert set(answer_columns(moved, target)) <= set(reference.columns)


def test_every_promised_metric_has_a_label() -> None:
    for lang in LANGUAGES:
        assert not [m for m in METRICS if f"fact.window.{m}" not in catalogue(lang)]
