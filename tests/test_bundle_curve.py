"The learning curve: fits on parts in a process of their own, within a budget."

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_nb.bundle.curve import DRAWS, fit_parts, learning_curve
from mlops_nb.charter import load_frozen
from mlops_nb.core.facts import Fact
from mlops_nb.core.messages import Message
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.poc.case import champion_file
from mlops_nb.poc.scorecard import run_score
from mlops_nb.trial.champion import write_champion
from mlops_nb.trial.stage import read_material
from tests.tried_workspace import copy, tried

MODULE = """
import numpy as np

class Mean:
    def fit(self, x, y):
        {body}
        self.classes_, self.rows = np.array([0, 1]), len(x)
        return self

    def predict_proba(self, x):
        return np.full((len(x), 2), self.rows / 1000)

def build_model(contract, seed):
    return Mean()
"""


def job(folder: Path, body: str = "pass") -> dict[str, Path | str | int]:
    contract = Contract((Column("x", "number"),), Target("y", "binary", ("no", "yes"), "yes"))
    contract.save(folder / "contract.json")
    table = pd.DataFrame({"x": np.arange(800.0), "y": np.where(np.arange(800) % 4, "no", "yes")})
    for split in ("train", "valid"):
        table.to_parquet(folder / f"{split}.parquet")
    (folder / "model.py").write_text(MODULE.format(body=body))
    paths = {"contract": folder / "contract.json", "train": folder / "train.parquet", "valid": folder / "valid.parquet"}
    return {**paths, "module": folder / "model.py", "features": "", "seed": 0}


def test_every_part_is_fitted_three_times_and_answers_all_rows(tmp_path: Path) -> None:
    found = fit_parts(job(tmp_path))
    assert (found.rows, found.why) == (800, "")
    assert {n: len(draws) for n, draws in found.parts.items()} == dict.fromkeys((100, 200, 400), DRAWS)
    assert {n: float(draws[0][0, 0]) for n, draws in found.parts.items()} == {100: 0.1, 200: 0.2, 400: 0.4}
    assert found.parts[400][0].shape == (800, 2)


@pytest.mark.slow
def test_what_does_not_fit_into_the_budget_is_not_begun(tmp_path: Path) -> None:
    found = fit_parts(job(tmp_path, "import time; time.sleep(0.05)"), budget_s=0.2)
    assert "would take about" in found.why
    assert 400 not in found.parts


@pytest.mark.slow
def test_a_model_that_cannot_learn_from_a_part_is_a_reason_and_no_error(tmp_path: Path) -> None:
    found = fit_parts(job(tmp_path, "raise ValueError('needs more rows')"))
    assert "needs more rows" in found.why
    assert found.parts == {}


@pytest.mark.slow
@pytest.mark.xdist_group("tried")
def test_a_workspace_gets_its_curve_and_its_champion_is_asked(tmp_path: Path) -> None:
    ws = copy(tmp_path)
    assert tried().root != ws.root
    charter = load_frozen(ws).charter
    found = list(learning_curve(ws, charter))
    facts = {f.id: f for f in found if isinstance(f, Fact)}
    assert {"learning.doubling", "learning.next_doubling"} <= set(facts)
    assert [m.key.rpartition(".")[0] for m in found if isinstance(m, Message)] == ["score.learning"]

    material = read_material(ws)
    assert write_champion(ws, charter, material.candidate) == {}
    assert pd.read_parquet(champion_file(ws)).empty
    named = charter.model_copy(
        update={"champion": charter.champion.model_copy(update={"bundle": ws.relative(material.baseline.path)})}
    )
    told = write_champion(ws, named, material.candidate)
    assert told == {"id": material.baseline.id, "version": material.baseline.version, "why": ""}
    table, test = pd.read_parquet(champion_file(ws)), pd.read_parquet(ws.split("test"))
    assert len(table) == len(test)
    assert not run_score(ws).data["champion"]  # the probe has not told of it
