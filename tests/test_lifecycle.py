"The main job through the real command line: one small life in `make test`, the long ones in `make test-all`."

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from mlops_nb.core.workspace import Workspace
from mlops_nb.ledger import Ledger
from tests.conftest import BIN, Cli
from tests.tables import TARGETS, write_csv

STEPS = [
    "data",
    "charter",
    "poc",
    "export",
    "trial",
    "probe",
    "score",
    "gate",
    "register",
    "monitor",
    "value",
    "report audit",
    "report drift",
    "report roi",
]


def new_workspace(cli: Cli, folder: Path, name: str, *, shuffled: bool = False) -> Workspace:
    table = write_csv(folder, name, shuffled=shuffled)
    made = cli("init", folder / "ws", "--data", table, "--target", TARGETS[name])
    assert made.returncode == 0, made.stderr
    return Workspace(folder / "ws")


def dvc_status(ws: Workspace) -> str:
    done = subprocess.run([BIN / "dvc", "status"], cwd=ws.root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.xdist_group("lifecycle")
def test_a_small_life(cli: Cli, tmp_path: Path) -> None:
    ws = new_workspace(cli, tmp_path, "breast_cancer")
    first = cli("run", ws.root)
    assert first.returncode == 0, first.stdout + first.stderr
    decision = json.loads(ws.decision_file.read_text())
    assert decision["decision"] == "conditional"  # nobody has reviewed the draft
    events = [e.event for e in Ledger(ws.ledger_file).entries()]
    assert (
        events.index("charter.frozen")
        < events.index("poc.run")
        < events.index("test.read")
        < events.index("decision.made")
    )
    assert events.count("poc.run") == 3
    for kind in ("audit", "drift", "roi"):
        assert len(list(ws.reports.glob(f"{kind}/*/{kind}.html"))) == 1
    assert "up to date" in dvc_status(ws)

    second = cli("run", ws.root)
    assert second.returncode == 0
    assert second.stdout.count("·") == len(STEPS), second.stdout
    assert [e.event for e in Ledger(ws.ledger_file).entries()] == events

    for path in (ws.root, *ws.reports.glob("*/*/")):
        verified = cli("verify", path)
        assert verified.returncode == 0, (path, verified.stdout, verified.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["diabetes", "loans"])
def test_other_tables_end_in_a_decision(cli: Cli, tmp_path: Path, name: str) -> None:
    ws = new_workspace(cli, tmp_path, name)
    done = cli("run", ws.root)
    assert done.returncode in (0, 1), done.stderr
    decision = json.loads(ws.decision_file.read_text())
    assert decision["decision"] in ("go", "conditional"), decision["reasons"]
    assert list(ws.reports.glob("audit/*/audit.html"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["breast_cancer"])  # the table that makes it hardest
def test_a_shuffled_target_is_a_no_go_on_performance(cli: Cli, tmp_path: Path, name: str) -> None:
    ws = new_workspace(cli, tmp_path, name, shuffled=True)
    done = cli("run", ws.root)
    assert done.returncode == 1, done.stdout + done.stderr
    decision = json.loads(ws.decision_file.read_text())
    states = {c["id"]: c["state"] for c in decision["criteria"]}
    assert (decision["decision"], states["performance"]) == ("no-go", "no-go")
    assert list(ws.reports.glob("audit/*/audit.html"))


def kill_at(ws: Workspace, step: str, after_s: float) -> None:
    "Start a run, wait until it is at `step`, and kill it without warning."
    run = subprocess.Popen(
        [BIN / "mlops-nb", "run", str(ws.root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    file = ws.state / "step.json"
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        at = json.loads(file.read_text()) if file.exists() else {}
        if at.get("pid") == run.pid and at.get("step") == step:
            break
        assert run.poll() is None, f"the run ended before it came to '{step}'"
        time.sleep(0.02)
    else:
        pytest.fail(f"the run never came to '{step}'")
    time.sleep(after_s)
    family = psutil.Process(run.pid).children(recursive=True) if run.poll() is None else []
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive, f"children outlived the run: {alive}"


@pytest.mark.slow
def test_a_run_killed_at_any_step_resumes(cli: Cli, tmp_path: Path) -> None:
    ws = new_workspace(cli, tmp_path, "wine")
    rng = random.Random(5)
    for step in STEPS:
        kill_at(ws, step, rng.uniform(0.0, 1.5))
        Ledger(ws.ledger_file).head()
    done = cli("run", ws.root)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = Ledger(ws.ledger_file).entries()
    told = [(e.event, e.subject) for e in entries if e.event in ("data.snapshot", "bundle.exported", "version.moved")]
    assert len(told) == len(set(told))
    assert "up to date" in dvc_status(ws)
    assert cli("verify", ws.root).returncode == 0
    assert not list(ws.root.rglob("*.tmp"))


def edited(file: Path, change: Callable[[str], str]) -> None:
    file.write_text(change(file.read_text()))


@pytest.mark.slow
def test_an_unreachable_threshold_is_a_no_go_that_names_it(cli: Cli, tmp_path: Path) -> None:
    ws = new_workspace(cli, tmp_path, "loans")
    edited(ws.charter_file, lambda text: text.replace("threshold = 0.7", "threshold = 0.995"))
    done = cli("run", ws.root)
    assert done.returncode == 1
    criteria = {c["id"]: c["state"] for c in json.loads(ws.decision_file.read_text())["criteria"]}
    assert criteria["performance"] == "no-go"
    assert "no-go" not in {v for k, v in criteria.items() if k != "performance"}


@pytest.mark.slow
def test_a_leaked_target_is_a_no_go_that_names_it(cli: Cli, tmp_path: Path) -> None:
    from tests.tables import loans

    frame = loans()
    frame["status_code"] = (frame["defaulted"] == "yes") * 10 + 1
    frame.to_csv(tmp_path / "loans.csv", index=False)
    assert cli("init", tmp_path / "ws", "--data", tmp_path / "loans.csv", "--target", "defaulted").returncode == 0
    done = cli("run", tmp_path / "ws")
    assert done.returncode == 1, done.stdout
    decision = json.loads((tmp_path / "ws" / "decision.json").read_text())
    assert decision["decision"] == "no-go"
    assert any("status_code" in json.dumps(r) for r in decision["reasons"])


@pytest.mark.slow
def test_a_subgroup_gap_is_a_no_go_that_names_it(cli: Cli, tmp_path: Path) -> None:
    import numpy as np

    from tests.tables import loans

    frame = loans(6000)
    rng = np.random.default_rng(3)
    frame["branch"] = np.where(rng.random(len(frame)) < 0.5, "north", "south")
    south = frame["branch"] == "south"
    frame.loc[south, "defaulted"] = rng.choice(["yes", "no"], south.sum())  # nothing predicts anything there
    frame.to_csv(tmp_path / "loans.csv", index=False)
    assert cli("init", tmp_path / "ws", "--data", tmp_path / "loans.csv", "--target", "defaulted").returncode == 0
    ws = Workspace(tmp_path / "ws")
    edited(
        ws.charter_file,
        lambda text: (
            text.replace("threshold = 0.7", "threshold = 0.55")
            .replace("subgroups = []", 'subgroups = ["branch"]')
            .replace("required = false", "required = true")
        ),
    )
    done = cli("run", ws.root)
    assert done.returncode == 1, done.stdout
    criteria = {c["id"]: c["state"] for c in json.loads(ws.decision_file.read_text())["criteria"]}
    assert criteria["fairness"] == "no-go"


def test_a_reviewed_charter_changed_after_the_freeze_stops_the_run(cli: Cli, tmp_path: Path) -> None:
    ws = new_workspace(cli, tmp_path, "wine")
    edited(
        ws.charter_file,
        lambda text: text.replace('status = "draft"', 'status = "reviewed"').replace('owner = ""', 'owner = "QA"'),
    )
    assert cli("charter", "freeze", ws.root).returncode == 0
    edited(ws.charter_file, lambda text: text.replace("runs = 3", "runs = 4"))
    done = cli("run", ws.root)
    assert done.returncode == 2
    assert "changed since it was frozen" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_tampered_ledger_stops_the_run_and_is_named(cli: Cli, tmp_path: Path) -> None:
    ws = new_workspace(cli, tmp_path, "wine")
    assert cli("charter", "freeze", ws.root).returncode == 0
    edited(ws.ledger_file, lambda text: text.replace('"draft":true', '"draft":false'))
    for command in ("run", "verify"):
        done = cli(command, ws.root)
        assert (done.returncode, "ledger.jsonl line 1" in done.stderr + done.stdout) == (1, True), done.stderr
