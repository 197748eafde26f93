"From staging to production through the gate, and from there to the server: by the commands, on the real registry and server."

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from mlops_nb.bundle.format import Bundle, load_bundle
from mlops_nb.bundle.parts import Thresholds
from mlops_nb.bundle.release import released
from mlops_nb.charter import freeze
from mlops_nb.cli.common import guarded
from mlops_nb.cli.main import app
from mlops_nb.cli.rollout import _candidate
from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.files import read_json
from mlops_nb.core.keys import new_key_pair
from mlops_nb.core.settings import Settings, load_settings
from mlops_nb.core.workspace import Evidence, Workspace, write_evidence
from mlops_nb.ledger import Ledger
from mlops_nb.lifecycle.stages import record_stage
from mlops_nb.poc.approval import approve_decision
from mlops_nb.poc.case import open_case
from mlops_nb.poc.gate import run_gate
from mlops_nb.poc.scorecard import run_score
from mlops_nb.registry import check_role, find_version, follow_routes, move, on_stage, register, stage_of
from mlops_nb.reporting.rollouts import action_of, rollout_entries
from mlops_nb.reporting.runner import run_report
from mlops_nb.rollout import rollout_status
from mlops_nb.serving.leader import read_rollout
from mlops_nb.trial.client import Client
from mlops_nb.trial.traffic import Material, Plan, replay
from tests.scored_workspace import Story, make
from tests.serving_bundle import NOT_A_NUMBER, ROW, Running, make_bundle, running
from tests.serving_lab import until

ROOT = Path(__file__).resolve().parent.parent
DAY = datetime.now(UTC).date()


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    "A configuration folder of our own."
    monkeypatch.setenv("MLOPS_NB_CONFIG_HOME", str(tmp_path / "home"))
    return {"MLOPS_NB_CONFIG_HOME": str(tmp_path / "home")}


def decided(folder: Path, environ: dict[str, str], faults: bool = False) -> Workspace:
    "A reviewed charter, a real bundle and a decision about it; A. Martin may approve, C. Petit froze the charter."
    people = "".join(
        f'[[approver]]\nname = "{n}"\nrole = "risk"\npublic_key = "{new_key_pair(n, environ)}"\n'
        for n in ("A. Martin", "C. Petit")
    )
    return judged(make(folder, Story(approvers=people)), faults)


def judged(found: Workspace, faults: bool = False, shift: float = 0.0) -> Workspace:
    "A real bundle and a decision about it."
    bundle = load_bundle(
        make_bundle(found.bundles, "mini", faults=faults, shift=shift, thresholds=Thresholds(0.5, "Yes"))
    )
    path = f"bundles/{bundle.path.name}"
    write_evidence(found, Evidence("export", data={"candidate": {"id": bundle.id, "path": path}}))
    run_score(found)
    run_gate(found, DAY)
    record_stage(found, "gate")
    return found


@pytest.fixture
def ws(tmp_path: Path, environ: dict[str, str]) -> Workspace:
    return decided(tmp_path / "mini", environ)


def candidate(ws: Workspace) -> Bundle:
    return load_bundle(next(ws.bundles.iterdir()))


def prod(ws: Workspace) -> Settings:
    "What the [prod] settings ask for."
    kept = load_settings("prod", ROOT / "settings.ini", environ={})
    assert kept.serve_require_approval
    return kept.model_copy(update={"serve_trusted_file": str(ws.approvers_file)})


def test_a_server_in_production_asks_for_decision_and_approval(ws: Workspace, environ: dict[str, str]) -> None:
    bundle, settings = candidate(ws), prod(ws)
    with pytest.raises(Refused, match=r"no approval by a trusted person \(nobody signed\)"):
        released(bundle, settings)
    approve_decision(ws, "A. Martin", "", environ)
    assert released(bundle, settings) is bundle
    with pytest.raises(Refused, match=r"no approval by a trusted person \(A\. Martin signed\)"):
        released(bundle, settings.model_copy(update={"serve_trusted_file": ""}))
    other = load_bundle(make_bundle(ws.bundles, "other"))
    with pytest.raises(Refused, match="it is about bundle"):
        released(other, settings)
    document = json.loads(ws.decision_file.read_text())
    ws.decision_file.write_text(json.dumps(document | {"expires": "2099-01-01"}))
    with pytest.raises(Refused, match="was changed: its id does not fit"):
        released(bundle, settings)
    ws.decision_file.unlink()
    with pytest.raises(Refused, match="there is no decision about it"):
        released(bundle, settings)


@pytest.mark.slow
@pytest.mark.xdist_group("rollout")
def test_serve_in_production_ends_with_the_reason(ws: Workspace) -> None:
    command = [sys.executable, "-m", "mlops_nb.cli.main", "serve", str(candidate(ws).path), "--port", "0"]
    command += ["--profile", "prod", "--settings", str(ROOT / "settings.ini")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1, done.stderr
    assert "no approval by a trusted person (nobody signed); see serve_trusted_file" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.xdist_group("rollout")
def test_a_version_moves_through_the_gate_alone(ws: Workspace, environ: dict[str, str]) -> None:
    bundle, version = candidate(ws), register(ws)
    assert stage_of(ws, version) == "staging"
    with pytest.raises(Refused, match="it is in staging: production comes after qa"):
        move(ws, "production")
    with pytest.raises(InputError, match="no stage 'prod'; use qa or production"):
        move(ws, "prod")
    with pytest.raises(Refused, match="a shadow comes from qa; move it first"):
        check_role(ws, version, "shadow")
    evidence = ws.evidence / "trial.json"
    good = evidence.read_bytes()
    evidence.write_bytes(good.replace(b"12.0", b"11.0"))
    with pytest.raises(Refused, match="the decision does not hold any more"):
        move(ws, "qa")
    evidence.write_bytes(good)
    with pytest.raises(Refused, match="it expired on"):
        move(ws, "qa", today=date(2099, 1, 1))
    rule = bundle.path / "rule.json"
    kept = rule.read_bytes()
    rule.write_bytes(b"{}")
    with pytest.raises(Refused, match=r"rule\.json"):
        move(ws, "qa")
    rule.write_bytes(kept)
    assert move(ws, "qa").aliases == ("qa", "staging")
    check_role(ws, version, "shadow")
    with pytest.raises(Refused, match="no approval by a trusted person"):
        move(ws, "production")
    with pytest.raises(Refused, match=r"C\. Petit' froze the charter"):
        approve_decision(ws, "C. Petit", "", environ)
    approve_decision(ws, "A. Martin", "", environ)
    moved = move(ws, "production", bundle.version, actor="A. Martin")
    assert (stage_of(ws, moved), on_stage(ws, "production")) == ("production", moved)
    told = [(e.actor, e.data["from"], e.data["to"]) for e in Ledger(ws.ledger_file).entries("version.moved")]
    assert told[-1] == ("A. Martin", "qa", "production")
    assert [t[1:] for t in told] == [("staging", "qa"), ("qa", "production")]
    check_role(ws, moved, "champion")
    with pytest.raises(Refused, match="it expired on"):
        check_role(ws, moved, "champion", today=date(2099, 1, 1))
    follow_routes(ws, {"champion": bundle.version})
    assert on_stage(ws, "champion") == find_version(ws, bundle.version)
    follow_routes(ws, {})
    assert on_stage(ws, "champion") is None


@pytest.mark.slow
@pytest.mark.xdist_group("rollout")
def test_a_challenger_moves_by_its_own_decision(ws: Workspace, environ: dict[str, str]) -> None:
    first = candidate(ws)
    register(ws)
    child = judged(make(ws.challengers / "2026-11-20-ab", Story(approvers=ws.approvers_file.read_text())), shift=0.05)
    own = candidate(child)
    assert register(ws, "challenger", child).aliases == ("challenger",)
    follow_routes(ws, {"champion": first.version})
    assert find_version(ws, own.version).aliases == ("challenger",), "it has not had its turn yet"
    evidence = child.evidence / "trial.json"
    good = evidence.read_bytes()
    evidence.write_bytes(good.replace(b"12.0", b"11.0"))
    with pytest.raises(Refused, match=r"challengers/2026-11-20-ab/decision\.json: the decision does not hold any more"):
        move(ws, "qa", own.version)
    evidence.write_bytes(good)
    assert move(ws, "qa", own.version).aliases == ("challenger", "qa")
    approve_decision(ws, "A. Martin", "", environ)
    with pytest.raises(Refused, match="no approval by a trusted person"):
        move(ws, "production", own.version)  # the champion's approval is not its
    approve_decision(child, "A. Martin", "", environ)
    moved = move(ws, "production", own.version)
    check_role(ws, moved, "challenger")
    with pytest.raises(Refused, match="it expired on"):
        check_role(ws, moved, "challenger", today=date(2099, 1, 1))
    assert _candidate(ws, own.version, "challenger") == str(own.path.resolve())
    follow_routes(ws, {"champion": first.version, "challenger": own.version})
    follow_routes(ws, {"champion": first.version})
    assert find_version(ws, own.version).aliases == ("production", "qa"), "it has had its turn"
    ws.charter_file.write_text(ws.charter_file.read_text().replace("0.75", "0.85"))
    freeze(ws, "C. Petit")
    with pytest.raises(Refused, match="it was judged by another charter than the champion's"):
        move(ws, "production", own.version)


def command(*arguments: Any) -> int:
    "Run a command in this process."
    return guarded(app, [str(a) for a in arguments])


@pytest.fixture
def serving(ws: Workspace, tmp_path: Path) -> Iterator[tuple[Workspace, str]]:
    "A server on the workspace's state, with another model as champion."
    old = make_bundle(tmp_path / "old", "old", shift=0.05, faults=False)
    with running(tmp_path / "run", old, arguments=["--state-dir", str(ws.state)]) as server:
        yield ws, server.url


@pytest.mark.slow
@pytest.mark.xdist_group("rollout")
def test_the_commands_from_staging_to_champion_and_back(
    serving: tuple[Workspace, str], environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    ws, url = serving
    register(ws)
    version, old = candidate(ws).version, rollout_status(ws.state).routes.champion.version
    assert command("rollout", "canary", ws.root, "--url", url) == 1
    assert "a challenger comes from production; move it first" in capsys.readouterr().err
    approve_decision(ws, "A. Martin", "", environ)
    assert command("rollout", "promote", ws.root, "--to", "qa") == 0
    assert command("rollout", "shadow", ws.root, "--url", url) == 0
    assert on_stage(ws, "shadow") is not None
    assert command("rollout", "promote", ws.root, "--to", "production") == 0
    half = f"{version}=0.5"
    for arms, why in (
        (["--arm", "half"], "is not BUNDLE=SHARE"),
        (["--arm", "feed=0.5"], "no version feed"),
        (["--arm", half, "--arm", half], "leave the champion a part"),
        (["--arm", f"{version}=0.2", "--arm", f"{version[:6]}=0.2"], "one version is named twice"),
    ):
        assert command("rollout", "split", ws.root, "--url", url, *arms) == 2
        assert why in capsys.readouterr().err
    assert command("rollout", "split", ws.root, "--url", url, "--arm", half) == 0
    assert f"champion {old} 50 %, challenger {version} 50 %" in capsys.readouterr().out
    assert command("rollout", "rollback", ws.root, "--url", url, "--reason", "enough\nseen") == 0
    (ws.root / "rollout.toml").write_text("steps = [0.5, 1.0]\nhold_s = 3600\n")
    assert command("rollout", "canary", ws.root, "--url", url) == 0
    assert f"challenger {version} 50 %" in capsys.readouterr().out
    assert command("rollout", "drill", ws.root, "--url", url) == 1
    assert "has a share of the traffic; let it end, or roll it back" in capsys.readouterr().err
    assert command("traffic", candidate(ws).path, "--url", url, "--requests", 60, "--rate", 500) == 0
    assert "challenger" in capsys.readouterr().out
    assert command("rollout", "status", ws.root, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rollout"]["state"] == "running"
    assert command("rollout", "rollback", ws.root, "--url", url) == 0
    assert command("rollout", "promote", ws.root, "--url", url) == 0
    champion = on_stage(ws, "champion")
    assert champion is not None
    assert champion.bundle_id.startswith(version)
    assert command("rollout", "split", ws.root, "--url", url, "--arm", half) == 1
    assert "is the champion" in capsys.readouterr().err
    assert command("rollout", "drill", ws.root, "--url", url) == 0
    assert "0 of" in capsys.readouterr().out
    assert (ws.evidence / "drill.json").exists()
    assert rollout_status(ws.state).routes.champion.version == version
    told = [(e.event, e.subject[:12], action_of(e)) for e in rollout_entries(Ledger(ws.ledger_file).entries())]
    assert told == [
        ("version.moved", version, "stage"),
        ("rollout.step", version, "shadow"),
        ("version.moved", version, "stage"),
        ("rollout.step", version, "split"),
        ("rollout.rolled_back", version, "rollback"),
        ("rollout.step", version, "begin"),
        ("rollout.rolled_back", version, "rollback"),
        ("version.moved", version, "promote"),
        ("drill.done", version, "drill"),
    ]
    assert "enough" in Ledger(ws.ledger_file).entries("rollout.rolled_back")[0].data["text"]
    assert open_case(ws).drilled.evidence is None, "the decision has its own, and this one was quick"
    assert command("rollout", "rollback", ws.root, "--url", "http://127.0.0.1:1") == 3


def test_traffic_stays_on_this_machine_and_says_what_is_wrong(
    ws: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = candidate(ws).path
    assert command("traffic", bundle, "--url", "http://models.example.org") == 2
    assert "another machine; say --anywhere" in capsys.readouterr().err
    assert command("traffic", bundle, "--requests", 0) == 2
    assert command("rollout", "status", tmp_path) == 2
    assert "no server has served from here" in capsys.readouterr().err
    assert command("rollout", "rollback", tmp_path / "no") == 2


def scraped(server: Running) -> dict[str, float]:
    "The samples of /metrics, without their prefix."
    lines = [line for line in server.client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name.removeprefix("mlops_nb_"): float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def agree(server: Running, state: Path) -> bool:
    "Whether /metrics says what `rollout status` says."
    found, doc = scraped(server), read_rollout(state) or {}
    judged, bar = doc["judged"], doc["policy"]["false_rollback"]
    told = {
        "rollout_share": judged["share"],
        "rollout_step": judged["step"] + 1,
        "rollout_evidence": judged["evidence"],
    }
    told |= {"rollout_missing_pairs": doc["verdict"]["needs"]}
    told |= {f'arm_share{{arm="{a.role}"}}': a.share for a in rollout_status(state).routes.arms}
    for metric, known in judged["metrics"].items():
        told[f'rollout_pairs{{metric="{metric}"}}'] = known["pairs"]
        told[f'rollout_metric_evidence{{metric="{metric}"}}'] = known["evidence"] * bar
        for side in ("new", "old"):
            at = f'rollout_requests{{metric="{metric}",side="{side}",what='
            told |= {at + '"all"}': known[side], at + '"bad"}': known[f"{side}_bad"]}
    return all(found[name] == pytest.approx(value) for name, value in told.items())


@pytest.mark.slow
@pytest.mark.xdist_group("rollout")
def test_a_regression_is_taken_back_and_a_page_says_why(
    tmp_path: Path, environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    "Shadow, canary steps, a regression that is injected, the way back by itself; status, metrics, ledger and report tell the same."
    ws = decided(tmp_path / "mini", environ, faults=True)
    version, old = candidate(ws).version, make_bundle(tmp_path / "old", "old", shift=0.05, faults=False)
    register(ws)
    approve_decision(ws, "A. Martin", "", environ)
    (ws.root / "rollout.toml").write_text("steps = [0.3, 0.6, 1.0]\nhold_s = 1\ndetect = 0.5\nfalse_rollback = 0.2\n")
    good, bad = ([ROW | {"tenure": t, "charges": c} for c in range(9)] for t in (3, NOT_A_NUMBER))

    def step() -> float:
        return rollout_status(ws.state).routes.arms[-1].share

    with running(tmp_path / "run", old, arguments=["--workers", "2", "--state-dir", str(ws.state)]) as server:
        until(lambda: server.metric("ready_workers") == 2)
        client = Client(server.url)
        move(ws, "qa")
        assert command("rollout", "shadow", ws.root, "--url", server.url) == 0
        seen = replay(client, Material(good), Plan(100, 10, 200))
        assert set(seen.answered) == {f"champion {old.name[-12:]}"}
        until(lambda: server.metric('shadow_rows_total{outcome="answered"}') > 0)
        move(ws, "production")
        assert command("rollout", "canary", ws.root, "--url", server.url) == 0
        seen = replay(client, Material(good), Plan(4000, 20, 200), until=lambda: step() == 0.6)
        assert not seen.failed
        assert step() == 0.6, "nothing spoke against it"
        until(lambda: agree(server, ws.state))
        seen = replay(client, Material(bad), Plan(4000, 20, 200, seed=1), until=lambda: step() == 1.0)
        assert not seen.failed, "whoever was answered by the rule was answered"
        until(lambda: (read_rollout(ws.state) or {})["state"] == "rolled_back")
        assert {a.version for a in rollout_status(ws.state).routes.arms} == {old.name[-12:]}
        until(lambda: server.metric('rollouts_total{outcome="rolled_back"}') == 1)
        client.close()
    page = run_report(ws, "audit", lang="fr")
    last = [e for e in rollout_entries(Ledger(ws.ledger_file).entries()) if action_of(e) == "roll_back"][-1]
    assert (last.subject, last.actor, last.data["args"]["metric"]) == (version, "rollout", "degraded")
    judged = last.data["judged"]["degraded"]
    facts = {f["id"]: f for f in read_json(page.parent / "facts.json")["facts"]}
    rate = facts[f"rollout.new/{last.seq}-degraded"]
    assert (rate["value"], rate["n"]) == (judged["new_bad"] / judged["new"], judged["new"])
    told = page.read_text()
    assert all(words in told for words in ("retirée automatiquement", "réponses dégradées", "étape suivante du canari"))
    assert command("verify", page) == 0
