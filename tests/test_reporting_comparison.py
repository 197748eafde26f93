"Two reports against each other, and a page that carries the signatures of its decision."

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.files import read_json, write_json
from mlops_nb.core.workspace import Workspace, stage_evidence, write_evidence
from mlops_nb.ledger import Ledger
from mlops_nb.poc.approval import approve_decision
from mlops_nb.reporting.comparison import compare_reports, comparison_json, comparison_page, read_edition
from mlops_nb.reporting.portfolio import write_portfolio
from mlops_nb.reporting.rendering import outside_references
from mlops_nb.reporting.runner import run_report
from mlops_nb.reporting.sealing import shown_facts, wrong_texts
from mlops_nb.reporting.verification import verify_report
from tests.conftest import Cli
from tests.reporting_workspace import approvable, card, full_workspace, score_facts
from tests.reporting_workspace import in_process as in_process


def worsened(ws: Workspace) -> None:
    "The metric below its promise, another notebook, another numpy, another decision."
    evidence = stage_evidence(ws, "score")
    worse = {"value": 0.75, "low": 0.72, "high": 0.78, "state": "no-go"}
    facts = tuple(replace(f, **worse) if f.id == "performance.roc_auc" else f for f in score_facts())  # type: ignore[arg-type]
    data = {**evidence.data, "criteria": card(facts), "environment": {"numpy": "2.3.5"}}
    inputs = {**evidence.inputs, "notebooks/poc.ipynb": "b" * 64}
    write_evidence(ws, replace(evidence, facts=facts, data=data, inputs=inputs))
    write_json(ws.decision_file, {**read_json(ws.decision_file), "decision": "no-go"})


@pytest.fixture
def two(tmp_path: Path, in_process: None) -> tuple[Workspace, Path, Path]:
    ws = full_workspace(tmp_path / "ws")
    evidence = stage_evidence(ws, "score")
    data = {**evidence.data, "environment": {"numpy": "2.1.0", "pandas": "2.2.0"}}
    write_evidence(ws, replace(evidence, data=data, inputs={**evidence.inputs, "notebooks/poc.ipynb": "a" * 64}))
    first = run_report(ws, "audit", "en", {"as_of": "2026-10-01"})
    worsened(ws)
    return ws, first, run_report(ws, "audit", "en", {"as_of": "2026-11-20"})


def test_a_report_says_what_changed_and_why_the_verdict_is_another(two: tuple[Workspace, Path, Path]) -> None:
    html = two[2].read_text()
    part = html[html.index('id="changes"') : html.index('id="conditions"')]
    said = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", part))
    assert "The verdict went from CONDITIONAL to NO-GO." in said
    assert "GO → NO-GO" in said
    assert "The intervals do not overlap." in said
    assert "notebooks/poc.ipynbcodechanged" in said
    assert "numpy2.1.02.3.5" in said
    assert {i for i, _, _ in shown_facts(part)} >= {"diff.old/performance.roc_auc", "diff.change/performance.roc_auc"}


def test_the_command_gives_text_json_and_a_page(two: tuple[Workspace, Path, Path], tmp_path: Path, cli: Cli) -> None:
    _, first, second = two
    out = tmp_path / "diff.html"
    told = cli("report", "diff", first.parent, second, "--json", "--html", out, "--lang", "fr")
    assert told.returncode == 0, told.stderr
    answer = json.loads(told.stdout)
    assert answer == json.loads(json.dumps(comparison_json(compare_reports(first.parent, second))))
    assert (answer["old"]["verdict"], answer["new"]["verdict"]) == ("conditional", "no-go")
    assert answer["because"][:2] == ["criterion.state/performance", "performance.roc_auc"]
    moved = next(n for n in answer["numbers"] if n["id"] == "performance.roc_auc")
    assert (moved["intervals"], moved["crossed"], round(moved["delta"], 3)) == ("separate", True, -0.095)
    assert moved["delta_low"] < moved["delta"] < moved["delta_high"] < 0
    assert {"name": "numpy", "old": "2.1.0", "new": "2.3.5"} in answer["settings"]
    groups = {f["path"]: f["group"] for f in answer["files"]}
    assert (groups["notebooks/poc.ipynb"], groups["decision.json"]) == ("code", "results")
    page = out.read_text()
    assert outside_references(page) == ()
    assert "Le verdict est passé de" in page


def test_the_page_of_a_comparison_shows_its_facts(two: tuple[Workspace, Path, Path]) -> None:
    found = compare_reports(two[1], two[2])
    page = comparison_page(found, "fr")
    own = [replace(f, id=f"diff.old/{f.id}") for f in found.old.facts]
    known = [*own, *found.new.facts]
    shown = {i for i, _, _ in shown_facts(page)}
    html = re.sub(r'<span data-fact="diff.change.*?</span>', "", page)
    assert wrong_texts(html, [f for f in known if f.id in shown], "fr") == ()


def test_a_touched_report_is_not_compared(two: tuple[Workspace, Path, Path], cli: Cli) -> None:
    _, first, second = two
    facts = second.parent / "facts.json"
    facts.write_text(facts.read_text() + " ")
    told = cli("report", "diff", first, second.parent)
    assert (told.returncode, "was changed after it was published" in told.stderr) == (1, True)
    assert read_edition(second).root  # the page itself still fits
    with pytest.raises(InputError, match="not a report page"):
        read_edition(Path(shutil.copy("/bin/true", second.parent.parent / "x.html")))


@pytest.fixture
def signed(tmp_path: Path, in_process: None) -> tuple[Workspace, Path]:
    ws, environ = full_workspace(tmp_path / "ws"), {"MLOPS_NB_CONFIG_HOME": str(tmp_path / "keys")}
    approvable(ws, environ)
    approve_decision(ws, "B. Reader", "read all of it", environ)
    return ws, run_report(ws, "audit", "en", {"as_of": "2026-11-20"})


def test_verify_says_who_signed(signed: tuple[Workspace, Path], tmp_path: Path) -> None:
    page = signed[1]
    answer = verify_report(page.parent)
    assert answer.exit_code == 0, answer.text()
    assert "B. Reader (risk) approved decision" in answer.text()
    assert "by the key that was frozen with the charter" in answer.text()
    assert "holds; key of the frozen list" in page.read_text()
    alone = Path(shutil.copy(page, tmp_path))
    assert "B. Reader (risk) approved decision" in verify_report(alone).text()
    assert "the signature holds for key" in verify_report(alone).text()
    assert verify_report(alone).exit_code == 3


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("approvals/*.json", "read all of it", "read nothing", "the signature does not fit"),
        ("approvals/*.json", '"role": "risk"', '"role": "owner"', "the signature does not fit"),
        ("approvers.toml", "B. Reader", "C. Other", "only the frozen approvers.toml says"),
        ("ledger.jsonl", "approval.signed", "approval.Signed", "the ledger is broken"),
    ],
)
def test_a_touched_signature_is_named(
    signed: tuple[Workspace, Path], file: str, old: str, new: str, message: str
) -> None:
    ws, page = signed
    path = next(ws.root.glob(file))
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))
    answer = verify_report(page.parent)
    assert answer.exit_code == 1
    assert message in answer.text()


def test_an_approval_that_went_missing_and_one_nobody_recorded(signed: tuple[Workspace, Path], tmp_path: Path) -> None:
    ws, page = signed
    approval = next(ws.approvals.glob("*.json"))
    ws.ledger_file.unlink()
    Ledger(ws.ledger_file).append("charter.frozen", "x", {})
    assert "the ledger does not hold this approval" in verify_report(page.parent).text()
    approval.unlink()
    Ledger(ws.ledger_file).append("approval.signed", "d" * 64, {"name": "B. Reader"}, "B. Reader")
    assert "but the approval is not here" in verify_report(page.parent).text()


def test_a_portfolio_of_many(tmp_path: Path, in_process: None, cli: Cli) -> None:
    spaces = [full_workspace(tmp_path / "models" / n, name=n) for n in ("churn", "credit")]
    run_report(spaces[0], "roi", "en", {"as_of": "2026-05-01"})
    (spaces[1].evidence / "value.json").write_text("{}")
    now = datetime(2026, 11, 20, tzinfo=UTC)
    html = write_portfolio([tmp_path / "models"], tmp_path / "out" / "p.html", "fr", now).read_text()
    assert outside_references(html) == ()
    assert "3 900" in html.replace("\u202f", " ") or "3\u202f900" in html or "3\u00a0900" in html
    assert "EN RETARD" in html
    assert "not an evidence file" in html
    missing = cli("report", "portfolio", tmp_path / "nothing")
    assert (missing.returncode, "no workspace here" in missing.stderr) == (2, True)
