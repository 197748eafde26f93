from __future__ import annotations

import json
from datetime import date, timedelta
from pathlib import Path

import jsonschema
import pytest

from mlops_nb.charter import freeze
from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.keys import key_file, new_key_pair
from mlops_nb.core.workspace import Evidence, Workspace, stage_evidence, write_evidence
from mlops_nb.ledger import Ledger
from mlops_nb.lifecycle.stages import record_stage
from mlops_nb.poc.approval import approve_decision, valid_approvals
from mlops_nb.poc.conditions import months_later
from mlops_nb.poc.document import check_document, decision_schema
from mlops_nb.poc.gate import Decision, is_outdated, read_decision, run_gate
from mlops_nb.poc.scorecard import run_score
from mlops_nb.poc.verdict import CONDITIONAL, GO, NO_GO, NOT_ASSESSED
from tests.scored_workspace import CHARTER, Story, make

DAY = date(2026, 11, 20)


def decided(folder: Path, story: Story | None = None) -> tuple[Workspace, Decision]:
    ws = make(folder, story)
    run_score(ws)
    decision = run_gate(ws, DAY)
    record_stage(ws, "gate")
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


def judged_run(ws: Workspace) -> date:
    "The run that is judged, in the ledger; the day of its entry."
    run = {"seed": 0, "model": {"roc_auc": 0.84}}
    evidence = stage_evidence(ws, "poc")
    write_evidence(ws, Evidence("poc", evidence.facts, {"seeds": [{**evidence.data["seeds"][0], **run}]}))
    charter = Ledger(ws.ledger_file).entries("charter.frozen")[0].subject
    entry = Ledger(ws.ledger_file).append("poc.run", "seed-0", {**run, "charter": charter})
    run_score(ws)
    return date.fromisoformat(entry.time[:10])


def test_an_expired_proof_of_concept_asks_to_be_run_again_or_abandoned(tmp_path: Path) -> None:
    ws, _ = decided(tmp_path)
    ran = judged_run(ws)
    last = months_later(ran, 6)
    assert run_gate(ws, last).state == GO
    old = run_gate(ws, last + timedelta(days=1))
    assert (old.state, old.document["started"], old.document["expires"]) == (NO_GO, ran.isoformat(), last.isoformat())
    assert {c["state"] for c in old.document["criteria"]} == {GO}
    assert old.reasons[0].key == "gate.expired"
    assert "run it again on the data of today, or abandon it" in old.reasons[0].text()
    assert "abandonner" in old.reasons[0].text("fr")


def test_deciding_again_does_not_make_it_younger_and_a_shorter_expiry_holds(tmp_path: Path) -> None:
    ws, _ = decided(tmp_path, Story(charter="expiry_months = 1\n" + CHARTER))
    ran = judged_run(ws)
    for days in (0, 20, 25):
        found = run_gate(ws, ran + timedelta(days=days))
        assert (found.state, found.document["expires"]) == (GO, months_later(ran, 1).isoformat())
    assert run_gate(ws, ran + timedelta(days=32)).state == NO_GO


def test_an_expired_decision_cannot_be_approved(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, decision = decided(tmp_path / "ws", Story(approvers=approver("A. Martin", environ)))
    late = date.fromisoformat(decision.document["expires"]) + timedelta(days=1)
    with pytest.raises(Refused, match="the proof of concept expired on 2027-05-20; run it again"):
        approve_decision(ws, "A. Martin", "", environ, late)


def test_an_overdue_condition_stops_the_approval_and_keeps_its_date(tmp_path: Path, environ: dict[str, str]) -> None:
    text = CHARTER.replace("known.json", "")
    ws, first = decided(tmp_path / "ws", Story(charter=text, approvers=approver("A. Martin", environ)))
    (condition,) = first.document["conditions"]
    assert (condition["since"], condition["due"], condition["overdue"]) == ("2026-11-20", "2026-12-20", False)
    late = date(2026, 12, 28)
    again = run_gate(ws, late)
    assert again.state == CONDITIONAL
    assert again.document["conditions"] == [{**condition, "overdue": True}]
    with pytest.raises(
        Refused, match=r"a condition was due on 2026-12-20: .*; A\. Martin settles it, then decide again"
    ):
        approve_decision(ws, "A. Martin", "", environ, late)


def test_a_condition_that_is_settled_is_remembered(tmp_path: Path) -> None:
    ws, first = decided(tmp_path, Story(charter=CHARTER.replace("known.json", "")))
    ws.charter_file.write_text(CHARTER)
    freeze(ws, "C. Petit")
    run_score(ws)
    later = run_gate(ws, date(2026, 12, 1))
    assert (later.state, later.document["conditions"]) == (GO, [])
    (settled,) = later.document["settled"]
    assert (settled["id"], settled["settled"]) == (first.document["conditions"][0]["id"], "2026-12-01")
    record_stage(ws, "gate")
    assert run_gate(ws, date(2026, 12, 15)).document["settled"] == [settled]


def test_a_decision_states_how_small_a_shortfall_it_would_have_shown(tmp_path: Path) -> None:
    few, many = (decided(tmp_path / str(n), Story(rows=n))[1].document["power"][0]["shortfall"] for n in (400, 3600))
    assert few == pytest.approx(3 * many, rel=0.25)
    assert 0.01 < many < 0.05


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
    signed = approve_decision(ws, "A. Martin", "for the pilot", environ, DAY)
    assert (signed.name, signed.role, signed.answer) == ("A. Martin", "risk", "approved")
    assert valid_approvals(ws, decision.id) == (signed,)
    assert Ledger(ws.ledger_file).entries("approval.signed")[-1].subject == decision.id
    run_gate(ws, date(2026, 11, 21))
    assert valid_approvals(ws, read_decision(ws).id) == ()
    assert oct(key_file("A. Martin", environ).stat().st_mode)[-3:] == "600"


def test_who_froze_cannot_approve(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=approver("C. Petit", environ)))
    with pytest.raises(Refused, match=r"'C\. Petit' froze the charter or exported the model"):
        approve_decision(ws, "C. Petit", "", environ, DAY)


def test_who_exported_cannot_approve(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=approver("A. Martin", environ)))
    Ledger(ws.ledger_file).append("bundle.exported", "b" * 64, {"role": "candidate"}, "A. Martin")
    with pytest.raises(Refused, match="let an independent person approve"):
        approve_decision(ws, "A. Martin", "", environ, DAY)


def test_nobody_appoints_himself_after_the_freeze(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=approver("A. Martin", environ)))
    with pytest.raises(Refused, match=r"'B\. Durand' is not an approver"):
        approve_decision(ws, "B. Durand", "", environ, DAY)
    ws.approvers_file.write_text(ws.approvers_file.read_text() + approver("B. Durand", environ))
    with pytest.raises(Refused, match="changed since the charter was frozen"):
        approve_decision(ws, "B. Durand", "", environ, DAY)


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
        approve_decision(ws, "A. Martin", "", environ, DAY)


def test_keys_are_checked_and_never_repeated(tmp_path: Path, environ: dict[str, str]) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=approver("A. Martin", environ)))
    with pytest.raises(InputError, match="not a private key") as e:
        approve_decision(ws, "A. Martin", "", {**environ, "MLOPS_NB_KEY": "c0ffee"}, DAY)
    assert "c0ffee" not in str(e.value)
    with pytest.raises(Refused, match="does not belong"):
        approve_decision(ws, "A. Martin", "", {**environ, "MLOPS_NB_KEY": "11" * 32}, DAY)


@pytest.mark.parametrize(
    "text", ['[[approver]]\nname = "A"\n', '[[approver]]\nname = "A"\nrole = "b"\npublic_key = "xy"\n', "[["]
)
def test_a_wrong_list_of_approvers_is_one_clear_error(tmp_path: Path, environ: dict[str, str], text: str) -> None:
    ws, _ = decided(tmp_path / "ws", Story(approvers=text))
    with pytest.raises(InputError, match=r"approvers\.toml"):
        approve_decision(ws, "A", "", environ, DAY)


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


def test_a_decision_ages_without_any_file_changing(tmp_path: Path) -> None:
    ws = make(tmp_path, Story(charter=CHARTER.replace("known.json", "")))
    assert not is_outdated(ws)
    ran = judged_run(ws)
    run_gate(ws, ran)
    assert [is_outdated(ws, ran + timedelta(days=d)) for d in (0, 30, 31)] == [False, False, True]
    run_gate(ws, ran + timedelta(days=40))
    assert not is_outdated(ws, ran + timedelta(days=45))
    late = months_later(ran, 6) + timedelta(days=1)
    assert is_outdated(ws, late)
    run_gate(ws, late)
    assert not is_outdated(ws, late + timedelta(days=20))
