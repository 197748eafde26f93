"Data nobody hopes for: no rows, one class, no figures, names without end, 200 columns, a disk that is full."

from __future__ import annotations

import json
import re
import resource
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from mlops_nb.core.facts import Fact
from mlops_nb.core.files import write_json
from mlops_nb.core.messages import LANGUAGES
from mlops_nb.core.workspace import Evidence, Workspace, stage_evidence, write_evidence
from mlops_nb.ledger import Ledger
from mlops_nb.reporting.material import KINDS
from mlops_nb.reporting.publishing import latest_report
from mlops_nb.reporting.registers import CONTENTS
from mlops_nb.reporting.rendering import outside_references
from mlops_nb.reporting.runner import run_report
from mlops_nb.reporting.sealing import shown_facts
from mlops_nb.reporting.verification import verify_report
from tests.conftest import BIN
from tests.reporting_workspace import AS_OF, add_monitoring, card, full_workspace, score_facts
from tests.reporting_workspace import in_process as in_process

MEGABYTE = 1_000_000


def made(ws: Workspace, kind: str, lang: str = "en", **parameters: str) -> str:
    "The page of a run, which must verify."
    page = run_report(ws, kind, lang, {"as_of": AS_OF, **parameters})
    answer = verify_report(page.parent)
    assert answer.exit_code == 0, answer.text()
    html = page.read_text()
    assert outside_references(html) == ()
    assert len(html.encode()) < MEGABYTE
    return html


def emptied(fact: Fact) -> Fact:
    "A number that nobody could measure."
    return replace(fact, value=None, low=None, high=None, n=0, state="not-assessed" if fact.state else "")


@pytest.mark.parametrize("lang", LANGUAGES)
def test_no_rows(tmp_path: Path, in_process: None, lang: str) -> None:
    ws = full_workspace(tmp_path)
    for stage in ("score", "monitor", "value", "trial"):
        evidence = stage_evidence(ws, stage)
        facts = tuple(emptied(f) for f in evidence.facts)
        write_evidence(
            ws,
            replace(
                evidence, facts=facts, data={**evidence.data, **({"criteria": card(facts)} if stage == "score" else {})}
            ),
        )
    for file in ws.windows.glob("*.json"):
        window = json.loads(file.read_text())
        nothing = {
            "effect": None,
            "effect_low": None,
            "effect_high": None,
            "p_value": None,
            "p_adjusted": None,
            "n_current": 0,
        }
        features = [
            {**f, **nothing, "before": None, "after": None, "state": "inconclusive"}
            for f in window["drift"]["features"]
        ]
        write_json(file, {**window, "rows": 0, "drift": {**window["drift"], "features": features, "rows_current": 0}})
    pages = {kind: made(ws, kind, lang) for kind in KINDS}
    assert ("NON ÉVALUÉ" if lang == "fr" else "NOT ASSESSED") in pages["audit"]
    assert not re.search(r">(nan|inf|None)<", "".join(pages.values()))


def test_one_class(tmp_path: Path, in_process: None) -> None:
    ws = full_workspace(tmp_path)
    gone = ("performance.", "fairness.")
    facts = tuple(emptied(f) if f.id.startswith(gone) else f for f in score_facts())
    write_evidence(ws, Evidence("score", facts, {"criteria": card(facts), "classes": ["No"], "reliability": []}))
    html = made(ws, "audit")
    assert ("performance.roc_auc", "value", "–") in shown_facts(html)
    assert ("criterion.state/performance", "state", "NOT ASSESSED") in shown_facts(html)


def test_nothing_to_draw(tmp_path: Path, in_process: None) -> None:
    ws = full_workspace(tmp_path)
    write_evidence(ws, Evidence("monitor", (), {"windows": []}))
    write_evidence(ws, Evidence("value", (), {"decision": "not-assessed"}))
    for file in ws.windows.glob("*.json"):
        file.unlink()
    for kind in ("drift", "roi"):
        html = made(ws, kind)
        assert "<figure" not in html
        assert "NOT ASSESSED" in html


@pytest.mark.parametrize("content", CONTENTS)
def test_each_part_without_anything_to_tell(tmp_path: Path, in_process: None, content: str) -> None:
    ws = full_workspace(tmp_path, ledger=False)
    html = made(ws, "drift", "fr", content=content)
    assert "Il n’y a pas de registre" in html or "registre" in html
    report = latest_report(ws, "drift", "fr", content=content)
    assert report is not None
    assert latest_report(ws, "drift", "fr") is None, "a part is not the whole report"
    assert Ledger(ws.ledger_file).entries("report.published")[0].data["content"] == content


NASTY = (
    "<script>alert(1)</script>",
    "=cmd|' /C calc'!A0",
    "x" * 3000,
    "a\u202eb",
    "'; DROP TABLE",
    "[click](http://x.y)",
)


@pytest.mark.parametrize("content", ["", "incidents"])
def test_what_people_wrote_stays_text(tmp_path: Path, in_process: None, content: str) -> None:
    ws = full_workspace(tmp_path, columns=list(NASTY))
    book = Ledger(ws.ledger_file)
    for name in NASTY:
        book.append("alert.opened", name, {"drifted": [name], "causes": [name]})
        book.append("incident.opened", name, {"cause": name})
        book.append("retrain.started", name, {"reason": name})
        book.append("bundle.exported", name, {})
    (ws.annexes / "deep").mkdir(parents=True)
    (ws.annexes / "deep" / "<b>&'\".html").write_text("<script>1</script>")
    html = made(ws, "drift", content=content)
    assert html.count("<script") == 2, "the facts and the manifest"
    assert "<b>" not in html
    assert '<a href="http' not in html


@pytest.mark.slow
def test_two_hundred_columns_are_published(tmp_path: Path) -> None:
    ws = full_workspace(tmp_path)
    add_monitoring(ws, [f"column_{i}_with_a_name_that_somebody_generated" for i in range(200)])
    html = made(ws, "drift")
    assert html.count("<figure ") >= 1


@pytest.mark.slow
@pytest.mark.parametrize("limit", [2_000, 60_000])
def test_a_disk_that_is_full_from_the_start(tmp_path: Path, limit: int) -> None:
    ws = full_workspace(tmp_path / "ws")

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [str(BIN / "mlops-nb"), "report", "roi", str(ws.root), "-p", f"as_of={AS_OF}"]
    ended = subprocess.run(command, capture_output=True, text=True, preexec_fn=full, timeout=180, check=False)
    assert ended.returncode not in (0, 1), ended.stdout
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
    for page in ws.reports.glob("roi/*/roi.html"):
        assert "FAILED" in page.read_text()
        assert verify_report(page.parent).exit_code == 0
    assert not list(ws.root.rglob(".*.tmp"))
    assert not [p for p in ws.reports.glob("roi/*") if not (p / "SHA256SUMS").exists()]
