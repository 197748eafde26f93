"MLflow holds each run once, whole, and says where its numbers came from."

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from mlops_nb.core.workspace import Workspace
from mlops_nb.poc.tracking import Run, quiet_mlflow, track, tracking_uri


def client_of(ws: Workspace) -> Any:
    with quiet_mlflow() as mlflow:
        return mlflow.MlflowClient(tracking_uri(ws))


def test_a_run_that_was_killed_half_way_is_closed_and_entered_again(tmp_path: Path) -> None:
    ws, run = Workspace(tmp_path), Run("seed-0", "k", metrics={"auc": 0.8})
    client = client_of(ws)
    place = client.create_experiment("m", (tmp_path / "mlartifacts").as_uri())
    with quiet_mlflow():
        half = client.create_run(place, run_name="seed-0", tags={"mlops_nb.key": "k"}).info.run_id
        whole = track(ws, "m", run)
        assert whole != half
        assert client.get_run(half).info.status == "KILLED"
        assert track(ws, "m", run) == whole
        assert track(ws, "m", Run("seed-0", "other")) != whole


def test_folders_and_files_are_kept(tmp_path: Path) -> None:
    ws = Workspace(tmp_path / "a workspace é")
    (ws.root / "folder").mkdir(parents=True)
    (ws.root / "folder" / "in.txt").write_text("x")
    (ws.root / "one.txt").write_text("y")
    id = track(ws, "m", Run("r", "k", artifacts=(ws.root / "folder", ws.root / "one.txt")))
    with quiet_mlflow():
        names = [a.path for a in client_of(ws).list_artifacts(id)]
    assert names == ["folder", "one.txt"]


def test_a_very_long_parameter_does_not_stop_the_run(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    id = track(ws, "m", Run("r", "k", params={"long": "x" * 9_000}))
    with quiet_mlflow():
        assert len(client_of(ws).get_run(id).data.params["long"]) == 5_000


def test_a_tracking_server_is_used_when_the_settings_name_one(tmp_path: Path) -> None:
    (tmp_path / "mlops_nb.ini").write_text("[DEFAULT]\nmlflow_uri = http://127.0.0.1:9\n")
    assert tracking_uri(Workspace(tmp_path)) == "http://127.0.0.1:9"


def test_nothing_is_sent_and_nothing_is_printed(tmp_path: Path) -> None:
    code = f"""
import os
from mlops_nb.core.workspace import Workspace
from mlops_nb.poc.tracking import Run, track
track(Workspace({str(tmp_path)!r}), "m", Run("r", "k"))
assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == os.environ["DO_NOT_TRACK"] == "true"
"""
    env = {k: v for k, v in os.environ.items() if k not in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
