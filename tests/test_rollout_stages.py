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
from mlops_nb.cli.common import guarded
from mlops_nb.cli.main import app
from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.keys import new_key_pair
from mlops_nb.core.settings import Settings, load_settings
from mlops_nb.core.workspace import Evidence, Workspace, write_evidence
from mlops_nb.ledger import Ledger
from mlops_nb.lifecycle.stages import record_stage
from mlops_nb.poc.approval import approve_decision
from mlops_nb.poc.gate import run_gate
from mlops_nb.poc.scorecard import run_score
from mlops_nb.registry import check_role, find_version, follow_routes, move, on_stage, register, stage_of
from mlops_nb.rollout import rollout_status
from tests.scored_workspace import Story, make
from tests.serving_bundle import make_bundle, running

ROOT = Path(__file__).resolve().parent.parent
DAY = datetime.now(UTC).date()


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    "A configuration folder of our own."
    monkeypatch.setenv("MLOPS_NB_CONFIG_HOME", str(tmp_path / "home"))
    return {"MLOPS_NB_CONFIG_HOME": str(tmp_path / "home")}


@pytest.fixture
def ws(tmp_path: Path, environ: dict[str, str]) -> Workspace:
    "A reviewed charter, a real bundle and a decision about it; A. Martin may approve, C. Petit froze the charter."
    people = "".join(
        f'[[approver]]\nname = "{n}"\nrole = "risk"\npublic_key = "{new_key_pair(n, environ)}"\n'
        for n in ("A. Martin", "C. Petit")
    )
    found = make(tmp_path / "mini", Story(approvers=people))
    bundle = load_bundle(make_bundle(found.bundles, "mini", faults=False, thresholds=Thresholds(0.5, "Yes")))
    path = f"bundles/{bundle.path.name}"
    write_evidence(found, Evidence("export", data={"candidate": {"id": bundle.id, "path": path}}))
    run_score(found)
    run_gate(found, DAY)
    record_stage(found, "gate")
    return found


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
    follow_routes(ws, {"champion": bundle.version})
    assert on_stage(ws, "champion") == find_version(ws, bundle.version)
    follow_routes(ws, {})
    assert on_stage(ws, "champion") is None


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
    version = candidate(ws).version
    assert command("rollout", "canary", ws.root, "--url", url) == 1
    assert "a challenger comes from production; move it first" in capsys.readouterr().err
    approve_decision(ws, "A. Martin", "", environ)
    assert command("rollout", "promote", ws.root, "--to", "qa") == 0
    assert command("rollout", "shadow", ws.root, "--url", url) == 0
    assert on_stage(ws, "shadow") is not None
    assert command("rollout", "promote", ws.root, "--to", "production") == 0
    (ws.root / "rollout.toml").write_text("steps = [0.5, 1.0]\nhold_s = 3600\n")
    assert command("rollout", "canary", ws.root, "--url", url) == 0
    assert f"challenger {version} 50 %" in capsys.readouterr().out
    assert command("traffic", candidate(ws).path, "--url", url, "--requests", 60, "--rate", 500) == 0
    assert "challenger" in capsys.readouterr().out
    assert command("rollout", "status", ws.root, "--json") == 0
    assert json.loads(capsys.readouterr().out)["rollout"]["state"] == "running"
    assert command("rollout", "rollback", ws.root, "--url", url) == 0
    assert command("rollout", "promote", ws.root, "--url", url) == 0
    champion = on_stage(ws, "champion")
    assert champion is not None
    assert champion.bundle_id.startswith(version)
    assert command("rollout", "drill", ws.root, "--url", url) == 0
    assert "0 of" in capsys.readouterr().out
    assert (ws.evidence / "drill.json").exists()
    assert rollout_status(ws.state).routes.champion.version == version
    told = [e.event for e in Ledger(ws.ledger_file).entries()]
    wanted = ["version.moved", "rollout.step", "rollout.rolled_back", "drill.done"]
    assert all(event in told for event in wanted)
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
