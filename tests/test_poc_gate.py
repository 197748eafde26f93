from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import jsonschema
import pytest

from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.hashing import sha256_file
from mlops_nb.core.keys import key_file, new_key_pair
from mlops_nb.core.workspace import Workspace
from mlops_nb.ledger import Ledger
from mlops_nb.poc.approval import approve_decision, read_approvals, valid_approvals
from mlops_nb.poc.document import check_document, decision_schema
from mlops_nb.poc.gate import Decision, first_difference, months_later, read_decision, run_gate, verify_decision
from mlops_nb.poc.scorecard import run_score
from mlops_nb.poc.verdict import CONDITIONAL, GO, NO_GO, NOT_ASSESSED
from tests.scored_workspace import CHARTER, Story, make

DAY = date(2026, 11, 20)


def decided(folder: Path, story: Story | None = None) -> tuple[Workspace, Decision]:
    ws = make(folder, story)
    run_score(ws)
    decision = run_gate(ws, DAY)
    Ledger(ws.ledger_file).append("decision.made", "b" * 64, {"sha256": sha256_file(ws.decision_file)})
    return ws, decision


def test_a_clean_case_is_a_go_without_conditions(tmp_path: Path) -> None:
    _, decision = decided(tmp_path)
    assert decision.state == GO
    assert decision.document["conditions"] == []
    assert [r.key for r in decision.reasons] == ["gate.go"]


def test_a_draft_is_at_best_conditional_and_says_so(tmp_path: Path) -> None:
    _, decision = decided(tmp_path, Story(charter=CHARTER.replace('status = "reviewed"', "")))
    assert decision.state == CONDITIONAL
    assert [r.key for r in decision.reasons] == ["gate.draft"]
    assert decision.document["conditions"][0]["owner"] == "A. Martin"


def test_a_missing_vulnerability_file_is_a_condition_with_owner_and_date(tmp_path: Path) -> None:
    _, decision = decided(tmp_path, Story(charter=CHARTER.replace("known.json", "")))
    assert decision.state == CONDITIONAL
    (condition,) = decision.document["conditions"]
    assert (condition["criterion"], condition["owner"], condition["due"]) == ("security", "A. Martin", "2026-12-20")


def test_a_no_go_names_its_criterion_first(tmp_path: Path) -> None:
    story = Story(quality={"quality.dominance/x": 1.0}, trial={"rollback.duration": None, "latency.answered": 0.5})
    _, decision = decided(tmp_path, story)
    assert decision.state == NO_GO
    assert [(r["criterion"], r["state"]) for r in decision.document["reasons"]] == [
        ("data_quality", NO_GO),
        ("rollback", NOT_ASSESSED),
        ("latency", CONDITIONAL),
    ]
    assert 'the input "x" alone' in decision.reasons[0].text()


def test_optional_criteria_without_evidence_do_not_stop_a_decision(tmp_path: Path) -> None:
    text = CHARTER.replace('subgroups = ["sex"]', "required = false")
    _, decision = decided(tmp_path, Story(charter=text))
    assert decision.state == GO


def test_the_same_files_and_day_give_the_same_decision(tmp_path: Path) -> None:
    ws, decision = decided(tmp_path)
    before = ws.decision_file.read_bytes()
    assert run_gate(ws, DAY).id == decision.id
    assert ws.decision_file.read_bytes() == before
    assert run_gate(ws, date(2026, 11, 21)).id != decision.id


def test_a_proof_of_concept_expires(tmp_path: Path) -> None:
    _, decision = decided(tmp_path)
    assert decision.document["expires"] == "2027-05-20"
    assert months_later(date(2026, 8, 31), 6) == date(2027, 2, 28)
    assert months_later(date(2026, 12, 15), 1) == date(2027, 1, 15)
    assert months_later(date(2026, 11, 30), 1) == date(2026, 12, 30)


def test_thresholds_frozen_after_the_first_run_are_refused(tmp_path: Path) -> None:
    ws, decision = decided(tmp_path)
    charter = decision.document["charter"]["sha256"]
    ws.ledger_file.unlink()
    ledger = Ledger(ws.ledger_file)
    ledger.append("poc.run", "seed-0", {"charter": charter})
    ledger.append("charter.frozen", charter, {})
    with pytest.raises(Refused, match="frozen after the first run"):
        run_gate(ws, DAY)


def test_a_scorecard_made_under_another_charter_is_refused(tmp_path: Path) -> None:
    ws, _ = decided(tmp_path)
    doc = json.loads((ws.evidence / "score.json").read_text())
    doc["data"]["charter"] = "0" * 64
    (ws.evidence / "score.json").write_text(json.dumps(doc))
    with pytest.raises(Refused, match="made under another charter"):
        run_gate(ws, DAY)


def test_an_untouched_decision_verifies(tmp_path: Path) -> None:
    ws, _ = decided(tmp_path)
    found = verify_decision(ws)
    assert found.exit_code == 0, found.text()
    for lang in ("en", "fr"):
        assert "gate." not in found.text(lang)


@pytest.mark.parametrize(
    "name",
    ["charter.frozen.json", "contract.json", "evidence/data.json", "evidence/poc.json", "evidence/trial.json",
     "evidence/score.json", "evidence/trial.predictions.parquet", "splits/test.parquet", "known.json",
     "runs/seed-0/predictions.parquet"],
)  # fmt: skip
def test_one_changed_byte_in_any_evidence_is_found_and_named(tmp_path: Path, name: str) -> None:
    ws, _ = decided(tmp_path)
    data = bytearray((ws.root / name).read_bytes())
    data[len(data) // 2] ^= 1
    (ws.root / name).write_bytes(bytes(data))
    found = verify_decision(ws)
    assert found.exit_code == 1
    assert name.rpartition("/")[2] in found.text()


def test_a_changed_decision_names_the_first_byte(tmp_path: Path) -> None:
    ws, _ = decided(tmp_path, Story(charter=CHARTER.replace("known.json", "")))
    text = ws.decision_file.read_text()
    ws.decision_file.write_text(text.replace('"decision": "conditional"', '"decision": "go"'))
    found = verify_decision(ws)
    assert found.exit_code == 1
    wrong = next(f for f in found.findings if f.message.key == "gate.verify.rule-wrong")
    assert '"decision":"' in str(wrong.message.args["near"])
    assert first_difference(b"abc", b"abd") == 2
    assert first_difference(b"ab", b"abd") == 2


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"id": 3, "evidence": 5}', "\x00"])
def test_a_decision_that_makes_no_sense_does_not_verify(tmp_path: Path, text: str) -> None:
    ws, _ = decided(tmp_path)
    ws.decision_file.write_text(text)
    assert verify_decision(ws).exit_code == 1


def test_evidence_that_is_gone_is_absent_not_wrong(tmp_path: Path) -> None:
    ws, _ = decided(tmp_path)
    ws.split("test").unlink()
    assert verify_decision(ws).exit_code == 3
    ws.ledger_file.unlink()
    assert "the ledger does not record" in verify_decision(ws).text()


def test_a_decision_that_is_not_there_says_what_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no decision yet; run 'mlops-nb gate"):
        read_decision(make(tmp_path / "mini"))


def test_the_decision_is_readable_in_both_languages(tmp_path: Path) -> None:
    ws, decision = decided(tmp_path, Story(charter=CHARTER.replace("known.json", "")))
    assert "A. Martin" in decision._repr_html_()
    assert "La sécurité des dépendances" in read_decision(ws, "fr")._repr_html_()


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"MLOPS_NB_CONFIG_HOME": str(tmp_path / "home")}


def approver(name: str, environ: dict[str, str]) -> str:
    return f'[[approver]]\nname = "{name}"\nrole = "risk"\npublic_key = "{new_key_pair(name, environ)}"\n'


def test_an_approval_holds_for_its_decision_only(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, decision = decided(tmp_path / "ws", Story(approvers=approver("A. Martin", environ)))
    signed = approve_decision(ws, "A. Martin", "for the pilot", environ)
    assert (signed.name, signed.role, signed.answer) == ("A. Martin", "risk", "approved")
    assert valid_approvals(ws, decision.id) == (signed,)
    assert verify_decision(ws).exit_code == 0
    assert Ledger(ws.ledger_file).entries("approval.signed")[-1].subject == decision.id
    run_gate(ws, date(2026, 11, 21))
    assert valid_approvals(ws, read_decision(ws).id) == ()
    assert oct(key_file("A. Martin", environ).stat().st_mode)[-3:] == "600"


def test_a_forged_approval_is_found(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, decision = decided(tmp_path / "ws", Story(approvers=approver("A. Martin", environ)))
    approve_decision(ws, "A. Martin", "", environ)
    (file,) = ws.approvals.glob("*.json")
    file.write_text(file.read_text().replace('"role": "risk"', '"role": "board"'))
    assert valid_approvals(ws, decision.id) == ()
    assert len(read_approvals(ws)) == 1
    assert verify_decision(ws).exit_code == 1


def test_who_froze_cannot_approve(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=approver("C. Petit", environ)))
    with pytest.raises(Refused, match=r"'C\. Petit' froze the charter or exported the model"):
        approve_decision(ws, "C. Petit", "", environ)


def test_who_exported_cannot_approve(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=approver("A. Martin", environ)))
    Ledger(ws.ledger_file).append("bundle.exported", "b" * 64, {"role": "candidate"}, "A. Martin")
    with pytest.raises(Refused, match="let an independent person approve"):
        approve_decision(ws, "A. Martin", "", environ)


def test_nobody_appoints_himself_after_the_freeze(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=approver("A. Martin", environ)))
    with pytest.raises(Refused, match=r"'B\. Durand' is not an approver"):
        approve_decision(ws, "B. Durand", "", environ)
    ws.approvers_file.write_text(ws.approvers_file.read_text() + approver("B. Durand", environ))
    with pytest.raises(Refused, match="changed since the charter was frozen"):
        approve_decision(ws, "B. Durand", "", environ)


@pytest.mark.parametrize(
    ("story", "message"),
    [
        (Story(charter=CHARTER.replace('status = "reviewed"', "")), "a draft that no person has reviewed"),
        (Story(trial={"latency.p99": 900.0}), "the decision is 'no-go'"),
    ],
)
def test_drafts_and_refusals_cannot_be_approved(
    tmp_path: Path, environ: dict[str, str], story: Story, message: str
) -> None:
    story.approvers = approver("A. Martin", environ)
    ws, _ = decided(tmp_path / "ws", story)
    with pytest.raises(Refused, match=message):
        approve_decision(ws, "A. Martin", "", environ)


def test_keys_are_checked_and_never_repeated(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=approver("A. Martin", environ)))
    with pytest.raises(InputError, match="not a private key") as e:
        approve_decision(ws, "A. Martin", "", {**environ, "MLOPS_NB_KEY": "c0ffee"})
    assert "c0ffee" not in str(e.value)
    with pytest.raises(Refused, match="does not belong"):
        approve_decision(ws, "A. Martin", "", {**environ, "MLOPS_NB_KEY": "11" * 32})


@pytest.mark.parametrize(
    "text", ['[[approver]]\nname = "A"\n', '[[approver]]\nname = "A"\nrole = "b"\npublic_key = "xy"\n', "[["]
)
def test_a_wrong_list_of_approvers_is_one_clear_error(tmp_path: Path, environ: dict[str, str], text: str) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=text))
    with pytest.raises(InputError, match=r"approvers\.toml"):
        approve_decision(ws, "A", "", environ)


def test_a_decision_is_in_the_published_form(tmp_path: Path) -> None:
    _, decision = decided(tmp_path)
    document, schema = decision.document, decision_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(document, schema)
    for change in ({"decision": "yes"}, {"verdict": "go"}, {"expires": "soon"}, {"criteria": []}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, **change}, schema)
        with pytest.raises(InputError):
            check_document({**document, **change})
