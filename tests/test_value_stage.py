from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from mlops_nb.charter import Business, freeze_file
from mlops_nb.core.facts import Fact
from mlops_nb.core.files import read_json, write_json
from mlops_nb.core.workspace import Evidence, Workspace, stage_evidence, write_evidence
from mlops_nb.value.stage import Counts, month_value, run_value, variance
from tests.value_charter import charter

BUSINESS = """[business]
value_per_action = {gain}
action_cost = 5.0
uptake = 0.5
uptake_low = 0.4
uptake_high = 0.6
units_per_month = 1000
basis = "{basis}"
[costs]
items = [{{item = "team", amount = {team}}}]
"""


def workspace(
    root: Path, task: str = "binary", gain: float = 100.0, team: float = 2000.0, basis: str = "assumed"
) -> Workspace:
    ws = Workspace(root)
    ws.charter_file.write_text(charter(BUSINESS.format(gain=gain, team=team, basis=basis), task))
    freeze_file(ws)
    return ws


def score(ws: Workspace, **rates: float) -> None:
    facts = [
        Fact(f"{'naive' if k.startswith('naive_') else 'performance'}.{k.removeprefix('naive_')}", v, n=800)
        for k, v in rates.items()
    ]
    write_evidence(ws, Evidence("score", tuple(facts)))


@pytest.mark.parametrize(
    ("task", "rates", "value"),
    [
        ("binary", {"precision": 0.6, "selection_rate": 0.2}, 1000 * (0.12 * 0.5 * 100 - 0.2 * 5)),
        ("binary", {"recall": 0.6, "base_rate": 0.2, "precision": 0.6}, 1000 * (0.12 * 0.5 * 100 - 0.2 * 5)),
        ("multiclass", {"accuracy": 0.9, "naive_accuracy": 0.4}, 1000 * (0.5 * 0.5 * 100 - 5)),
        ("regression", {"r2": 0.4}, 1000 * (0.4 * 0.5 * 100 - 5)),
    ],
)
def test_the_value_of_a_month(tmp_path: Path, task: str, rates: dict[str, float], value: float) -> None:
    ws = workspace(tmp_path, task)
    score(ws, **rates)
    evidence = run_value(ws)
    assert evidence.fact("roi.value_monthly").value == pytest.approx(value)
    assert evidence.fact("roi.net_monthly").value == pytest.approx(value - 2000)
    assert evidence.fact("roi.ratio").basis == "assumed"
    assert evidence.fact("value.cost_per_1000").state == "not-assessed"


@pytest.mark.parametrize(
    ("task", "rates"), [("binary", {"roc_auc": 0.9}), ("multiclass", {"accuracy": 0.9}), ("regression", {})]
)
def test_rates_that_do_not_suffice_give_no_return(tmp_path: Path, task: str, rates: dict[str, float]) -> None:
    ws = workspace(tmp_path, task)
    score(ws, **rates)
    evidence = run_value(ws)
    assert evidence.data["decision"] == "not-assessed"
    assert evidence.fact("roi.ratio").value is None
    assert evidence.warnings[0].key == "value.no_rates"


def test_rehearsed_windows_lead_and_are_called_simulated(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    score(ws, precision=0.6, selection_rate=0.2)
    write_json(ws.windows / "a.json", {"counts": {"rows": 300, "actions": 60, "hits": 40}})
    write_json(ws.windows / "b.json", {"verdict": "drift"})
    facts = (
        Fact("window.precision/b", 0.5, n=50),
        Fact("window.selection_rate/b", 0.2, n=300),
        Fact("window.auc/b", 0.8, n=300),
    )
    write_evidence(ws, Evidence("monitor", facts))
    evidence = run_value(ws)
    assert evidence.data["counts"] == {"rows": 600, "actions": 120.0, "hits": 70.0, "name": ""}
    assert [w["name"] for w in evidence.data["windows"]] == ["a", "b"]
    assert {f.basis for f in evidence.facts if f.id.startswith("roi.") and f.id != "roi.decision"} == {"simulated"}
    assert {w.key for w in evidence.warnings} == {"value.money_assumed", "value.rehearsed"}


def test_a_rehearsal_never_decommissions(tmp_path: Path) -> None:
    ws = workspace(tmp_path, team=900_000.0)
    score(ws, precision=0.6, selection_rate=0.2)
    for name in "ab":
        write_json(ws.windows / f"{name}.json", {"counts": {"rows": 300, "actions": 60, "hits": 40}})
    evidence = run_value(ws)
    assert evidence.data["decision"] == "optimise"
    assert evidence.data["reason"]["key"] == "roi.reason.below_early"


def test_it_is_the_same_twice_and_traceable(tmp_path: Path) -> None:
    ws = workspace(tmp_path, basis="measured")
    score(ws, precision=0.6, selection_rate=0.2)
    run_value(ws)
    first = ws.value_file.read_bytes()
    run_value(ws)
    assert ws.value_file.read_bytes() == first
    assert set(read_json(ws.value_file)["inputs"]) == {"charter.frozen.json", "evidence/score.json"}
    assert stage_evidence(ws, "value").warnings == ()


def test_the_machine_is_priced_from_the_trial(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    score(ws, precision=0.6, selection_rate=0.2)
    measured = (
        Fact("trial.rows", 1000, "rows"),
        Fact("trial.cpu_s", 36.0, "s"),
        Fact("trial.wall_s", 36.0, "s"),
        Fact("trial.rss_mib", 1024.0, "MiB"),
    )
    write_evidence(ws, Evidence("trial", measured))
    evidence = run_value(ws)
    assert evidence.fact("value.cost_per_1000").value == pytest.approx(36 / 3600 * (0.05 + 0.005))
    serving = next(c for c in evidence.data["costs"] if c["item"] == "serving")
    assert serving["amount"] > 0
    assert serving["basis"] == "measured"


def test_without_costs_only_the_net_value_decides(tmp_path: Path) -> None:
    ws = workspace(tmp_path, team=0.0)
    score(ws, precision=0.6, selection_rate=0.2)
    evidence = run_value(ws)
    assert evidence.fact("roi.ratio").value is None
    assert evidence.data["decision"] == "keep"
    assert "roi.note.zero_cost" in {w.key for w in evidence.warnings}


def test_the_variance_is_that_of_the_draws() -> None:
    b = Business(
        value_per_action=100, action_cost=30, uptake=0.5, uptake_low=0.4, uptake_high=0.6, units_per_month=1000
    )
    rng = np.random.default_rng(0)
    draws = rng.multinomial(400, [0.15, 0.25, 0.6], size=200_000) / 400  # hits, actions in vain, no action
    uptake = rng.normal(0.5, 0.1 / 1.96, 200_000)
    values = month_value(draws[:, 0], draws[:, 0] + draws[:, 1], uptake, 100, 30, 1000)  # type: ignore[arg-type]
    assert np.sqrt(variance(Counts(400, 160, 60), b)) == pytest.approx(values.std(), rel=0.01)


def test_windows_of_production_are_given_to_the_months_of_the_calendar(tmp_path: Path) -> None:
    ws = workspace(tmp_path, team=900_000.0, basis="measured")
    monday = datetime(2026, 1, 5, tzinfo=UTC)
    for i in range(26):
        start, end = (monday + timedelta(weeks=i + k) for k in (0, 1))
        doc = {"counts": {"rows": 70, "actions": 14, "hits": 7}, "start": start.isoformat(), "end": end.isoformat()}
        write_json(ws.windows / f"2026-W{i + 2:02d}.json", doc)
    write_evidence(ws, Evidence("monitor", (), {"basis": "measured"}))
    evidence = run_value(ws)
    assert [w["name"] for w in evidence.data["windows"]] == [f"2026-{m:02d}" for m in range(1, 8)]
    assert evidence.fact("roi.net_monthly").n == 6  # of July five days were seen
    assert evidence.data["counts"]["rows"] == 26 * 70
    assert evidence.data["decision"] == "decommission"
    for week in (23, 24, 25):  # while these are open, June has been seen for a few days only
        file = ws.windows / f"2026-W{week}.json"
        write_json(file, {**read_json(file), "open": True})
    assert run_value(ws).fact("roi.net_monthly").n == 5
    for file in sorted(ws.windows.glob("*.json"))[4:]:
        file.unlink()
    early = run_value(ws)
    assert (early.data["decision"], early.fact("roi.net_monthly").n) == ("optimise", 1)


def test_many_rehearsed_windows_are_never_enough_to_retire(tmp_path: Path) -> None:
    ws = workspace(tmp_path, team=900_000.0)
    for i in range(12):
        write_json(ws.windows / f"{i}.json", {"counts": {"rows": 300, "actions": 60, "hits": 40}})
    assert run_value(ws).data["decision"] == "optimise"
