"""A workspace as the stages leave it, with evidence written by hand: what the report pages are tried on."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from mlops_nb.charter import freeze_file, load_frozen
from mlops_nb.core.facts import Fact
from mlops_nb.core.files import write_json
from mlops_nb.core.keys import new_key_pair
from mlops_nb.core.messages import Message
from mlops_nb.core.workspace import Evidence, Workspace, write_evidence
from mlops_nb.ledger import Ledger
from mlops_nb.poc.approval import decision_id
from mlops_nb.reporting import runner
from mlops_nb.reporting.page import Piece
from mlops_nb.reporting.publishing import template_file

AS_OF = "2026-11-20T10:00:00Z"
CANDIDATE = "c" * 64

CHARTER = """
status = "reviewed"
[problem]
name = "{name}"
statement = "Which customers are about to leave?"
intended_use = "Rank customers for the retention team; a person decides."
owner = "A. Martin"
lang = "{lang}"
[data]
file = "data/churn.csv"
target = "churn"
task = "binary"
[criteria.performance]
threshold = 0.8
"""


def score_facts() -> tuple[Fact, ...]:
    return (
        Fact("performance.roc_auc", 0.845, low=0.821, high=0.869, level=0.95, n=1056, threshold=0.8, state="go"),
        Fact("performance.roc_auc/baseline", 0.792, low=0.763, high=0.818, level=0.95, n=1056),
        Fact("performance.recall", 0.533, low=0.47, high=0.595, level=0.95, n=280),
        Fact("quality.completeness", 0.9983, n=7043, threshold=0.95, state="go"),
        Fact("reproducibility.spread", 0.0021, n=3, threshold=0.02, state="go"),
        Fact("latency.p99", 8.42, "ms", low=7.9, high=11.2, level=0.95, n=600, threshold=200.0, state="go"),
        Fact("integration.pass_rate", 1.0, n=6, threshold=1.0, state="go"),
        Fact("fairness.gap/senior_citizen", 0.042, low=0.0, high=0.113, n=1056, threshold=0.1, state="conditional"),
        Fact("fairness.recall_gap/senior_citizen", 0.21, low=0.1, high=0.31, n=280),
        Fact("security.high", 0, "1", threshold=0.0, state="conditional"),
        Fact("rollback.duration", 1.7, "s", n=1, threshold=300.0, state="go"),
    )


CARD = {
    "performance": "performance.roc_auc",
    "data_quality": "quality.completeness",
    "reproducibility": "reproducibility.spread",
    "latency": "latency.p99",
    "integration": "integration.pass_rate",
    "fairness": "fairness.gap/senior_citizen",
    "security": "security.high",
    "rollback": "rollback.duration",
}


def card(facts: tuple[Fact, ...]) -> list[dict[str, Any]]:
    by_id = {f.id: f for f in facts}
    reason = Message("core.done", {"stage": "trial", "seconds": 1.25}).to_dict()
    return [
        {"id": c, "state": by_id[f].state, "required": c != "rollback", "facts": [f], "reason": reason}
        for c, f in CARD.items()
    ]


def reporting_workspace(root: Path, name: str = "churn", lang: str = "en", ledger: bool = True) -> Workspace:
    "A workspace that all three reports can be made of."
    ws = Workspace(root)
    ws.root.mkdir(parents=True, exist_ok=True)
    ws.charter_file.write_text(CHARTER.format(name=name, lang=lang))
    freeze_file(ws)
    facts = score_facts()
    write_evidence(ws, Evidence("score", facts, {"criteria": card(facts)}, {"splits/test.parquet": "a" * 64}))
    snapshot = {"id": "d" * 64, "rows": 7043, "columns": 20}
    left_out = [{"name": "customer_id", "reason": "identifier"}]
    write_evidence(
        ws,
        Evidence(
            "data", (Fact("quality.completeness/total_charges", 0.9984),), {"snapshot": snapshot, "excluded": left_out}
        ),
    )
    parity = (Fact("export.parity_max_abs", 3.2e-7, n=512), Fact("export.rows", 512, "rows"))
    bundle = {"id": CANDIDATE, "path": f"bundles/{name}-{CANDIDATE[:12]}"}
    write_evidence(ws, Evidence("export", parity, {"candidate": bundle}))
    write_evidence(ws, Evidence("trial", (Fact("trial.requests", 600, "1"), Fact("latency.p50", 2.31, "ms", n=600))))
    write_evidence(ws, Evidence("poc", tuple(Fact(f"poc.roc_auc/seed-{s}", 0.84 + s / 1000) for s in range(3))))
    condition = {
        "message": Message("core.done", {"stage": "x", "seconds": 3}).to_dict(),
        "owner": "A. Martin",
        "due": "2026-12-01",
    }
    reasons = [Message("core.done", {"stage": "score", "seconds": 2.5}).to_dict()]
    write_json(ws.decision_file, {"v": 1, "decision": "conditional", "reasons": reasons, "conditions": [condition]})
    if ledger:
        book = Ledger(ws.ledger_file)
        book.append("charter.frozen", "0" * 64, {}, "alice")
        book.append("decision.made", CANDIDATE, {}, "alice")
        book.append("version.moved", CANDIDATE, {"to": "staging"}, "alice")
    return ws


def drift_verdict(columns: list[str], drifted: tuple[str, ...] = (), rows: int = 300) -> dict[str, Any]:
    "What `monitoring.drift` says of a window."
    features = [
        {
            "name": name,
            "kind": "number",
            "state": "drift" if name in drifted else "stable",
            "method": "KS",
            "statistic": 1.0 + i / 100,
            "effect": 0.31 if name in drifted else 0.011 + i / 10000,
            "effect_low": 0.25 if name in drifted else 0.0,
            "effect_high": 0.37 if name in drifted else 0.061 + i / 10000,
            "p_value": 1e-12 if name in drifted else 0.3 + i / 1000,
            "p_adjusted": 1e-10 if name in drifted else 0.6 + i / 1000,
            "n_reference": 4225,
            "n_current": rows,
            "about": "median",
            "before": 64.0 + i,
            "after": 77.0 + i if name in drifted else 64.5 + i,
        }
        for i, name in enumerate(columns)
    ]
    rules = {"alpha": 0.05, "floor": 0.02, "visible": 0.2, "rows_reference": 4225, "rows_current": rows}
    return {"verdict": "drift" if drifted else "stable", "features": features, "drifted": list(drifted), **rules}


def add_monitoring(ws: Workspace, columns: list[str]) -> None:
    "Three windows, the last two changed on purpose."
    last = columns[-1]
    windows: list[dict[str, Any]] = [
        {"name": "w1", "state": "stable", "drift": drift_verdict(columns)},
        {
            "name": "w2",
            "state": "drift",
            "drift": drift_verdict(columns, (last,), 290),
            "changes": [{"kind": "scale", "column": last, "factor": 1.2}],
            "diagnosis": [{"cause": "range", "action": "wait", "column": last}],
        },
        {"name": "w3", "state": "inconclusive", "drift": drift_verdict(columns[:2], (), 12)},
    ]
    facts = []
    for n, window in enumerate(windows):
        name = window["name"]
        write_json(ws.windows / f"{name}.json", {"basis": "simulated", "rows": 300 - n, **window})
        value = 0.84 - n / 20
        facts.append(
            Fact(
                f"window.auc/{name}",
                value,
                low=value - 0.06,
                high=value + 0.05,
                level=0.95,
                n=300 - n,
                basis="simulated",
            )
        )
        facts += [
            Fact(f"window.{k}/{name}", v - n, "1", n=300 - n, basis="simulated")
            for k, v in (("actions", 40), ("hits", 25))
        ]
    listed = [{"name": w["name"], "state": w["state"]} for w in windows]
    write_evidence(ws, Evidence("monitor", tuple(facts), {"windows": listed}))


def add_value(ws: Workspace) -> None:
    "A return that the interval does not settle."
    shared: dict[str, Any] = {"level": 0.912, "n": 2, "basis": "simulated"}
    facts = (
        Fact("value.cost_per_1000", 0.0042, "EUR"),
        Fact("value.cost_monthly", 5200.0, "EUR", basis="assumed"),
        Fact("roi.value_monthly", 9100.5, "EUR", 4100.0, 14050.0, **shared),
        Fact("roi.cost_monthly", 5200.0, "EUR", n=2, basis="simulated"),
        Fact("roi.net_monthly", 3900.5, "EUR", -1100.0, 8850.0, threshold=0.0, **shared),
        Fact("roi.ratio", 1.75, "", 0.79, 2.70, threshold=1.0, state="extend", **shared),
        Fact("roi.decision", "extend", state="extend", basis="simulated"),
        Fact("projection.ratio", 1.9, "", 0.9, 2.9, level=0.912, basis="assumed"),
        Fact("roi.wrong_retire", 0.021, basis="simulated"),
    )
    data = {
        "decision": "extend",
        "basis": "simulated",
        "currency": "EUR",
        "reason": Message("roi.reason.holds_above", {"level": 91.2}).to_dict(),
        "windows": [{"name": "w1", "value": 9400.0, "cost": 5200.0, "net": 4200.0}],
        "costs": {"team": 4800.0, "hosting": 400.0},
        "tornado": [{"name": "uptake", "low": -2100.0, "high": 9800.0, "at": [0.1, 0.3]}],
        "break_even": {"uptake": 0.14, "gain": 31.5},
    }
    write_evidence(ws, Evidence("value", facts, data))
    write_json(ws.value_file, {"v": 1})


def full_workspace(root: Path, columns: list[str] | None = None, **options: Any) -> Workspace:
    "A workspace with all three reports' material."
    ws = reporting_workspace(root, **options)
    add_monitoring(ws, columns or ["answer.p.Yes", "tenure", "contract", "monthly_charges"])
    add_value(ws)
    return ws


def approvable(ws: Workspace, environ: dict[str, str] | None = None, key: str = "", name: str = "B. Reader") -> str:
    "Give a workspace an approver and a decision that can be signed; the decision's id."
    key = key or new_key_pair(name, environ)
    ws.approvers_file.write_text(f'[[approver]]\nname = "{name}"\nrole = "risk"\npublic_key = "{key}"\n')
    frozen = freeze_file(ws)
    said = {"bundle": CANDIDATE, "charter": {"sha256": frozen.sha256}, "expires": "2099-12-31", "conditions": []}
    decision = {**json.loads(ws.decision_file.read_text()), **said}
    decision["id"] = decision_id(decision)
    write_json(ws.decision_file, decision)
    assert not load_frozen(ws).draft
    Ledger(ws.ledger_file).append("decision.made", decision["id"], {}, "alice")
    return str(decision["id"])


def shown_by(template: Path, parameters: dict[str, Any]) -> dict[str, list[Any]]:
    "Cell id to what the cells of a template show, run in this process."
    cells = json.loads(template.read_text())["cells"]
    scope: dict[str, Any] = {}
    shown: dict[str, list[Any]] = {}
    for cell in (c for c in cells if c["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, cell["id"], "exec"), scope)
        if "parameters" in cell["metadata"].get("tags", ()):
            scope |= parameters
        if isinstance(last, ast.Expr):
            shown[cell["id"]] = [eval(compile(ast.Expression(last.value), cell["id"], "eval"), scope)]
    return shown


def without_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    "Reports run their cells in this process: for tests that are not about kernels."

    def execute(template: Path, parameters: dict[str, Any], cwd: Path, limits: object) -> dict[str, Any]:
        shown = shown_by(template, {**parameters, "workspace": str(cwd)})
        notebook: dict[str, Any] = json.loads(template.read_text())
        for cell in (c for c in notebook["cells"] if c["cell_type"] == "code"):
            bundles = [v._repr_mimebundle_() for v in shown.get(cell["id"], ()) if hasattr(v, "_repr_mimebundle_")]
            outputs = [
                {"output_type": "execute_result", "execution_count": 1, "data": b, "metadata": {}} for b in bundles
            ]
            cell |= {"outputs": json.loads(json.dumps(outputs)), "execution_count": 1}
        return notebook

    monkeypatch.setattr(runner, "execute", execute)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    without_kernel(monkeypatch)


def pieces_in_process(kind: str, ws: Workspace, **parameters: str) -> list[Piece]:
    "What the cells of a template show, without a kernel."
    given = {"workspace": str(ws.root), "as_of": AS_OF, **parameters}
    values = [v for found in shown_by(template_file(kind), given).values() for v in found]
    return [v for v in values if isinstance(v, Piece)]
