"Another person's model from plain files: what can be judged is judged as in a workspace, the rest says so."

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper

from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.hashing import sha256_file
from mlops_nb.core.workspace import Evidence
from mlops_nb.poc.foreign import Question, aligned, read_shares, score_files
from mlops_nb.poc.scorecard import run_score
from mlops_nb.poc.verdict import GO, NO_GO, NOT_ASSESSED
from tests.conftest import Cli
from tests.scored_workspace import CHARTER, make

ROWS = 1_000


def files(folder: Path, rows: int = ROWS) -> Question:
    "Rows, labels and the answers of a calibrated model."
    rng = np.random.default_rng(7)
    p = rng.uniform(size=rows)
    x = np.log(p / (1 - p))
    frame = pd.DataFrame({"x": x, "z": rng.normal(size=rows), "sex": rng.choice(["f", "m"], rows)})
    frame.to_parquet(folder / "x.parquet")
    truth = np.where(rng.uniform(size=rows) < p, "yes", "no")
    pd.DataFrame({"left": truth}).to_parquet(folder / "y.parquet")
    pd.DataFrame({"p.no": 1 - p, "p.yes": p}).to_parquet(folder / "p.parquet")
    return Question(folder / "x.parquet", folder / "y.parquet", folder / "p.parquet", threshold=0.75)


def states(evidence: Evidence) -> dict[str, str]:
    return {c["id"]: c["state"] for c in evidence.data["criteria"]}


def logistic(path: Path, width: int = 2) -> Path:
    "P(second class) is the logistic of the first column of a matrix."
    weights = np.zeros((width, 1), np.float32)
    weights[0] = 1
    nodes = [
        helper.make_node("MatMul", ["X", "w"], ["s"]),
        helper.make_node("Sigmoid", ["s"], ["p"]),
        helper.make_node("Sub", ["one", "p"], ["q"]),
        helper.make_node("Concat", ["q", "p"], ["probability"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, width])],
        [helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 2])],
        [
            helper.make_tensor("w", TensorProto.FLOAT, [width, 1], weights.ravel()),
            helper.make_tensor("one", TensorProto.FLOAT, [], [1.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_a_good_model_is_a_go_where_it_can_be_seen(tmp_path: Path) -> None:
    asked = replace(files(tmp_path), subgroups=("sex",))
    found = score_files(asked)
    unseen = dict.fromkeys(
        ("data_quality", "reproducibility", "latency", "integration", "security", "rollback"), NOT_ASSESSED
    )
    assert states(found) == {"performance": GO, "fairness": GO, **unseen}
    promised = found.fact("performance.roc_auc")
    assert promised.low is not None
    assert promised.source.path == "p.parquet"
    assert found.inputs["y.parquet"] == sha256_file(tmp_path / "y.parquet")
    assert next(w.key for w in found.warnings) == "score.foreign.no-charter"
    assert all(c["evidence"] for c in found.data["criteria"] if c["state"] != NOT_ASSESSED)


def test_a_bad_model_is_a_no_go(tmp_path: Path) -> None:
    asked = files(tmp_path)
    pd.DataFrame({"p.no": np.full(ROWS, 0.5), "p.yes": np.full(ROWS, 0.5)}).to_parquet(tmp_path / "p.parquet")
    assert states(score_files(asked))["performance"] == NO_GO


def test_few_labels_are_not_assessed_and_say_how_many_would_do(tmp_path: Path) -> None:
    found = score_files(files(tmp_path, rows=14))
    own = next(c for c in found.data["criteria"] if c["id"] == "performance")
    assert own["state"] == NOT_ASSESSED
    assert own["n_needed"] > 14


def test_the_graph_and_its_predictions_are_judged_alike(tmp_path: Path) -> None:
    said = files(tmp_path)
    graph = replace(
        said, predictions=None, onnx=logistic(tmp_path / "m.onnx"), classes=("no", "yes"), subgroups=("sex",)
    )
    one, other = score_files(replace(said, subgroups=("sex",))), score_files(graph)
    assert states(one) == states(other)
    a, b = (e.fact("performance.roc_auc") for e in (one, other))
    assert (a.value, a.low) == pytest.approx((b.value, b.low), abs=1e-6)
    assert b.source.path == "m.onnx"


def test_a_workspace_and_its_plain_files_agree(tmp_path: Path) -> None:
    ws = make(tmp_path / "ws")
    in_workspace = run_score(ws)
    test = pd.read_parquet(ws.split("test"))
    test.drop(columns="y").to_parquet(tmp_path / "x.parquet")
    test[["y"]].to_parquet(tmp_path / "y.parquet")
    (tmp_path / "charter.toml").write_text(CHARTER)
    asked = Question(
        tmp_path / "x.parquet",
        tmp_path / "y.parquet",
        ws.evidence / "trial.predictions.parquet",
        charter=tmp_path / "charter.toml",
    )
    found = score_files(asked)
    for id in ("performance.roc_auc", "performance.recall", "fairness.gap_roc_auc/sex"):
        assert (found.fact(id).value, found.fact(id).low) == (in_workspace.fact(id).value, in_workspace.fact(id).low)
    assert found.data["overall"] == NOT_ASSESSED


def test_training_rows_among_the_test_rows_are_found(tmp_path: Path) -> None:
    asked = files(tmp_path)
    both = pd.read_parquet(asked.features).assign(left=pd.read_parquet(asked.labels)["left"])
    both.iloc[:400].to_parquet(tmp_path / "t.parquet")
    assert states(score_files(replace(asked, train=tmp_path / "t.parquet")))["data_quality"] == NO_GO
    rng = np.random.default_rng(1)
    both.assign(x=rng.logistic(size=ROWS), z=rng.normal(size=ROWS)).to_parquet(tmp_path / "t.parquet")
    assert states(score_files(replace(asked, train=tmp_path / "t.parquet")))["data_quality"] == GO


@pytest.mark.parametrize(
    "columns", [{"probability": "yes"}, {"no": "no", "yes": "yes"}, {"p.yes": "yes", "p.no": "no"}, {"anything": "yes"}]
)
def test_probabilities_come_in_many_forms(tmp_path: Path, columns: dict[str, str]) -> None:
    asked = files(tmp_path)
    whole = score_files(asked).fact("performance.roc_auc").value
    said = pd.read_parquet(asked.model)
    pd.DataFrame({name: said[f"p.{c}"] for name, c in columns.items()}).to_parquet(tmp_path / "p.parquet")
    assert score_files(replace(asked, positive="yes")).fact("performance.roc_auc").value == pytest.approx(whole)


def test_rows_are_joined_by_a_key(tmp_path: Path) -> None:
    asked = files(tmp_path)
    whole = score_files(asked).fact("performance.roc_auc").value
    for n, name in enumerate(("x", "y", "p")):
        table = pd.read_parquet(tmp_path / f"{name}.parquet").assign(id=range(ROWS))
        table.sample(frac=1, random_state=n).to_parquet(tmp_path / f"{name}.parquet")
    assert score_files(replace(asked, key="id")).fact("performance.roc_auc").value == pytest.approx(whole)
    with pytest.raises(InputError, match="stands more than once"):
        aligned(pd.DataFrame({"id": [1, 1]}), pd.DataFrame({"id": [1, 1]}), "id", ("a", "b"))


def test_a_regression_needs_no_classes(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(size=400)
    pd.DataFrame({"x": x}).to_parquet(tmp_path / "x.parquet")
    pd.DataFrame({"cost": 10 * x + rng.normal(size=400)}).to_parquet(tmp_path / "y.parquet")
    pd.DataFrame({"prediction": 10 * x}).to_parquet(tmp_path / "p.parquet")
    asked = Question(
        tmp_path / "x.parquet", tmp_path / "y.parquet", tmp_path / "p.parquet", threshold=2.0, metric="rmse"
    )
    assert states(score_files(asked))["performance"] == GO
    assert states(score_files(replace(asked, threshold=0.5)))["performance"] == NO_GO


def wrong(folder: Path, name: str) -> Question:
    "A question with one thing wrong."
    asked = files(folder)
    said = pd.read_parquet(asked.model)
    labels = pd.read_parquet(asked.labels)
    if name == "nothing to hold it to":
        return replace(asked, threshold=None)
    if name == "no model":
        return replace(asked, predictions=None)
    if name == "two models":
        return replace(asked, onnx=folder / "m.onnx")
    if name == "no file":
        return replace(asked, features=folder / "gone.parquet")
    if name == "not parquet":
        (folder / "x.parquet").write_text("hello")
    if name == "other rows":
        labels.iloc[:-1].to_parquet(asked.labels)
    if name == "no label":
        labels.loc[5, "left"] = None
        labels.to_parquet(asked.labels)
    if name == "which target":
        labels.assign(other=1).to_parquet(asked.labels)
    if name == "unknown class":
        labels.replace("yes", "maybe").to_parquet(asked.labels)
    if name == "no sum":
        said.assign(**{"p.yes": 0.9}).to_parquet(folder / "p.parquet")
    if name == "no probability":
        said.assign(**{"p.yes": "high"}).to_parquet(folder / "p.parquet")
    if name == "no answers":
        said.rename(columns={"p.no": "a", "p.yes": "b"}).to_parquet(folder / "p.parquet")
    if name == "no metric":
        return replace(asked, metric="auc_roc")
    if name == "no graph":
        (folder / "m.onnx").write_bytes(b"not a graph")
        return replace(asked, predictions=None, onnx=folder / "m.onnx")
    if name == "graph of other columns":
        return replace(asked, predictions=None, onnx=logistic(folder / "m.onnx", 7))
    if name == "graph of other classes":
        frame = pd.read_parquet(asked.features).drop(columns="sex")
        frame.to_parquet(asked.features)
        return replace(asked, predictions=None, onnx=logistic(folder / "m.onnx"))
    return asked


WRONG = {
    "nothing to hold it to": "what is the model held to",
    "no model": "which model is to be scored",
    "two models": "which model is to be scored",
    "no file": r"gone\.parquet: no such file",
    "not parquet": r"x\.parquet: not a Parquet file",
    "other rows": r"y\.parquet: 999 rows, .*x\.parquet has 1000",
    "no label": r"y\.parquet: no label in row 6",
    "which target": r"which column is the target\?; add --target NAME, one of left, other",
    "unknown class": r"the class 'maybe' has no probability",
    "no sum": "add up to",
    "no probability": r"'high' in row 1 is not a probability",
    "no answers": r"no probabilities; give a column for each class: p\.no, p\.yes",
    "no metric": "auc_roc",
    "no graph": "cannot be loaded|not an ONNX|graph",
    "graph of other columns": "7 columns",
    "graph of other classes": r"--classes A,B",
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_clear_line(tmp_path: Path, name: str) -> None:
    with pytest.raises((InputError, Refused), match=WRONG[name]) as e:
        score_files(wrong(tmp_path, name))
    assert "\n" not in str(e.value)


def test_probabilities_are_checked_by_row() -> None:
    with pytest.raises(InputError, match=r"p\.csv: column 'p\.a': '1\.5' in row 2 is not a probability"):
        read_shares(pd.DataFrame({"p.a": [0.5, 1.5], "p.b": [0.5, -0.5]}), ("a", "b"), "b", "", "p.csv")


@pytest.mark.slow
def test_the_command_scores_plain_files(cli: Cli, tmp_path: Path) -> None:
    asked = files(tmp_path)
    logistic(tmp_path / "m.onnx")
    common = ["--features", asked.features, "--labels", asked.labels, "--threshold", "0.75"]
    done = cli("score", "--predictions", asked.model, *common, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"]["criteria"][0]["state"] == GO
    shown = cli(
        "score",
        "--onnx",
        tmp_path / "m.onnx",
        *common,
        "--classes",
        "no,yes",
        "--subgroup",
        "sex",
        "--lang",
        "fr",
        COLUMNS="160",
    )
    assert shown.returncode == 0, shown.stderr
    assert "aucune charte" in shown.stdout
    for arguments in ([], ["--features", asked.features], ["--predictions", asked.model, *common[:4]]):
        bad = cli("score", *arguments)
        assert (bad.returncode, len(bad.stderr.strip().splitlines())) == (2, 1), bad.stderr
