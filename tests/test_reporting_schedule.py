"What is due: once a slot, whatever the clock and however many callers; and snippets that schedulers read as they were meant."

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.core.errors import InputError
from mlops_nb.core.workspace import Workspace
from mlops_nb.ledger import Entry, Ledger
from mlops_nb.reporting.due import run_due
from mlops_nb.reporting.index import write_index
from mlops_nb.reporting.publishing import published_reports
from mlops_nb.reporting.registers import CONTENTS
from mlops_nb.reporting.schedule import DELIVERABLES, RHYTHMS, parse_rhythm, slot_start, slots_since, standings
from mlops_nb.reporting.snippets import SCHEDULERS, Job, job_of, read_snippet, snippet, units_of
from mlops_nb.reporting.verification import verify_report
from tests.conftest import Cli
from tests.reporting_workspace import full_workspace
from tests.reporting_workspace import in_process as in_process

MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2030, 1, 1)).map(lambda t: t.replace(tzinfo=UTC))


@given(MOMENTS, st.sampled_from(RHYTHMS))
def test_a_slot_holds_the_moments_from_its_start_to_the_next(now: datetime, rhythm: str) -> None:
    start = slot_start(rhythm, now)
    assert start <= now
    assert slot_start(rhythm, start) == start
    assert slots_since(rhythm, start, now) == ()
    assert slots_since(rhythm, start - timedelta(microseconds=1), now) == (start,)
    assert now - start < timedelta(
        days={"daily": 1, "weekly": 7, "monthly": 31, "quarterly": 92, "yearly": 366}[rhythm]
    )


@given(st.lists(MOMENTS, min_size=1, max_size=30), st.sampled_from(RHYTHMS))
@settings(max_examples=60)
def test_each_slot_that_is_asked_in_gets_one_report(calls: list[datetime], rhythm: str) -> None:
    plan, book = parse_rhythm(f"roi {rhythm}"), list[Entry]()
    for now in sorted(calls):
        if standings(plan, book, now)[0].missed:
            data = {"kind": "roi", "as_of": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
            book.append(Entry(1, len(book) + 1, now.isoformat(), "report.published", "cron", "r", data, "", ""))
    assert len(book) == len({slot_start(rhythm, now) for now in calls})


def test_every_part_of_a_report_can_be_asked_for() -> None:
    assert {d.content for d in DELIVERABLES.values() if d.content} == set(CONTENTS)


def test_a_year_of_calls_and_a_month_without_any(tmp_path: Path, in_process: None) -> None:
    ws = full_workspace(tmp_path)
    ws.settings_file.write_text("[DEFAULT]\nreport_rhythm = quality monthly, roi quarterly\n")
    days = [datetime(2026, 1, 10, 5, tzinfo=UTC) + timedelta(days=n) for n in (0, 20, 25, 26, 27, 120, 121)]
    made = [[m.state for m in run_due(ws, day)] for day in days]
    assert made == [
        ["made", "made"],
        ["on-time", "on-time"],
        ["made", "on-time"],  # February has begun
        ["on-time", "on-time"],
        ["on-time", "on-time"],
        ["made", "made"],  # three months later: once, not three times
        ["on-time", "on-time"],
    ]
    reports = published_reports(ws)
    assert sorted(r.content for r in reports) == ["", "", "quality", "quality", "quality"]
    assert all(verify_report(r.folder).exit_code == 0 for r in reports)
    second = next(r for r in reports if r.content == "quality" and r.as_of.startswith("2026-02"))
    assert second.manifest["previous"] == next(r.root for r in reports if r.as_of.startswith("2026-01") and r.content)
    assert "DRIFT" in second.page.read_text()
    assert 'id="quality"' in second.page.read_text()
    assert 'id="windows"' not in second.page.read_text()
    index = write_index(ws, "en", datetime(2026, 9, 1, tzinfo=UTC)).read_text()
    assert (index.count("LATE</span>"), index.count("DUE</span>")) == (1, 1)


def test_a_report_on_old_evidence_says_so(tmp_path: Path, in_process: None) -> None:
    ws = full_workspace(tmp_path)
    ws.settings_file.write_text("[DEFAULT]\nreport_rhythm = quality daily\n")
    days = [datetime(2026, 11, day, 5, tzinfo=UTC) for day in (18, 19, 20)]
    first, second = (run_due(ws, day)[0] for day in days[:2])
    assert (first.same_since, second.same_since) == ("", "2026-11-18T05:00:00Z")
    assert second.text().endswith("nothing it is made from has changed since 2026-11-18")
    Ledger(ws.ledger_file).append("alert.opened", "window-3", {})
    assert run_due(ws, days[2])[0].same_since == ""


def test_what_cannot_be_made_does_not_stop_the_rest(tmp_path: Path, in_process: None) -> None:
    ws = full_workspace(tmp_path)
    (ws.evidence / "value.json").unlink()
    made = run_due(ws, datetime(2026, 11, 20, tzinfo=UTC))
    states = {m.standing.planned.deliverable.name: m.state for m in made}
    assert states == dict.fromkeys(("alerts", "performance", "quality", "retraining"), "made") | {"roi": "missing"}
    assert made[-1].reason == f"evidence/value.json: not there yet; run 'mlops-nb value {ws.root.name}' first"


@pytest.mark.slow
def test_two_schedulers_at_once_make_one_report_each(tmp_path: Path, cli: Cli) -> None:
    ws = full_workspace(tmp_path / "ws")
    ws.settings_file.write_text("[DEFAULT]\nreport_rhythm = alerts daily\n")
    from tests.conftest import BIN

    command = [str(BIN / "mlops-nb"), "report", "due", str(ws.root), "--json", "--now", "2026-11-20T05:00:00Z"]
    runs = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = [json.loads(run.communicate(timeout=180)[0])["due"][0]["state"] for run in runs]
    assert sorted(answers) == ["made", "on-time"]
    assert len(Ledger(ws.ledger_file).entries("report.published")) == 1
    wrong = cli("report", "due", ws.root, MLOPS_NB_REPORT_RHYTHM="alerts hourly")
    assert (wrong.returncode, "no rhythm 'hourly'" in wrong.stderr) == (2, True)


PATHS = st.text(st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc")), min_size=1, max_size=25).filter(
    lambda t: "/" not in t and t.strip(" .") == t and "{" not in t
)


@given(PATHS, st.sampled_from(sorted(SCHEDULERS)))
@settings(max_examples=80)
def test_a_snippet_calls_the_command_it_was_made_for(name: str, scheduler: str) -> None:
    job = job_of(Workspace(Path("/srv") / name))
    try:
        read_snippet(scheduler, snippet(scheduler, job), job)
    except InputError as error:  # a path that no quoting saves is refused, not handed out
        if "does not read back" not in str(error):
            raise


def test_airflow_would_fill_braces(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Airflow would take it for a template"):
        snippet("airflow", job_of(Workspace(tmp_path / "{{ ds }}")))
    with pytest.raises(InputError, match="line breaks"):
        job_of(Workspace("/srv/a\nb"))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze on this machine")
def test_systemd_accepts_the_units() -> None:
    with tempfile.TemporaryDirectory() as d:
        job = Job("mlops-nb-odd", f"{d}/it's 5% $HOME", "/bin/true", "x")
        for name, content in units_of(snippet("systemd", job)).items():
            (Path(d) / name).write_text(content)
        command = ["systemd-analyze", "verify", "--man=no", *sorted(str(p) for p in Path(d).glob("mlops-nb-odd.*"))]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        ours = [x for x in ended.stderr.splitlines() if "mlops-nb-odd" in x]
        assert ours == [], ended.stderr
