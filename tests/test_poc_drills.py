"The drill of a running server in the gate: it is evidence, it can only make the criterion harder, and evidence that was lost is not forgotten."

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlops_nb.core.workspace import Workspace, stage_evidence
from mlops_nb.lifecycle.stages import record_stage
from mlops_nb.poc.case import open_case
from mlops_nb.poc.criteria import rollback
from mlops_nb.poc.gate import run_gate
from mlops_nb.poc.scorecard import run_score
from mlops_nb.poc.verdict import GO, NO_GO, NOT_ASSESSED, Verdict
from mlops_nb.poc.verification import verify_decision
from mlops_nb.rollout import record_drill
from mlops_nb.trial.drill import Drill, Move
from tests.scored_workspace import Story, make

OURS, OTHER = "b" * 12, "c" * 12


def drilled(ws: Workspace, seconds: float, ours: str = OURS) -> Path:
    "A drill from a version to another and back; the file that stays."
    there, back = Move(ours, OTHER, seconds, 0.1, 40, 0), Move(OTHER, ours, 0.2, 0.1, 40, 0)
    return ws.root / record_drill(ws, Drill((there, back)), 300.0).path


def judged(ws: Workspace) -> Verdict:
    case = open_case(ws)
    return rollback(case.charter, case.evidence, case.drilled).criterion.verdict


def test_a_drill_is_evidence_and_its_repetition_leaves_the_decision_alone(tmp_path: Path) -> None:
    ws = make(tmp_path / "mini", Story(trial={"rollback.duration": None}))
    assert judged(ws).state == NOT_ASSESSED
    first = drilled(ws, 0.4)
    run_score(ws)
    run_gate(ws)
    record_stage(ws, "gate")
    score = stage_evidence(ws, "score")
    assert score.fact("rollback.duration/drill").state == GO
    assert score.fact("rollback.duration/drill").source.path == ws.relative(first)
    drilled(ws, 0.9)
    assert judged(ws).reason.args["value"] == 0.4
    assert verify_decision(ws).exit_code == 0
    drilled(ws, 400.0)
    assert judged(ws).state == NO_GO
    first.write_bytes(first.read_bytes().replace(b"0.4", b"0.3"))
    assert verify_decision(ws).exit_code != 0


@pytest.mark.parametrize(
    ("ours", "state", "value", "note"),
    [(OURS, NO_GO, 400.0, ""), ("d" * 12, GO, 0.3, "score.drill.other"), ("", GO, 0.3, "score.drill.unknown")],
    ids=["ours", "of other versions", "foreign"],
)
def test_a_slow_drill_counts_if_it_is_ours(tmp_path: Path, ours: str, state: str, value: float, note: str) -> None:
    ws = make(tmp_path / "mini")
    if ours:
        drilled(ws, 400.0, ours)
    else:
        drilled(Workspace(tmp_path / "else"), 400.0)
        shutil.copy(tmp_path / "else" / "evidence" / "drill.json", ws.evidence)
    assert (judged(ws).state, judged(ws).reason.args["value"]) == (state, value)
    assert [n.key for n in open_case(ws).drilled.notes] == ([note] if note else [])


def test_a_drill_whose_evidence_was_lost_is_not_forgotten(tmp_path: Path) -> None:
    ws = make(tmp_path / "mini")
    drilled(ws, 400.0).unlink()
    (ws.evidence / "drill.json").unlink()
    assert (judged(ws).state, judged(ws).reason.key) == (NOT_ASSESSED, "score.drill.lost")
