"Promises that follow the result are refused; whatever else is changed is shown."

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from mlops_nb.charter import changed_keys, freeze, frozen_terms
from mlops_nb.core.errors import Refused
from mlops_nb.core.workspace import Evidence, Workspace, stage_evidence, write_evidence
from mlops_nb.ledger import Ledger
from mlops_nb.poc.amendments import Change, amendments, check_promises, first_run, tightens
from mlops_nb.poc.gate import run_gate
from mlops_nb.poc.scorecard import run_score
from tests.scored_workspace import make

RUN = {"seed": 0, "model": {"roc_auc": 0.841, "accuracy": 0.75}}


def ran(ws: Workspace, charter: str, run: dict[str, Any] | None = None) -> None:
    "The stage poc leaves its evidence and its entry."
    told = run or RUN
    seeds = [{"path": "runs/seed-0/predictions.parquet", **told}]
    before = stage_evidence(ws, "poc")
    write_evidence(ws, Evidence("poc", before.facts, {"seeds": seeds}))
    Ledger(ws.ledger_file).append("poc.run", "seed-0", {**told, "charter": charter})


def frozen(ws: Workspace, old: str, new: str, actor: str = "C. Petit") -> str:
    "Amend the charter."
    assert old in ws.charter_file.read_text()
    ws.charter_file.write_text(ws.charter_file.read_text().replace(old, new))
    return freeze(ws, actor).sha256


def test_a_threshold_lowered_after_the_run_is_refused_by_score_and_gate(tmp_path: Path) -> None:
    ws = make(tmp_path)
    ran(ws, Ledger(ws.ledger_file).entries("charter.frozen")[0].subject)
    run_score(ws)
    again = frozen(ws, "threshold = 0.75", "threshold = 0.70")
    ran(ws, again)
    for stage in (run_score, run_gate):
        with pytest.raises(Refused, match=r"criteria\.performance\.threshold was 0\.75 and is 0\.7; restore"):
            stage(ws)
    restored = frozen(ws, "threshold = 0.70", "threshold = 0.75")
    ran(ws, restored)
    run_score(ws)
    assert run_gate(ws).state == "go"


def test_what_was_amended_before_the_run_stands(tmp_path: Path) -> None:
    ws = make(tmp_path)
    ran(ws, frozen(ws, "threshold = 0.75", "threshold = 0.70"))
    run_score(ws)
    (found,) = amendments(Ledger(ws.ledger_file).entries(), stage_evidence(ws, "poc"))
    assert (found.actor, found.late) == ("C. Petit", False)
    assert found.changes == (Change("criteria.performance.threshold", 0.75, 0.7),)


def test_another_model_may_be_judged_by_the_new_promise(tmp_path: Path) -> None:
    ws = make(tmp_path)
    ran(ws, "a" * 64)
    again = frozen(ws, "threshold = 0.75", "threshold = 0.70")
    ran(ws, again, {"seed": 0, "model": {"roc_auc": 0.8, "accuracy": 0.7}})
    run_score(ws)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("threshold = 0.75", "threshold = 0.76"),
        ("freshness_days = 30", "freshness_days = 20"),
        ('name = "mini"', 'name = "mini"\nstatement = "who leaves"'),
        ("[criteria.fairness]", "[criteria.latency]\np99_ms = 100\n[criteria.fairness]"),
    ],
)
def test_what_is_stricter_or_no_promise_is_shown_and_accepted(tmp_path: Path, old: str, new: str) -> None:
    ws = make(tmp_path)
    ran(ws, "a" * 64)
    ran(ws, frozen(ws, old, new))
    run_score(ws)
    (found,) = amendments(Ledger(ws.ledger_file).entries(), stage_evidence(ws, "poc"))
    assert found.late
    assert len(found.changes) == 1


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("freshness_days = 30", "freshness_days = 60", "data_quality.freshness_days"),
        ('subgroups = ["sex"]', "subgroups = []", "fairness.subgroups"),
        ('metric = "roc_auc"', 'metric = "accuracy"', "performance.metric"),
        (
            "[criteria.fairness]",
            "[criteria.reproducibility]\nspread = 0.05\n[criteria.fairness]",
            "reproducibility.spread",
        ),
        ("[criteria.fairness]", "[criteria.fairness]\nrequired = false", "fairness.required"),
        ('vulnerabilities = "known.json"', "", "security.vulnerabilities"),
    ],
)
def test_every_kind_of_loosening_is_named(tmp_path: Path, old: str, new: str, key: str) -> None:
    ws = make(tmp_path)
    ran(ws, "a" * 64)
    frozen(ws, old, new)
    with pytest.raises(Refused, match=re.escape(f"criteria.{key} was")):
        run_score(ws)


def test_every_promise_of_the_charter_has_a_direction(tmp_path: Path) -> None:
    "A number that somebody adds to the charter and nobody gives a direction is refused whichever way it moves."
    from mlops_nb.charter import load_charter

    ws = make(tmp_path)
    criteria = load_charter(ws.charter_file).criteria.model_dump(mode="json")
    numbers = [
        k for c in criteria.values() for k, v in c.items() if isinstance(v, int | float) and not isinstance(v, bool)
    ]
    assert numbers
    for key in numbers:
        up, down = (tightens(Change(key, 1.0, v), "roc_auc") for v in (2.0, 0.5))
        assert up != down, key


def test_the_ledger_says_field_by_field_what_changed_and_who_did_it(tmp_path: Path) -> None:
    ws = make(tmp_path)
    frozen(ws, 'owner = "A. Martin"', 'owner = "B. Durand"', "bob")
    ws.approvers_file.write_text("# nobody\n")
    freeze(ws, "eve")
    first, second, third = Ledger(ws.ledger_file).entries("charter.frozen")
    assert "changes" not in first.data
    assert second.data["changes"] == [{"key": "problem.owner", "before": "A. Martin", "after": "B. Durand"}]
    assert (second.actor, [c["key"] for c in third.data["changes"]]) == ("bob", ["approvers.toml"])


def test_an_older_ledger_is_compared_as_far_as_it_goes(tmp_path: Path) -> None:
    "Before, an entry held the criteria only."
    ws = make(tmp_path)
    whole = Ledger(ws.ledger_file).entries("charter.frozen")[0]
    ws.ledger_file.unlink()
    old = {k: whole.data[k] for k in ("draft", "approvers_sha256", "thresholds")}
    Ledger(ws.ledger_file).append("charter.frozen", whole.subject, old, "alice")
    frozen(ws, "threshold = 0.75", 'threshold = 0.70\nwhy = "x"')
    found = Ledger(ws.ledger_file).entries("charter.frozen")[-1].data["changes"]
    assert [c["key"] for c in found] == ["criteria.performance.threshold", "criteria.performance.why"]
    assert "criteria" in frozen_terms(old)


def test_a_run_is_known_by_its_results(tmp_path: Path) -> None:
    ws = make(tmp_path)
    assert first_run(Ledger(ws.ledger_file).entries(), stage_evidence(ws, "poc")) is None
    for n in range(3):
        ran(ws, f"{n}" * 64)
    found = first_run(Ledger(ws.ledger_file).entries(), stage_evidence(ws, "poc"))
    assert found is not None
    assert found.data["charter"] == "0" * 64
    check_promises(ws, freeze(ws))


def test_nested_documents_are_compared_key_by_key() -> None:
    before, after = {"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"b": 1, "c": 3}, "d": [1, 2]}
    assert [(c["key"], c["after"]) for c in changed_keys(before, after)] == [("a.c", 3), ("d", [1, 2])]
    assert changed_keys(before, before) == []
