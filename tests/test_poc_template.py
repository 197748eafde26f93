"The generated notebook: it works for every task and size, it learns, and a seed changes what it should."

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from threadpoolctl import threadpool_limits

from mlops_nb.core.errors import InputError
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.data.frames import conform, labels
from mlops_nb.data.inference import infer_contract
from mlops_nb.poc.metrics import metric_for
from mlops_nb.poc.runs import answers_of
from mlops_nb.poc.template import poc_notebook, write_poc_notebook
from mlops_nb.refactor.inspection import inspect_file
from tests.tables import TARGETS, frame_of

CHARTER = """
[problem]
name = "try"
[data]
file = "data/try.csv"
target = "{target}"
task = "{task}"
positive = {positive}
[criteria.performance]
metric = "{metric}"
threshold = 0.5
[criteria.fairness]
subgroups = [{subgroups}]
"""
METRIC = {"binary": "roc_auc", "multiclass": "accuracy", "regression": "r2"}


class Lab:
    "A workspace with just what the notebook reads, and the notebook's code run in this process."

    def __init__(self, root: Path, contract: Contract, frame: pd.DataFrame, subgroups: str = "") -> None:
        self.root, self.contract = root, contract
        target = contract.target
        rows = conform(contract, frame).sample(frac=1, random_state=0).reset_index(drop=True)
        self.train, self.valid = rows[: int(0.7 * len(rows))], rows[int(0.7 * len(rows)) :].reset_index(drop=True)
        (root / "splits").mkdir()
        self.train.to_parquet(root / "splits" / "train.parquet")
        self.valid.to_parquet(root / "splits" / "valid.parquet")
        contract.save(root / "contract.json")
        text = CHARTER.format(
            target=target.name,
            task=target.task,
            positive=json.dumps(target.positive),
            metric=METRIC[target.task],
            subgroups=subgroups,
        )
        (root / "charter.toml").write_text(text)

    def run(self, rows: int, seed: int = 0) -> dict[str, Any]:
        "Run the notebook for a table of `rows` rows; what it defined."
        out: dict[str, Any] = {}
        for cell in poc_notebook(self.contract, "try", rows)["cells"]:  # type: ignore[attr-defined]
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), out)
            if "parameters" in cell["metadata"].get("tags", ()):
                out.update(workspace=str(self.root), seed=seed, out=str(self.root / f"seed-{seed}"))
                out.update({n: str(self.root / "splits" / f"{n}.parquet") for n in ("train", "valid")})
        return out

    def score(self, seed: int = 0, who: str = "") -> float:
        "The leading metric of a run on valid."
        table = pd.read_parquet(self.root / f"seed-{seed}" / "predictions.parquet")
        answers = answers_of(table, self.contract, labels(self.contract, self.valid), who)
        task = self.contract.target.task
        return float(metric_for(METRIC[task], task).measure(answers, 0.95).value)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    "What the notebook's second cell does comes too late in this process, which has loaded the libraries already."
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    with threadpool_limits(1):
        yield


def lab_of(root: Path, name: str) -> Lab:
    frame = frame_of(name)
    contract, _ = infer_contract(frame, TARGETS[name])
    return Lab(root, contract, frame)


@pytest.mark.parametrize(
    ("name", "rows", "least"),
    [
        ("breast_cancer", 569, 0.98),
        ("breast_cancer", 7_000, 0.97),
        ("wine", 178, 0.94),
        ("wine", 30_000, 0.9),
        ("diabetes", 442, 0.38),
        ("diabetes", 7_000, 0.3),
        ("loans", 1_500, 0.7),
        ("loans", 7_000, 0.7),
    ],
)
def test_every_task_and_size_learns(tmp_path: Path, name: str, rows: int, least: float) -> None:
    lab = lab_of(tmp_path, name)
    lab.run(rows)
    assert lab.score() >= least
    assert lab.score() > lab.score(who="baseline.") - 0.02


def test_churn_is_predicted_as_well_as_it_can_be(tmp_path: Path) -> None:
    from mlops_nb.data.examples import load_example

    frame, fields = load_example("churn")
    contract, _ = infer_contract(frame, fields["target"])
    lab = Lab(tmp_path, contract, frame, '"senior_citizen", "female"')
    found = lab.run(len(frame))
    assert lab.score() > 0.835
    assert lab.score() > lab.score(who="baseline.") + 0.015
    assert len(found["groups"]) == 4


def test_a_seed_changes_the_model_and_nothing_else(tmp_path: Path) -> None:
    lab = lab_of(tmp_path, "loans")
    first = lab.run(7_000, seed=0)
    again = (tmp_path / "seed-0" / "predictions.parquet").read_bytes()
    lab.run(7_000, seed=0)
    other = lab.run(7_000, seed=1)
    assert (tmp_path / "seed-0" / "predictions.parquet").read_bytes() == again
    assert (first["rows"] == np.arange(len(lab.train))).all()
    assert len(np.unique(other["rows"])) < 0.7 * len(lab.train)
    pd.testing.assert_frame_equal(first["X_valid"], other["X_valid"])
    zero, one = (pd.read_parquet(tmp_path / f"seed-{s}" / "predictions.parquet") for s in (0, 1))
    assert not np.allclose(zero["p.yes"], one["p.yes"])


def awkward(rows: int, task: str) -> tuple[Contract, pd.DataFrame]:
    "Columns that make generic code stumble: nearly empty, constant in a draw, a hundred levels, free text, null dates."
    rng = np.random.default_rng(3)
    frame = pd.DataFrame(
        {
            "empty {x} $y": np.where(np.arange(rows) == 5, 1.0, np.nan),
            "day": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 90, rows), "D"),
            "city": rng.choice([f"C{i}" for i in range(140)], rows),
            "told": [f"text number {i}" for i in range(rows)],
            "is_new": rng.choice([True, False, None], rows),
            "x": rng.normal(size=rows),
        }
    )
    frame.loc[::4, "day"] = pd.NaT
    score = frame["x"] + rng.normal(0, 0.5, rows)
    names = {"binary": ['it\'s "so"', "no"], "multiclass": ["a", "b", "c's"]}
    frame["y"] = score if task == "regression" else pd.cut(score, len(names[task]), labels=names[task]).astype(str)
    classes = () if task == "regression" else tuple(sorted(names[task]))
    columns = (
        Column("empty {x} $y", "number", nullable=True),
        Column("day", "datetime", nullable=True),
        Column("city", "category", levels=tuple(f"C{i}" for i in range(140))),
        Column("told", "text"),
        Column("is_new", "boolean", nullable=True),
        Column("x", "number"),
    )
    return Contract(columns, Target("y", task, classes, classes[0] if task == "binary" else "")), frame  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [400, 7_000])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_awkward_columns_do_not_stop_it(tmp_path: Path, task: str, rows: int) -> None:
    contract, frame = awkward(400, task)
    lab = Lab(tmp_path, contract, frame)
    for seed in (0, 1):
        lab.run(rows, seed)
        assert lab.score(seed) > lab.score(seed, "baseline.") - 0.1


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_class_that_valid_lacks_does_not_stop_it(tmp_path: Path, task: str) -> None:
    contract, frame = awkward(300, task)
    lab = Lab(tmp_path, contract, frame)
    rare = contract.target.classes[0]
    lab.valid = lab.valid[lab.valid["y"] != rare].reset_index(drop=True)
    lab.valid.to_parquet(tmp_path / "splits" / "valid.parquet")
    lab.run(300)
    assert len(pd.read_parquet(tmp_path / "seed-0" / "predictions.parquet")) == len(lab.valid)


def test_text_alone_is_an_error_a_person_understands(tmp_path: Path) -> None:
    contract, frame = awkward(200, "binary")
    only = Contract(tuple(c for c in contract.columns if c.name == "told"), contract.target)
    with pytest.raises(ValueError, match="no column that a model can use"):
        Lab(tmp_path, only, frame[["told", "y"]]).run(200)


def test_an_edited_notebook_is_never_replaced(tmp_path: Path) -> None:
    contract, _ = awkward(50, "binary")
    file = write_poc_notebook(contract, tmp_path / "poc.ipynb")
    file.write_text("mine")
    with pytest.raises(InputError, match="the notebook exists already"):
        write_poc_notebook(contract, file)
    assert file.read_text() == "mine"


@pytest.mark.parametrize("rows", [0, 400, 7_000, 300_000])
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_its_own_inspection_finds_nothing(tmp_path: Path, task: str, rows: int) -> None:
    contract, _ = awkward(50, task)
    file = write_poc_notebook(contract, tmp_path / "poc.ipynb", name="awkward", rows=rows)
    assert inspect_file(file).findings == ()
