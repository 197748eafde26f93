"The end of a model: in order, recorded once, resumable anywhere, and shown."

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from filelock import FileLock

from mlops_nb.bundle.release import require_release
from mlops_nb.charter import freeze_file
from mlops_nb.cli.common import guarded
from mlops_nb.cli.main import app
from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.facts import Fact
from mlops_nb.core.files import atomic_write, write_json
from mlops_nb.core.messages import LANGUAGES
from mlops_nb.core.workspace import Evidence, Workspace, stage_evidence, write_evidence
from mlops_nb.ledger import Entry, Ledger
from mlops_nb.reporting import roi
from mlops_nb.reporting.material import open_material
from mlops_nb.serving.routing import Arm, RouteFile, Routes
from mlops_nb.value import retirement
from mlops_nb.value.ending import CLOSED, EVENT, STEPS, Retirement, Step, retirement_of
from mlops_nb.value.retirement import retire, without_rhythm
from tests.value_charter import charter

BUNDLE, OTHER = "ab" * 32, "cd" * 32
TOLD = {"owner": "mail of 2026-11-20", "schedulers": "crontab -l is empty"}


def workspace(root: Path, decision: str = "decommission", more: str = "") -> Workspace:
    ws = Workspace(root)
    atomic_write(ws.charter_file, charter(more))
    freeze_file(ws)
    atomic_write(ws.data / "raw.csv", "y\n1\n")
    atomic_write(ws.logs / "trial" / "a.txt", "x")
    write_evidence(ws, Evidence("export", (), {"candidate": {"id": BUNDLE}}))
    net = Fact("roi.net_monthly", -900.0, "EUR", -1400.0, -400.0)
    write_evidence(ws, Evidence("value", (net,), {"decision": decision}))
    said = {"decision": decision, "evidence": stage_evidence(ws, "value").sha256}
    Ledger(ws.ledger_file).append("roi.decided", BUNDLE, said)
    return ws


def steps(found: Retirement) -> dict[str, Step]:
    return {s.name: s for s in found.steps}


def serve(ws: Workspace, champion: str, previous: str = "", pid: int = 0) -> None:
    arms = [Arm("champion", v[:12], f"bundles/{v[:12]}", 1.0) for v in (champion, previous) if v]
    write_json(ws.state / "routes.json", Routes(3, "s", (arms[0],), arms[1] if previous else None).to_dict())
    write_json(ws.state / "workers" / "0.json", {"pid": pid or os.getpid(), "generation": 99, "time": 0})


@pytest.mark.parametrize("broken", STEPS)
def test_broken_off_anywhere_it_goes_on_and_records_each_step_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    ws = workspace(tmp_path, more='[retirement]\nlogs = "erase"\ndata = "erase"\nkeep_months = 0\n')
    append = Ledger.append

    def killed(self: Ledger, event: str, subject: str, data: Any = None, actor: str = "") -> Entry:
        if event == EVENT and data.get("step") == broken and "said" in data:
            raise KeyboardInterrupt  # done, and not yet recorded
        return append(self, event, subject, data, actor)

    with monkeypatch.context() as m:
        m.setattr(Ledger, "append", killed)
        with pytest.raises(KeyboardInterrupt):
            retire(ws, evidence=TOLD, erase=True)
    found = retire(ws, evidence=TOLD, erase=True)
    again = retire(ws)
    entries = Ledger(ws.ledger_file).entries()
    assert [e.data["step"] for e in entries if e.event == EVENT and "said" in e.data] == list(STEPS)
    assert len([e for e in entries if e.event == CLOSED]) == 1
    assert (found.exit_code, again.retired) == (0, found.retired)
    assert [steps(found)[s].data["found"]["files"] for s in ("logs", "data")] == [1, 1]
    assert not ws.data.exists()


def test_what_was_erased_is_known_though_the_erasing_broke_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = workspace(tmp_path, more='[retirement]\ndata = "erase"\nkeep_months = 0\n')
    atomic_write(ws.data / "more.csv", "y\n0\n")

    def half(folder: Path, ignore_errors: bool = False) -> None:
        (ws.data / "raw.csv").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(shutil, "rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            retire(ws, erase=True)
    assert steps(retire(ws, erase=True))["data"].data["found"]["files"] == 2


def test_erasing_waits_for_the_months_the_charter_keeps_and_for_a_word(tmp_path: Path) -> None:
    ws = workspace(tmp_path, more='[retirement]\nlogs = "erase"\nkeep_months = 2\n')
    today = datetime.now(UTC).date()
    early = steps(retire(ws, erase=True, evidence=TOLD, today=today))["logs"]
    assert (early.done, early.said.key, ws.logs.exists()) == (False, "retire.early", True)
    late = today + timedelta(days=63)
    assert steps(retire(ws, today=late))["logs"].said.key == "retire.confirm"
    assert ws.logs.exists()
    assert retire(ws, erase=True, today=late).exit_code == 0
    assert not ws.logs.exists()


def test_nothing_goes_unwatched_while_it_answers(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    serve(ws, BUNDLE)
    found = steps(retire(ws, evidence=TOLD))
    assert found["traffic"].said.key == "retire.traffic.serves"
    assert {n for n, s in found.items() if s.done} == {"value", "owner"}
    assert ws.settings().report_rhythm
    serve(ws, OTHER, previous=BUNDLE)
    routed = steps(retire(ws, replacement=OTHER[:8], evidence=TOLD))
    assert routed["traffic"].said.args == {"version": OTHER[:12]}
    assert RouteFile(ws.state).read().previous is None
    assert not ws.settings().report_rhythm


def test_a_server_that_is_dead_serves_nobody(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    serve(ws, BUNDLE, pid=2**22 + 1)  # beyond what the kernel gives out
    assert steps(retire(ws))["traffic"].said.key == "retire.traffic.stopped"


def test_a_server_with_routes_of_its_own_is_found_by_its_bundle(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    pretend = [sys.executable, "-c", "input()", "serve", f"bundles/demo-{BUNDLE[:12]}/"]
    with subprocess.Popen(pretend, stdin=subprocess.PIPE) as server:
        waiting = steps(retire(ws))["traffic"]
        assert (waiting.done, waiting.said.args["pids"]) == (False, str(server.pid))
        server.communicate(b"\n")
    assert steps(retire(ws))["traffic"].done


def test_a_model_served_elsewhere_needs_a_persons_word(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    Ledger(ws.ledger_file).append("version.moved", BUNDLE, {"to": "production"})
    assert not steps(retire(ws))["traffic"].done
    letter = tmp_path / "letter.txt"
    letter.write_text("the cluster was shut down")
    shown = steps(retire(ws, evidence={"traffic": str(letter)}))["traffic"]
    kept = ws.root / shown.data["evidence"]["file"]
    letter.unlink()
    assert (shown.done, kept.read_text()) == (True, "the cluster was shut down")
    assert "evidence/retirement/traffic-letter.txt" in shown.said.text()


def test_who_may_begin(tmp_path: Path) -> None:
    ws = workspace(tmp_path, "keep")
    before = ws.ledger_file.read_bytes()
    for reason in ("", "  "):
        with pytest.raises(Refused, match="the decision is keep"):
            retire(ws, reason=reason)
    with pytest.raises(InputError, match="no evidence is asked for 'registry'"):
        retire(ws, reason="sold", evidence={"registry": "x"})
    with pytest.raises(InputError, match="is the model that is to go"):
        retire(ws, reason="sold", replacement=BUNDLE[:6])
    with (
        FileLock(ws.state / "run.lock"),
        pytest.raises(InputError, match="a run is working on this workspace"),
    ):
        retire(ws, reason="sold")
    assert ws.ledger_file.read_bytes() == before
    write_evidence(ws, Evidence("value", (), {"decision": "decommission"}))
    with pytest.raises(InputError, match=r"the return of abababababab is not on record; run 'mlops-nb roi"):
        retire(ws)
    assert retirement_of(Ledger(ws.ledger_file).entries()) is None


def test_a_rhythm_from_the_environment_is_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = workspace(tmp_path)
    monkeypatch.setenv("MLOPS_NB_REPORT_RHYTHM", "roi monthly")
    assert steps(retire(ws))["schedules"].said.args == {"rhythm": "roi monthly"}
    monkeypatch.delenv("MLOPS_NB_REPORT_RHYTHM")
    assert steps(retire(ws))["schedules"].done


@pytest.mark.parametrize(
    "settings",
    [
        "",
        "[DEFAULT]\nreport_rhythm: roi monthly\n",
        "[prod]\nlang = fr\nreport_rhythm = roi monthly,\n\talerts daily\n",
    ],
)
def test_the_rhythm_goes_and_the_rest_stays(tmp_path: Path, settings: str) -> None:
    ws = Workspace(tmp_path)
    ws.settings_file.write_text(without_rhythm(settings))
    assert [ws.settings(p).report_rhythm for p in ("dev", "prod")] == ["", ""]
    assert ws.settings("prod").lang == ("fr" if "lang" in settings else "")


def test_a_retired_model_does_not_serve_again(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    retire(ws, evidence=TOLD)
    bundle: Any = SimpleNamespace(id=BUNDLE, name="demo", path=ws.bundles / "demo")
    with pytest.raises(Refused, match="it was retired on"):
        require_release(bundle, (), ws.root, date(2026, 1, 1))


def test_the_command_says_how_far_it_came(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ws = workspace(tmp_path / "demo")
    assert guarded(app, ["retire", str(ws.root), "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in told["steps"] if not s["done"]] == ["schedulers", "owner"]
    given = [w for k, v in TOLD.items() for w in ("--evidence", f"{k}={v}")]
    assert guarded(app, ["retire", str(ws.root), *given, "--lang", "fr"]) == 0
    assert "a été retiré" in capsys.readouterr().out
    kept = workspace(tmp_path / "kept", "keep")
    assert guarded(app, ["retire", str(kept.root)]) == 1
    assert guarded(app, ["retire", str(kept.root), "--evidence", "owner"]) == 2


def test_the_command_hands_over_to_the_replacement_only_when_it_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from mlops_nb.cli import rollout

    asked: list[tuple[Any, ...]] = []

    def promote(folder: Path, to: str, bundle: str, *where: Any) -> None:
        asked.append((to, bundle))
        serve(Workspace(folder), OTHER, previous=BUNDLE)

    monkeypatch.setattr(rollout, "promote", promote)
    kept = workspace(tmp_path / "kept", "keep")
    serve(kept, BUNDLE)
    assert guarded(app, ["retire", str(kept.root), "--replacement", OTHER[:12]]) == 1
    assert asked == []
    ws = workspace(tmp_path / "demo")
    serve(ws, BUNDLE)
    assert guarded(app, ["retire", str(ws.root), "--replacement", OTHER[:12]]) == 3
    assert asked == [("champion", OTHER[:12])]
    assert f"version {OTHER[:12]} answers instead" in capsys.readouterr().out


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_shows_the_checklist(tmp_path: Path, lang: str) -> None:
    ws = workspace(tmp_path, "keep", '[retirement]\ndata = "erase"\n')
    assert "retire." not in roi.retirement_section(open_material(ws.root, "roi", lang)).html
    found = retire(ws, reason="the product <b>was</b> sold", evidence={"owner": "told"})
    html = str(roi.retirement_section(open_material(ws.root, "roi", lang)).html)
    assert "<b>was</b>" not in html
    assert html.count("<tr>") == 1 + len(STEPS)
    assert not [k for k in ("retire.", "retirement.") if k in html or k in found.text(lang)]
    assert found._repr_html_()


def test_every_step_says_what_it_asks() -> None:
    assert set(retirement.ACTIONS) == set(STEPS)


@pytest.mark.slow
@pytest.mark.xdist_group("tried")  # one workspace for all tests that copy it
def test_an_archived_version_is_found_by_no_role_and_never_comes_back(tmp_path: Path) -> None:
    from mlops_nb.registry import check_role, move, register, registered, stage_of
    from tests.tried_workspace import copy

    ws = copy(tmp_path)
    id = stage_evidence(ws, "export").data["candidate"]["id"]
    write_json(ws.decision_file, {"decision": "go", "bundle": id})
    version = register(ws)
    write_evidence(ws, Evidence("value", (), {"decision": "decommission"}))
    Ledger(ws.ledger_file).append("roi.decided", id, {"evidence": stage_evidence(ws, "value").sha256})
    found = steps(retire(ws, evidence=TOLD))
    assert found["registry"].said.args == {"versions": "1", "aliases": "staging"}
    assert registered(ws)[0].aliases == ()
    assert stage_of(ws, version) == "archived"
    for again in (lambda: register(ws), lambda: move(ws, "qa", id), lambda: check_role(ws, version, "shadow")):
        with pytest.raises(Refused, match="it was archived: the model is retired"):
            again()
    moved = Ledger(ws.ledger_file).entries("version.moved")
    assert [e.data["to"] for e in moved] == ["archived"]
