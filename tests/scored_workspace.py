"A workspace whose stages have left good evidence, so that one defect at a time can be put into it."

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mlops_nb.charter import freeze
from mlops_nb.core.facts import Fact
from mlops_nb.core.files import write_json
from mlops_nb.core.workspace import Evidence, Workspace, write_evidence
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.poc.case import predictions_file

CHARTER = """
status = "reviewed"
[problem]
name = "mini"
owner = "A. Martin"
[data]
file = "data/mini.csv"
target = "y"
task = "binary"
positive = "yes"
[criteria.performance]
metric = "roc_auc"
threshold = 0.75
[criteria.data_quality]
freshness_days = 30
[criteria.fairness]
subgroups = ["sex"]
[criteria.security]
vulnerabilities = "known.json"
"""
QUALITY = {
    "quality.completeness": 0.99,
    "quality.completeness/x": 0.98,
    "quality.duplicates": 0.0,
    "quality.leakage": 0.0,
    "quality.freshness_days": 3,
    "quality.dominance": 0.3,
    "quality.dominance/x": 0.3,
}
TRIAL = {
    "latency.p50": 3.0,
    "latency.p99": 12.0,
    "latency.rate": 100.0,
    "latency.answered": 1.0,
    "integration.pass_rate": 1.0,
    "rollback.duration": 0.3,
}
NAMES = np.array(["no", "yes"], dtype=object)


@dataclass
class Story:
    "What a workspace is made to tell."

    rows: int = 1500
    charter: str = CHARTER
    quality: Mapping[str, float | None] = field(default_factory=dict)  # overrides; None leaves a figure out
    trial: Mapping[str, float | None] = field(default_factory=dict)
    seeds: tuple[float, ...] = (0.841, 0.842, 0.8405)
    code: str = "x = 1"
    approvers: str = ""
    seed: int = 0


def answers(story: Story) -> tuple[pd.DataFrame, pd.DataFrame]:
    "Rows, and what a calibrated model answered to them."
    rng = np.random.default_rng(story.seed)
    p = rng.uniform(size=story.rows)
    y = (rng.uniform(size=story.rows) < p).astype(int)
    frame = pd.DataFrame({"x": p, "sex": rng.choice(["f", "m"], story.rows), "y": NAMES[y]})
    return frame, pd.DataFrame(
        {"row": range(story.rows), "label": NAMES[(p > 0.5).astype(int)], "p.no": 1 - p, "p.yes": p}
    )


def _facts(values: Mapping[str, float | None], over: Mapping[str, float | None]) -> tuple[Fact, ...]:
    return tuple(Fact(k, v, low=v, high=v, n=600) for k, v in {**values, **over}.items() if v is not None)


def make(folder: Path, story: Story | None = None) -> Workspace:
    "Write the evidence of every stage before `score`, and freeze the charter."
    told, ws = story or Story(), Workspace(folder)
    for path in (ws.splits, ws.evidence, ws.notebook.parent, ws.runs / "seed-0"):
        path.mkdir(parents=True)
    inputs = (Column("x", "number"), Column("sex", "category", levels=("f", "m")))
    Contract(inputs, Target("y", "binary", ("no", "yes"), "yes")).save(ws.contract_file)
    ws.charter_file.write_text(told.charter)
    ws.approvers_file.write_text(told.approvers)
    freeze(ws, "C. Petit")
    write_json(ws.root / "known.json", {"advisories": []})
    write_json(ws.notebook, {"cells": [{"cell_type": "code", "id": "a", "source": [told.code]}]})
    frame, predictions = answers(told)
    for name in ("train", "valid", "test"):
        frame.to_parquet(ws.split(name))
    predictions.to_parquet(predictions_file(ws))
    simple = np.where(frame["x"] > 0.5, 0.7, 0.3)
    both = predictions.assign(**{"baseline.p.no": 1 - simple, "baseline.p.yes": simple})
    both.to_parquet(ws.runs / "seed-0" / "predictions.parquet")
    write_evidence(ws, Evidence("data", _facts(QUALITY, told.quality)))
    runs = tuple(Fact(f"poc.roc_auc/seed-{k}", v) for k, v in enumerate(told.seeds))
    write_evidence(ws, Evidence("poc", runs, {"seeds": [{"path": "runs/seed-0/predictions.parquet"}]}))
    write_evidence(ws, Evidence("export", data={"candidate": {"id": "b" * 64, "path": "bundles/mini-bbbbbbbbbbbb"}}))
    write_evidence(ws, Evidence("trial", _facts(TRIAL, told.trial)))
    return ws
