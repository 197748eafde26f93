"The stage: three runs, measured again, entered in MLflow; and notebooks that leave something else than they should."

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_nb.charter import load_frozen
from mlops_nb.core.errors import InputError
from mlops_nb.core.files import read_json, write_json
from mlops_nb.core.hashing import sha256_file
from mlops_nb.core.workspace import Workspace, stage_evidence
from mlops_nb.data.contract import load_contract
from mlops_nb.data.frames import labels
from mlops_nb.poc.metrics import metric_for
from mlops_nb.poc.runs import read_run, run_notebook
from mlops_nb.poc.tracking import mlflow_client
from tests.tried_workspace import copy, tried

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tried")]  # one workspace for all of them


def edit(ws: Workspace, cell: str, old: str, new: str) -> None:
    doc = read_json(ws.notebook)
    found = next(c for c in doc["cells"] if c["id"] == cell)
    text = "".join(found["source"])
    assert old in text
    found["source"] = text.replace(old, new).splitlines(keepends=True)
    write_json(ws.notebook, doc)


def test_the_evidence_says_what_stands_in_the_files() -> None:
    ws = tried()
    evidence, contract = stage_evidence(ws, "poc"), load_contract(ws.contract_file)
    truth = labels(contract, pd.read_parquet(ws.split("valid")))
    auc = metric_for("roc_auc", "binary")
    for seed in range(3):
        run = read_run(ws, contract, seed, truth)
        fact = evidence.fact(f"poc.roc_auc/seed-{seed}")
        assert fact.value == auc.measure(run.model, 0.95).value
        assert fact.source.sha256 == sha256_file(ws.root / fact.source.path)
        assert fact.low is not None
        assert fact.source.cell == "save"
        assert fact.source.run == evidence.data["seeds"][seed]["run"]
    spread = evidence.fact("poc.spread")
    assert spread.n == 3
    assert spread.threshold == load_frozen(ws).charter.criteria.reproducibility.spread
    seed, rows = evidence.fact("stability.seed"), evidence.fact("stability.rows")
    assert (seed.n, rows.n) == (3, len(truth))
    assert 0 <= seed.low <= seed.value <= seed.high  # type: ignore[operator]
    assert seed.value < spread.value < 3 * rows.value  # type: ignore[operator]
    assert set(evidence.inputs) == {
        "charter.frozen.json",
        "contract.json",
        "notebooks/poc.ipynb",
        "splits/train.parquet",
        "splits/valid.parquet",
    }


def test_mlflow_holds_the_three_seeds_with_data_environment_and_artefacts() -> None:
    ws = tried()
    with mlflow_client(ws) as client:
        place = client.get_experiment_by_name("loans")
        runs = sorted(client.search_runs([place.experiment_id]), key=lambda r: r.data.params["seed"])
        kept = {a.path for a in client.list_artifacts(runs[0].info.run_id)}
    assert [r.data.params["seed"] for r in runs] == ["0", "1", "2"]
    assert all(r.info.status == "FINISHED" for r in runs)
    assert runs[0].data.tags["data.splits/train.parquet"] == sha256_file(ws.split("train"))
    assert runs[0].data.tags["environment.scikit-learn"].startswith("1.7")
    assert "model.C" in runs[0].data.params
    assert runs[0].data.metrics["valid.model.roc_auc"] == stage_evidence(ws, "poc").fact("poc.roc_auc/seed-0").value
    assert kept == {"metrics.json", "parameters.json", "poc.ipynb", "predictions.parquet"}


def test_a_run_again_gives_the_same_bytes(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    before = {p.name: sha256_file(p) for p in (ws.runs / "seed-1").iterdir()}
    run_notebook(ws, 1)
    assert {p.name: sha256_file(p) for p in (ws.runs / "seed-1").iterdir()} == before
    assert str(tmp_path) not in (ws.runs / "seed-1" / "poc.ipynb").read_text()


def test_a_leftover_of_a_killed_run_is_swept_away(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    left = ws.runs / ".seed-0.999999999.abcdef12.tmp"
    shutil.copytree(ws.runs / "seed-0", left)
    run_notebook(ws, 0)
    assert not left.exists()
    assert (ws.runs / "seed-0" / "predictions.parquet").exists()


def test_a_notebook_that_leaves_nothing_is_refused(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    edit(ws, "save", 'predictions.to_parquet(folder / "predictions.parquet", index=False)', "")
    with pytest.raises(InputError, match=r"poc\.ipynb: it left no predictions\.parquet"):
        run_notebook(ws, 0)
    assert not (ws.runs / "seed-0").exists()


BROKEN: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "short": (lambda t: t[:-1], "predictions for"),
    "nan": (lambda t: t.assign(**{"p.no": np.nan}), r"'p\.no' holds something that is no finite number"),
    "sum": (lambda t: t.assign(**{"p.no": 1.0}), "are no probabilities"),
    "negative": (lambda t: t.assign(**{"p.no": 2.0, "p.yes": -1.0}), "are no probabilities"),
    "missing": (lambda t: t.drop(columns="p.no"), r"no column 'p\.no'"),
    "no baseline": (lambda t: t.drop(columns="baseline.p.no"), r"no column 'baseline\.p\.no'"),
    "words": (lambda t: t.assign(**{"p.no": "no"}), "no finite number"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_predictions_that_are_none_are_refused(tmp_path: Path, how: str) -> None:
    ws = copy(tmp_path)
    change, said = BROKEN[how]
    file = ws.runs / "seed-0" / "predictions.parquet"
    change(pd.read_parquet(file)).to_parquet(file)
    contract = load_contract(ws.contract_file)
    truth = labels(contract, pd.read_parquet(ws.split("valid")))
    with pytest.raises(InputError, match=said):
        read_run(ws, contract, 0, truth)
