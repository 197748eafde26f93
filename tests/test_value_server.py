"An experiment on the real server: its routes fill the arms, its log and the outcomes it was told give the result."

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlops_nb.core.workspace import Workspace
from mlops_nb.value.readout import read_experiment
from mlops_nb.value.registration import Experiment, register
from tests.serving_bundle import ROW, make_bundle, running

pytestmark = pytest.mark.slow

PLAN = {
    "name": "served-1",
    "control": "champion",
    "treatment": "challenger",
    "metric": "margin",
    "effect": 1.0,
    "sd": 1.0,
    "daily_units": 100,
    "window_days": 1,
    "covariate": "tenure",
    "segments": ("plan",),
    "guard_rails": {"complaints": {"margin": 0.5}},
}


def test_arms_and_outcomes_of_the_server_become_a_result(tmp_path: Path) -> None:
    old, new = (make_bundle(tmp_path / "bundles", name) for name in ("old", "new"))
    ws = Workspace(tmp_path)
    with running(tmp_path, old) as server:
        policy = {"steps": [0.5, 1.0], "hold_s": 3600}
        asked = server.client.post("/admin/canary", json={"bundle": str(new), "policy": policy}, timeout=60)
        assert asked.status_code == 200
        assert server.client.post("/predict", json={"rows": [ROW], "unit_ids": ["early"]}).status_code == 200
        plan = register(ws, Experiment.model_validate(PLAN))
        assert {plan.experiment.control, plan.experiment.treatment} == {old.name[-12:], new.name[-12:]}
        arms, told = {}, []
        for i in range(160):
            row = {**ROW, "tenure": i % 50}
            reply = server.client.post("/predict", json={"rows": [row], "unit_ids": [f"u{i}"]}).json()
            arms[f"u{i}"] = reply["arm"]
            named = {"unit_id": f"u{i}"} if i % 2 else {"prediction_id": reply["predictions"][0]["id"]}
            value = 0.02 * (i % 50) + 2.0 * (reply["arm"] == "challenger") + (i % 7) / 7
            now = datetime.now(UTC).isoformat()
            told.append({**named, "time": now, "kind": "margin", "value": value, "currency": "EUR"})
            told.append({**named, "time": now, "kind": "complaints", "value": float(i % 5 == 0)})
        assert server.client.post("/outcomes", json={"outcomes": told}).status_code == 200
        assert server.stop() == 0
    found = read_experiment(ws, until=datetime.now(UTC) + timedelta(days=2))
    sides = [sum(a == role for a in arms.values()) for role in ("champion", "challenger")]
    assert found.arrivals == tuple(sides)
    assert [n.args for n in found.notes if n.key.endswith("before")] == [{"n": 1}]
    assert (found.state, found.winner, found.currency) == ("assessed", "treatment", "EUR")
    assert found.effect is not None
    assert found.effect.difference == pytest.approx(2.0, abs=0.2)
    assert [r.state for r in found.rails] == ["safe"]
