"One changed byte in any file behind a decision is found, and shown where."

from __future__ import annotations

import random
import re
import shutil
from datetime import date
from pathlib import Path

import pytest

from mlops_nb.core.hashing import sha256_file
from mlops_nb.core.keys import new_key_pair
from mlops_nb.core.workspace import Evidence, Workspace, stage_evidence, write_evidence
from mlops_nb.ledger import Ledger
from mlops_nb.lifecycle.stages import record_stage
from mlops_nb.poc.approval import approve_decision
from mlops_nb.poc.gate import files_behind, run_gate
from mlops_nb.poc.pieces import first_wrong, pieces_of
from mlops_nb.poc.scorecard import run_score
from mlops_nb.poc.verification import first_difference, verify_decision, verify_workspace
from tests.scored_workspace import CHARTER, Story, make

DAY = date(2026, 11, 20)
NAMES = (
    "charter.frozen.json",
    "contract.json",
    "evidence/data.json",
    "evidence/poc.json",
    "evidence/export.json",
    "evidence/trial.json",
    "evidence/score.json",
    "evidence/gate.json",
    "evidence/trial.predictions.parquet",
    "splits/train.parquet",
    "splits/valid.parquet",
    "splits/test.parquet",
    "runs/seed-0/predictions.parquet",
    "bundles/mini-bbbbbbbbbbbb/manifest.json",
    "bundles/mini-bbbbbbbbbbbb/model.onnx",
    "known.json",
    "decision.json",
    "ledger.jsonl",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    "A decided workspace with a bundle, nothing of it touched."
    ws = make(tmp_path_factory.mktemp("decided") / "ws")
    bundle = ws.bundles / "mini-bbbbbbbbbbbb"
    bundle.mkdir(parents=True)
    (bundle / "manifest.json").write_text('{"name": "mini"}\n')
    (bundle / "model.onnx").write_bytes(random.Random(0).randbytes(9_000))
    data = stage_evidence(ws, "data")
    splits = ws.sources(*(ws.split(s) for s in ("train", "valid", "test")))
    write_evidence(ws, Evidence("data", data.facts, {"split_sha256": splits}))
    run_score(ws)
    run_gate(ws, DAY)
    record_stage(ws, "gate")
    return ws


def test_an_untouched_decision_verifies(whole: Workspace) -> None:
    found = verify_workspace(whole)
    assert found.exit_code == 0, found.text()
    for lang in ("en", "fr"):
        assert "gate." not in found.text(lang)


def test_every_file_behind_the_decision_is_tried(whole: Workspace) -> None:
    "The list above is the whole list: nothing that the gate rests on is left out of these tests."
    assert set(files_behind(whole)) | {"evidence/gate.json", "decision.json", "ledger.jsonl"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", [0.83, *(pytest.param(p, marks=pytest.mark.slow) for p in (0.0, 0.37, 0.5))])
def test_one_changed_byte_is_found_and_named(whole: Workspace, tmp_path: Path, name: str, place: float) -> None:
    ws = Workspace(shutil.copytree(whole.root, tmp_path / "ws"))
    data = bytearray((ws.root / name).read_bytes())
    at = int(place * len(data))
    data[at] ^= 1
    (ws.root / name).write_bytes(bytes(data))
    found = verify_workspace(ws)
    assert found.exit_code == 1
    lines = [line for line in found.text().splitlines() if name in line]
    assert any(re.search(rf"\bbyte {at}\b", line) for line in lines), f"byte {at}\n{found.text()}"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_file_cut_short_is_found_and_named(whole: Workspace, tmp_path: Path, name: str) -> None:
    ws = Workspace(shutil.copytree(whole.root, tmp_path / "ws"))
    data = (ws.root / name).read_bytes()
    (ws.root / name).write_bytes(data[: len(data) // 2])
    found = verify_workspace(ws)
    assert found.exit_code != 0
    assert name.rpartition("/")[2] in found.text() or name == "ledger.jsonl"


def test_a_changed_word_in_a_large_file_is_shown_within_a_piece(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    content = random.Random(1).randbytes(3_000_000)
    file.write_bytes(content)
    known = pieces_of(file)
    assert len(known["hashes"]) <= 8 * 1024
    file.write_bytes(content[:2_000_000] + b"other word" + content[2_000_010:])
    found = first_wrong(file, known)
    assert found is not None
    assert found.first <= 2_000_000 <= found.last < found.first + 3_000


def test_a_tampered_list_of_pieces_helps_nobody(whole: Workspace, tmp_path: Path) -> None:
    "Whoever changes a file and its pieces is found by the hash of the list."
    ws = Workspace(shutil.copytree(whole.root, tmp_path / "ws"))
    file = ws.evidence / "score.json"
    file.write_bytes(file.read_bytes().replace(b'"required": true', b'"required": null', 1))
    gate = stage_evidence(ws, "gate")
    pieces = {**gate.data["pieces"], "evidence/score.json": pieces_of(file)}
    inputs = {**gate.inputs, "evidence/score.json": sha256_file(file)}
    write_evidence(ws, Evidence("gate", data={"pieces": pieces}, inputs=inputs))
    found = verify_decision(ws)
    assert found.exit_code == 1
    assert "evidence/score.json" in found.text()
    assert "evidence/gate.json" in found.text()


@pytest.mark.parametrize(
    ("old", "new"),
    [(b'"decision": "go"', b'"decision": "no-go"'), (b'"decided": "2026-11-20"', b'"decided": "2026-11-10"')],
)
def test_a_changed_decision_names_the_first_byte(whole: Workspace, tmp_path: Path, old: bytes, new: bytes) -> None:
    ws = Workspace(shutil.copytree(whole.root, tmp_path / "ws"))
    text = ws.decision_file.read_bytes()
    assert old in text
    ws.decision_file.write_bytes(text.replace(old, new))
    found = verify_decision(ws)
    at = first_difference(text, ws.decision_file.read_bytes())
    wrong = next(f for f in found.findings if f.message.key == "gate.verify.rule-wrong")
    assert wrong.message.args["byte"] == str(at)
    assert old[:8].decode() in str(wrong.message.args["near"])


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"id": 3, "evidence": 5}', "\x00", '{"id": "a", "evidence": {}}'])
def test_a_decision_that_makes_no_sense_does_not_verify(whole: Workspace, tmp_path: Path, text: str) -> None:
    ws = Workspace(shutil.copytree(whole.root, tmp_path / "ws"))
    ws.decision_file.write_text(text)
    assert verify_decision(ws).exit_code == 1


def test_evidence_that_is_gone_is_absent_not_wrong(whole: Workspace, tmp_path: Path) -> None:
    ws = Workspace(shutil.copytree(whole.root, tmp_path / "ws"))
    ws.split("test").unlink()
    assert verify_decision(ws).exit_code == 3
    ws.ledger_file.unlink()
    found = verify_workspace(ws)
    assert found.exit_code == 3, found.text()
    assert "the ledger does not record" in found.text()


def test_a_forged_approval_is_found(tmp_path: Path) -> None:
    environ = {"MLOPS_NB_CONFIG_HOME": str(tmp_path / "home")}
    person = f'[[approver]]\nname = "A. Martin"\nrole = "risk"\npublic_key = "{new_key_pair("A. Martin", environ)}"\n'
    ws = make(tmp_path / "ws", Story(approvers=person))
    run_score(ws)
    run_gate(ws, DAY)
    approve_decision(ws, "A. Martin", "", environ, DAY)
    assert verify_decision(ws).exit_code == 3  # nobody told the ledger
    Ledger(ws.ledger_file).append("decision.made", "b" * 64, {"sha256": sha256_file(ws.decision_file)})
    assert verify_decision(ws).exit_code == 0, verify_decision(ws).text()
    (file,) = ws.approvals.glob("*.json")
    file.write_text(file.read_text().replace('"role": "risk"', '"role": "board"'))
    assert verify_decision(ws).exit_code == 1


def test_a_conditional_decision_is_decided_again_with_its_past(tmp_path: Path) -> None:
    "What was open before, and what was settled, comes out the same when it is computed again."
    ws = make(tmp_path, Story(charter=CHARTER.replace("known.json", "")))
    for today in (DAY, date(2026, 12, 28)):
        run_score(ws)
        run_gate(ws, today)
        record_stage(ws, "gate")
        assert verify_workspace(ws).exit_code == 0, verify_workspace(ws).text()
