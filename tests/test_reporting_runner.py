"Reports as they are published: whole or not at all, the same bytes twice, a FAILED page when the run fails, and verified."

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.files import read_json
from mlops_nb.core.hashing import sha256_folder
from mlops_nb.core.workspace import Workspace
from mlops_nb.ledger import Ledger
from mlops_nb.reporting.index import report_state, write_index
from mlops_nb.reporting.publishing import current_report, latest_report, published_reports
from mlops_nb.reporting.rendering import outside_references
from mlops_nb.reporting.runner import ReportFailed, run_report
from mlops_nb.reporting.sealing import SUMS, shown_facts
from mlops_nb.reporting.verification import verify_report
from tests.conftest import BIN
from tests.reporting_workspace import AS_OF, full_workspace

pytestmark = pytest.mark.xdist_group("reports")  # one worker makes the pages for all
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    "A workspace with all three reports, the audit in both languages."
    ws = full_workspace(tmp_path_factory.mktemp("published"))
    for kind, lang in (("audit", "en"), ("audit", "fr"), ("drift", "fr"), ("roi", "en")):
        run_report(ws, kind, lang, {"as_of": AS_OF})
    write_index(ws)
    return ws


def test_the_pages_are_whole_small_and_verified(published: Workspace) -> None:
    reports = published_reports(published)
    assert len(reports) == 4
    for report in reports:
        html = report.page.read_text()
        assert len(html.encode()) < MEGABYTE
        assert outside_references(html) == ()
        assert html.count("<h1") == 1
        assert report.root in html
        assert report.folder.name == f"2026-11-20-{report.root[:12]}"
        assert report_state(published, report) == "current"
        assert verify_report(report.folder).exit_code == 0, verify_report(report.folder).text()
        assert verify_report(report.page).exit_code == 0
        checked = subprocess.run(
            ["sha256sum", "-c", "--strict", SUMS], cwd=report.folder, capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stdout


def test_facts_json_is_what_the_page_shows(published: Workspace) -> None:
    for report in published_reports(published):
        facts = read_json(report.folder / "facts.json")["facts"]
        assert {f["id"] for f in facts} >= {id for id, _, _ in shown_facts(report.page.read_text())}
        cells = {c["id"] for c in read_json(report.folder / f"{report.kind}.ipynb")["cells"]}
        assert {f["source"]["cell"] for f in facts} <= cells


def test_both_languages_hold_the_same_facts(published: Workspace) -> None:
    by_lang = {r.lang: read_json(r.folder / "facts.json") for r in published_reports(published, "audit")}
    assert by_lang["en"] == by_lang["fr"]


def test_the_same_run_gives_the_same_bytes(published: Workspace, tmp_path: Path) -> None:
    first = latest_report(published, "audit", "fr")
    assert first is not None
    elsewhere = full_workspace(tmp_path / "elsewhere")
    shutil.rmtree(elsewhere.root)
    shutil.copytree(published.root, elsewhere.root, ignore=shutil.ignore_patterns("reports"))
    page = run_report(elsewhere, "audit", "fr", {"as_of": AS_OF})
    assert sha256_folder(page.parent) == sha256_folder(first.folder)


def test_a_report_is_current_until_something_changes(published: Workspace, tmp_path: Path) -> None:
    ws = Workspace(shutil.copytree(published.root, tmp_path / "ws"))
    page = current_report(ws, "roi", "en")
    assert page is not None
    assert current_report(ws, "roi", "fr") is None
    Ledger(ws.ledger_file).append("alert.opened", "w9", {})
    assert current_report(ws, "roi", "en") is None
    again = run_report(ws, "roi", "en", {"as_of": "2026-11-21"})
    assert again != page
    text = again.read_text()
    assert "Compared with the report as of 2026-11-20" in text
    states = {r.root: report_state(ws, r) for r in published_reports(ws, "roi")}
    assert sorted(states.values()) == ["current", "superseded"]


def test_every_flipped_byte_is_named(published: Workspace, tmp_path: Path) -> None:
    report = latest_report(published, "drift", "fr")
    assert report is not None
    for n, name in enumerate(sorted(p.name for p in report.folder.iterdir())):
        ws = Workspace(shutil.copytree(published.root, tmp_path / str(n)))
        file = ws.reports / "drift" / report.folder.name / name
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        answer = verify_report(file.parent)
        assert answer.exit_code == 1
        assert name in answer.text()
    for name in ("evidence/monitor.json", "windows/w2.json", "ledger.jsonl"):
        ws = Workspace(shutil.copytree(published.root, tmp_path / name.replace("/", "-")))
        file = ws.root / name
        file.write_bytes(file.read_bytes().replace(b"e", b"f", 1))
        answer = verify_report(ws.reports / "drift" / report.folder.name)
        assert answer.exit_code == 1
        assert name in answer.text()


def test_the_page_alone_says_what_is_absent(published: Workspace, tmp_path: Path) -> None:
    report = latest_report(published, "audit", "en")
    assert report is not None
    alone = Path(shutil.copy(report.page, tmp_path))
    assert verify_report(alone).exit_code == 3
    assert "evidence/score.json: not here" in verify_report(alone).text()
    for old, new in ((">0.845<", ">0.945<"), ("CONDITIONAL", "GO"), ("--bad: #a3231c", "--bad: #1c6b3f")):
        alone.write_text(report.page.read_text().replace(old, new))
        assert verify_report(alone).exit_code == 1, old


def test_a_failing_cell_gives_a_failed_page(tmp_path: Path) -> None:
    ws = full_workspace(tmp_path / "ws")
    score = json.loads((ws.evidence / "score.json").read_text())
    score["data"]["criteria"] = [{"no": "id"}]
    (ws.evidence / "score.json").write_text(json.dumps(score))
    with pytest.raises(ReportFailed, match="cell verdict: KeyError: 'id'") as caught:
        run_report(ws, "audit", "fr", {"as_of": AS_OF})
    page = caught.value.page.read_text()
    assert "ÉCHEC" in page
    assert "data-fact" not in page
    assert "SOUS CONDITION" not in page
    assert verify_report(caught.value.page.parent).exit_code == 0
    assert [e.data["kind"] for e in Ledger(ws.ledger_file).entries("report.failed")] == ["audit"]
    assert current_report(ws, "audit", "fr") is None
    assert "ÉCHEC" in write_index(ws).read_text()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"as_off": "x"}, "no parameter 'as_off'"),
        ({"previous": 3}, "previous = 3 is not a str"),
        ({"as_of": "soon"}, "'soon' is not a date"),
        ({"workspace": "/"}, "'workspace' is not given as a parameter"),
    ],
)
def test_bad_parameters_are_refused_before_the_run(tmp_path: Path, parameters: dict[str, object], message: str) -> None:
    ws = full_workspace(tmp_path / "ws")
    with pytest.raises(InputError, match=message):
        run_report(ws, "audit", "en", parameters)
    assert not ws.reports.exists()


def test_a_report_says_which_command_comes_first(tmp_path: Path) -> None:
    ws = full_workspace(tmp_path / "churn")
    (ws.evidence / "value.json").unlink()
    with pytest.raises(InputError, match=r"evidence/value\.json: not there yet; run 'mlops-nb value churn' first"):
        run_report(ws, "roi", "en")
    with pytest.raises(InputError, match="no report 'weekly'"):
        run_report(ws, "weekly", "en")


FULL_DISK = """
import resource, sys
from pathlib import Path
from mlops_nb.core.errors import MlopsError
from mlops_nb.core.workspace import Workspace
from mlops_nb.reporting.publishing import publish
from mlops_nb.reporting.sealing import seal
ws = Workspace(sys.argv[1])
sealed = seal("x" * 200_000, {"kind": "roi", "lang": "en", "as_of": "2026-11-20T00:00:00Z", "state": "published"})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    publish(ws, "roi", sealed, b"{}", {"v": 1, "facts": []})
except MlopsError as e:
    print(e)
"""


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "the report cannot be written" in ended.stdout
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.slow
def test_two_runs_at_once_publish_one_report(tmp_path: Path) -> None:
    ws = full_workspace(tmp_path / "ws")
    command = [str(BIN / "mlops-nb"), "report", "roi", str(ws.root), "-p", f"as_of={AS_OF}"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    pages = {run.communicate(timeout=120)[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0]
    assert len(pages) == 1
    assert len(Ledger(ws.ledger_file).entries("report.published")) == 1
    assert verify_report(pages.pop()).exit_code == 0
