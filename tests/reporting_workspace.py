"""A workspace as the stages leave it, with evidence written by hand: what the report pages are tried on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlops_nb.core.facts import Fact
from mlops_nb.core.files import write_json
from mlops_nb.core.messages import Message
from mlops_nb.core.workspace import Evidence, Workspace, write_evidence
from mlops_nb.ledger import Ledger

AS_OF = "2026-11-20T10:00:00Z"
CANDIDATE = "c" * 64

CHARTER: dict[str, Any] = {
    "problem": {
        "name": "churn",
        "statement": "Which customers are about to leave?",
        "intended_use": "Rank customers for the retention team; a person decides.",
        "owner": "A. Martin",
        "risk": "limited",
        "lang": "en",
    },
    "data": {"file": "data/churn.csv", "target": "churn", "task": "binary"},
    "costs": {"currency": "EUR"},
    "criteria": {},
}


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
    charter = {**CHARTER, "problem": {**CHARTER["problem"], "name": name, "lang": lang}}
    write_json(ws.frozen_file, {"v": 1, "charter": charter, "draft": False, "approvers_sha256": "", "sha256": "0" * 64})
    (ws.root / "charter.toml").write_text("")
    facts = score_facts()
    write_evidence(ws, Evidence("score", facts, {"criteria": card(facts)}, {"splits/test.parquet": "a" * 64}))
    snapshot = {"id": "d" * 64, "rows": 7043, "columns": 20}
    left_out = [{"name": "customer_id", "reason": "identifier"}]
    write_evidence(ws, Evidence("data", (Fact("quality.completeness/total_charges", 0.9984),), {"snapshot": snapshot, "excluded": left_out}))
    parity = (Fact("export.parity_max_abs", 3.2e-7, n=512), Fact("export.rows", 512, "rows"))
    bundle = {"id": CANDIDATE, "path": f"bundles/{name}-{CANDIDATE[:12]}"}
    write_evidence(ws, Evidence("export", parity, {"candidate": bundle}))
    write_evidence(ws, Evidence("trial", (Fact("trial.requests", 600, "1"), Fact("latency.p50", 2.31, "ms", n=600))))
    write_evidence(ws, Evidence("poc", tuple(Fact(f"poc.roc_auc/seed-{s}", 0.84 + s / 1000) for s in range(3))))
    condition = {"message": Message("core.done", {"stage": "x", "seconds": 3}).to_dict(), "owner": "A. Martin", "due": "2026-12-01"}
    reasons = [Message("core.done", {"stage": "score", "seconds": 2.5}).to_dict()]
    write_json(ws.decision_file, {"v": 1, "decision": "conditional", "reasons": reasons, "conditions": [condition]})
    if ledger:
        book = Ledger(ws.ledger_file)
        book.append("charter.frozen", "0" * 64, {}, "alice")
        book.append("decision.made", CANDIDATE, {}, "alice")
        book.append("version.moved", CANDIDATE, {"to": "staging"}, "alice")
    return ws
