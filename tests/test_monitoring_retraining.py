"From a diagnosis to a challenger: the snapshot, the gate, the register; and the monitor on a real server's log."

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from mlops_nb.bundle.format import load_bundle
from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.files import read_json, write_json
from mlops_nb.core.workspace import Workspace, stage_evidence
from mlops_nb.data.frames import conform, encode_frame
from mlops_nb.ledger import Ledger
from mlops_nb.monitoring.findings import PIPELINE
from mlops_nb.monitoring.policy import Retraining
from mlops_nb.monitoring.retraining import AGAINST, Proposal, harvest, propose
from mlops_nb.monitoring.watch import watch
from mlops_nb.serving.log import read_log, read_outcomes
from tests.conftest import Cli
from tests.monitored_log import CONTRACT, START, draw, leaving_out, log_table, outcomes_table, write_day
from tests.test_monitoring_delivery import hook
from tests.tried_workspace import copy

NOW = datetime(2026, 2, 1, tzinfo=UTC)


def window(name: str, *actions: str, promise: str = "no-go") -> dict[str, Any]:
    reason = {"key": "cause.concept.reason", "args": {}}
    found = [{"action": a, "reason": reason} for a in actions]
    return {"name": name, "diagnosis": found, "layers": {"model": {"promise": promise}}}


def test_no_fault_of_the_pipeline_leaves_room_for_a_retraining() -> None:
    rule = Retraining(when="trigger", windows=1)
    for action in {*PIPELINE.values(), "replay", "review-target"}:
        assert action in AGAINST, action
        found = propose([window("a", "retrain"), window("b", "retrain", action)], {}, rule, None, NOW)
        assert not isinstance(found, Proposal), action


@pytest.mark.parametrize(
    ("days", "rule", "last", "expected"),
    [
        ("RR", Retraining(when="trigger", windows=2), None, True),
        ("R-", Retraining(when="trigger", windows=2), None, False),
        ("R-", Retraining(when="trigger", windows=1), None, True),
        ("RG", Retraining(when="trigger", windows=1), None, False),
        ("", Retraining(when="trigger", windows=1), None, False),
        ("RR", Retraining(when="trigger", windows=2), 1, False),
        ("RR", Retraining(when="trigger", windows=2), 8, True),
        ("RR", Retraining(when="schedule", every_days=30), 8, False),
        ("GR", Retraining(when="schedule", every_days=30), 31, True),
        ("GG", Retraining(when="schedule", every_days=30), 31, False),
        ("RR", Retraining(), None, False),
    ],
)
def test_when_a_retraining_is_proposed(days: str, rule: Retraining, last: int | None, expected: bool) -> None:
    kinds = {"R": window("x", "retrain"), "G": window("x", promise="go"), "-": window("x", promise="conditional")}
    docs = [{**kinds[d], "name": f"w{i}"} for i, d in enumerate(days)]
    started = None if last is None else NOW - timedelta(days=last)
    assert isinstance(propose(docs, {}, rule, started, NOW), Proposal) is expected


def days_of(count: int, folder: Path, **how: Any) -> tuple[pa.Table, pa.Table]:
    for day in range(count):
        write_day(folder, day, 100, **how)
    return read_log(folder), read_outcomes(folder)


def test_the_snapshot_encodes_to_what_the_model_saw(tmp_path: Path) -> None:
    log, outcomes = days_of(2, tmp_path)
    found = harvest(log, outcomes, CONTRACT, NOW)
    assert len(found.frame) == 200
    file = tmp_path / "snapshot.csv"
    found.frame.to_csv(file, index=False)
    again = encode_frame(CONTRACT, conform(CONTRACT, pd.read_csv(file)))
    for name, values in again.items():
        logged = log[f"in.{name}"]
        expected = logged.cast(pa.int32()).to_pylist() if name == "since" else logged.to_pylist()
        assert values.tolist() == expected, name


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_became_known_later_is_in_the_snapshot(tmp_path: Path, seed: int) -> None:
    log, outcomes = days_of(4, tmp_path, seed=seed)
    for day in range(1, 6):
        until = START + timedelta(days=day, hours=2)
        found = harvest(log, outcomes, CONTRACT, until)
        before = log.filter(pa.compute.less(log["time"], pa.scalar(until)))
        told = outcomes.filter(pa.compute.less(outcomes["received"], pa.scalar(until)))
        assert len(found.frame) == told.num_rows == min(day, 4) * 100
        assert found.counts["unlabelled"] == before.num_rows - told.num_rows
        assert (
            sum(v for k, v in found.counts.items() if k not in ("records", "kept")) + found.counts["kept"]
            == log.num_rows
        )


def test_every_record_is_counted_once_whatever_became_of_it() -> None:
    rng = np.random.default_rng(0)
    day = log_table(draw(rng, 60), START)
    shadow = log_table(draw(rng, 10), START, arm="shadow")
    rehearsed = log_table(draw(rng, 7), START + timedelta(hours=1))
    rehearsed = rehearsed.set_column(rehearsed.column_names.index("basis"), "basis", [["simulated"] * 7])
    log = pa.concat_tables([day, shadow, rehearsed])
    ids = log["prediction_id"].to_pylist()
    told = outcomes_table(ids, ["Yes", "No", "perhaps"] * 25 + ["Yes"] * 2, START + timedelta(days=1))
    found = harvest(log, told, CONTRACT, NOW)
    assert found.counts == {
        "records": 77,
        "unanswered": 0,
        "shadow": 10,
        "rehearsed": 7,
        "period": 0,
        "unlabelled": 20,
        "repeated": 0,
        "kept": 40,
    }


def test_a_log_without_the_values_is_refused_by_name(tmp_path: Path) -> None:
    log, outcomes = days_of(1, tmp_path)
    with pytest.raises(InputError, match="column 'plan': the log does not hold its values"):
        harvest(leaving_out(log, "plan"), outcomes, CONTRACT, NOW)
    with pytest.raises(InputError, match="no answered row of production"):
        harvest(log, outcomes, CONTRACT, START)


POLICY = """
[look]
every = "hour"
settle_minutes = 0
fresh_hours = 48
[alert]
windows = 1
of = 1
[[alert.channel]]
kind = "slack"
url = "{url}"
[[alert.channel]]
kind = "email"
to = "oncall@example.org"
[retrain]
when = "trigger"
windows = 1
rows = 300
"""


def serve_and_tell(ws: Workspace, flip: bool) -> None:
    "The real server on the workspace's log: the future split is asked, its outcomes told, wrongly where `flip` says so."
    from mlops_nb.data.frames import labels, rows
    from mlops_nb.monitoring.policy import WindowPlan
    from mlops_nb.monitoring.rehearsal import send_window
    from mlops_nb.trial.server import running

    bundle = load_bundle(ws.root / stage_evidence(ws, "export").data["candidate"]["path"])
    table = pd.concat([pd.read_parquet(ws.split(n)) for n in ("future", "test")])
    classes = bundle.contract.target.classes
    truth = [classes[1 - k if flip else k] for k in labels(bundle.contract, table)]
    with running((bundle.path,), log_dir=ws.logs, state_dir=ws.state / "serve") as client:
        send_window(client, WindowPlan(name="w", share=1), rows(bundle.contract, table), truth)


@pytest.mark.slow
@pytest.mark.xdist_group("tried")
def test_from_the_servers_log_to_a_challenger(cli: Cli, tmp_path: Path) -> None:
    ws = copy(tmp_path)
    write_json(ws.decision_file, {"decision": "conditional"})
    with hook(503) as slack:
        ws.policy_file.write_text(POLICY.format(url=slack.url))
        serve_and_tell(ws, flip=True)
        later = datetime.now(UTC).replace(minute=1) + timedelta(hours=1)
        first = watch(ws, later)
        opened = [c for c in first.changes if c.what == "opened"]
        assert slack.requests == 2, "asked, and asked once more"
        assert first.look.verdict == "alert"
        assert "promise" in {c.alert.subject for c in opened}
        assert watch(ws, later).changes == (), "nothing is told twice"
        slack.always = 200
        sent = watch(ws, later + timedelta(minutes=2)).delivery.sent
        assert len(slack.got) == len(sent) == len(opened)
    assert len(list((ws.state / "mail").glob("*.eml"))) == len(opened)
    lines = (ws.logs / "alerts.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["alert.opened"] * len(opened)
    assert {e.subject for e in Ledger(ws.ledger_file).entries("alert.opened")} == {c.alert.id for c in opened}
    evidence = stage_evidence(ws, "monitor")
    assert evidence.data["basis"] == "measured"
    assert {d["name"] for d in evidence.data["windows"]} == {f.stem for f in ws.windows.glob("*.json")}
    done = cli("monitor", ws.root, "--json", "--no-retrain")
    assert done.returncode in (1, 3), done.stderr
    assert json.loads(done.stdout)["stage"] == "monitor"
    entries = len(Ledger(ws.ledger_file).entries())
    (ws.state / "alerts.json").unlink()  # a crash before the board was written
    repeated = watch(ws, later + timedelta(minutes=2))
    assert len(repeated.changes) == len(opened), "found again, and known by what was told"
    assert (len(Ledger(ws.ledger_file).entries()), repeated.delivery.attempts) == (entries, 0)
    (ws.state / "alerts.json").write_text('{"v": 1}')
    with pytest.raises(InputError, match="is no list of alerts"):
        watch(ws, later)
    assert isinstance(first.proposal, Proposal), first.proposal
    trained(ws, first.proposal, later)


def trained(ws: Workspace, proposal: Proposal, until: datetime) -> None:
    "The same gate with the same promises, on rows of production only."
    from mlops_nb.lifecycle.challenger import read_register, train_challenger

    with pytest.raises(Refused, match=r"labelled rows, policy\.toml asks for 100000"):
        train_challenger(ws, proposal, until, Retraining(when="trigger", rows=100_000))
    assert not Ledger(ws.ledger_file).entries("retrain.started")
    done = train_challenger(ws, proposal, until, Retraining(when="trigger", rows=300))
    child = Workspace(ws.root / "challengers" / done.name)
    assert done.decision == read_json(child.decision_file)["decision"]
    assert done.charter == read_json(child.frozen_file)["sha256"] == read_json(ws.frozen_file)["sha256"]
    assert done.delta is not None
    assert done.delta.low is not None
    assert done.delta.low > 0.2, "the outcomes were turned round: the challenger is right where the champion is wrong"
    champion = pd.concat([pd.read_parquet(ws.split(n)) for n in ("train", "valid")])
    test = pd.read_parquet(child.split("test"))
    assert len(test.merge(champion, on=list(champion.columns))) <= 0.02 * len(test)
    events = [e.event for e in Ledger(ws.ledger_file).entries()]
    assert events[-3:] == ["retrain.started", "bundle.exported", "decision.made"]
    (entry,) = Ledger(ws.ledger_file).entries("retrain.started")
    assert entry.data["diagnosis"]["windows"] == list(proposal.windows)
    assert read_register(ws).entries == (done,)
    assert stage_evidence(ws, "retraining").facts[0].value == done.delta.value
    again = train_challenger(ws, proposal, until, Retraining(when="trigger", rows=300))
    assert again == done, "the same snapshot is the same challenger"


def test_two_rounds_at_once(tmp_path: Path) -> None:
    from filelock import FileLock

    ws = Workspace(tmp_path)
    ws.state.mkdir()
    with FileLock(ws.state / "monitor.lock"):
        errors: list[Exception] = []

        def other() -> None:
            try:
                watch(ws)
            except InputError as e:
                errors.append(e)

        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert "another round of the monitor is at work" in str(errors[0])
