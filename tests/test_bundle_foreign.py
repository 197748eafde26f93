"""Graphs made elsewhere: what can be served gets a bundle, the rest a reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper

from mlops_nb.bundle.foreign import export_onnx
from mlops_nb.bundle.parity import feed, golden_parity, open_graph, run_graph
from mlops_nb.core.errors import InputError, Refused
from mlops_nb.serving.predictor import Predictor

FLOAT, INT, TEXT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING, TensorProto.BOOL


def graph(
    path: Path, inputs: dict[str, tuple[int, list[Any]]], nodes: list[Any], outputs: dict[str, tuple[int, list[Any]]]
) -> Path:
    def values(named: dict[str, tuple[int, list[Any]]]) -> list[Any]:
        return [helper.make_tensor_value_info(n, t, s) for n, (t, s) in named.items()]

    model = helper.make_model(
        helper.make_graph(nodes, "g", values(inputs), values(outputs)),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path.write_bytes(model.SerializeToString())
    return path


def test_one_tensor_a_column_of_every_type(tmp_path: Path) -> None:
    "y = x + n + flag, beside a text column that is carried along."
    nodes = [
        helper.make_node("Cast", ["n"], ["nf"], to=FLOAT),
        helper.make_node("Cast", ["flag"], ["ff"], to=FLOAT),
        helper.make_node("Add", ["x", "nf"], ["a"]),
        helper.make_node("Add", ["a", "ff"], ["y"]),
        helper.make_node("Identity", ["plan"], ["same"]),
    ]
    inputs = {"x": (FLOAT, [None, 1]), "n": (INT, [None, 1]), "flag": (BOOL, [None, 1]), "plan": (TEXT, [None, 1])}
    file = graph(tmp_path / "sum.onnx", inputs, nodes, {"y": (FLOAT, [None, 1]), "same": (TEXT, [None, 1])})
    sample = pd.DataFrame(
        {"x": [0.5, 1.5, 2.5], "n": [1, 2, 3], "flag": [True, False, True], "plan": ["a", "b", "a"], "other": [0, 0, 0]}
    )
    bundle = export_onnx(file, sample, tmp_path / "sum", target="total")
    assert bundle.task == "regression"
    assert bundle.contract.feature_names == ("x", "n", "flag", "plan")
    assert [c.kind for c in bundle.contract.columns] == ["number", "number", "boolean", "category"]
    assert golden_parity(bundle).max_abs == 0
    encoded = bundle.contract.encode([{"x": 1.0, "n": 2, "flag": True, "plan": "a"}])
    assert run_graph(open_graph(bundle.model_path), encoded, bundle.signature)[0, 0] == 4


def test_a_packed_tensor_is_put_together_from_its_columns(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceSum", ["X"], ["y"], keepdims=1), helper.make_node("Softmax", ["X"], ["p"], axis=1)]
    file = graph(tmp_path / "p.onnx", {"X": (FLOAT, [None, 3])}, nodes[1:], {"p": (FLOAT, [None, 3])})
    sample = {"a": [0.0, 1.0], "b": [0.0, 0.0], "c": [1.0, 0.0]}
    bundle = export_onnx(file, sample, tmp_path / "made", name="soft", classes=("low", "mid", "high"))
    assert (bundle.name, bundle.classes, bundle.signature.form) == ("soft", ("low", "mid", "high"), "packed")
    row = bundle.contract.encode([{"a": 0, "b": 0, "c": 9}])
    assert run_graph(open_graph(bundle.model_path), row, bundle.signature).argmax() == 2
    assert feed(row, bundle.signature)["X"].tolist() == [[0, 0, 9]]


@pytest.mark.parametrize(
    ("sample", "more", "error", "message"),
    [
        (np.zeros((3, 2), "float32"), {}, InputError, "the graph takes 3 columns, the sample has 2"),
        (np.zeros((0, 3), "float32"), {}, InputError, "no rows"),
        (np.zeros(3, "float32"), {}, InputError, "no rows"),
        (
            np.zeros((3, 3), "float32"),
            {"classes": ("a", "b")},
            InputError,
            "2 class names, the graph has 3 probabilities",
        ),
    ],
)
def test_a_sample_that_does_not_fit(
    tmp_path: Path, sample: Any, more: dict[str, Any], error: type[Exception], message: str
) -> None:
    nodes = [helper.make_node("Softmax", ["X"], ["p"], axis=1)]
    file = graph(tmp_path / "p.onnx", {"X": (FLOAT, [None, 3])}, nodes, {"p": (FLOAT, [None, 3])})
    with pytest.raises(error, match=message):
        export_onnx(file, sample, tmp_path / "made", **more)
    assert not (tmp_path / "made").exists()


def test_graphs_that_cannot_be_served(tmp_path: Path) -> None:
    image = graph(
        tmp_path / "i.onnx",
        {"X": (FLOAT, [None, 3, 8, 8])},
        [helper.make_node("Relu", ["X"], ["y"])],
        {"y": (FLOAT, [None, 3, 8, 8])},
    )
    with pytest.raises(Refused, match="use tensors of shape"):
        export_onnx(image, {"X": [1.0]}, tmp_path / "made")
    label = graph(
        tmp_path / "l.onnx",
        {"X": (INT, [None, 1])},
        [helper.make_node("Identity", ["X"], ["y"])],
        {"y": (INT, [None, 1])},
    )
    with pytest.raises(Refused, match="no output of probabilities or values"):
        export_onnx(label, {"X": [1]}, tmp_path / "made")
    columns = graph(
        tmp_path / "c.onnx",
        {"a": (FLOAT, [None, 1]), "b": (FLOAT, [None, 1])},
        [helper.make_node("Add", ["a", "b"], ["y"])],
        {"y": (FLOAT, [None, 1])},
    )
    with pytest.raises(InputError, match="no column 'b'; name columns as the inputs"):
        export_onnx(columns, {"a": [1.0], "c": [1.0]}, tmp_path / "made")


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        export_onnx(tmp_path / "none.onnx", {"X": [1.0]}, tmp_path / "made")
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(Refused, match="not an ONNX graph"):
        export_onnx(tmp_path / "bad.onnx", {"X": [1.0]}, tmp_path / "made")
    (tmp_path / "rows.npy").write_bytes(b"nothing")
    (tmp_path / "ok.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="not a numpy array"):
        export_onnx(tmp_path / "ok.onnx", tmp_path / "rows.npy", tmp_path / "made")


# Models of other makers


def boosted(make: str, task: str) -> tuple[bytes, np.ndarray, np.ndarray]:
    "A converted booster, its rows and its own answers."
    tools = pytest.importorskip("onnxmltools")
    from onnxmltools.convert.common.data_types import FloatTensorType

    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 4)).astype("float32")
    score = rows[:, 0] + rows[:, 1] ** 2
    target = {"binary": (score > 1).astype(int), "multiclass": np.digitize(score, [0.5, 1.5]), "regression": score}[
        task
    ]
    kind = "Regressor" if task == "regression" else "Classifier"
    if make == "lightgbm":
        fitted = getattr(pytest.importorskip("lightgbm"), f"LGBM{kind}")(n_estimators=8, verbose=-1, n_jobs=1)
    else:
        fitted = getattr(pytest.importorskip("xgboost"), f"XGB{kind}")(n_estimators=8, n_jobs=1)
    fitted.fit(rows, target)
    convert = getattr(tools, f"convert_{make}")
    model = convert(fitted, initial_types=[("input", FloatTensorType([None, 4]))], target_opset=15)
    own = fitted.predict(rows)[:, None] if task == "regression" else fitted.predict_proba(rows)
    return bytes(model.SerializeToString()), rows, np.asarray(own)


@pytest.mark.filterwarnings("ignore")  # of the boosters
@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("make", ["lightgbm", "xgboost"])
def test_boosted_trees_as_their_converters_leave_them(tmp_path: Path, make: str, task: str) -> None:
    data, rows, own = boosted(make, task)
    (tmp_path / "m.onnx").write_bytes(data)
    bundle = export_onnx(tmp_path / "m.onnx", pd.DataFrame(rows, columns=list("abcd")), tmp_path / "made")
    assert bundle.task == task
    said = Predictor(bundle).predict([dict(zip("abcd", row, strict=True)) for row in rows[:50].tolist()])
    got = [[p.value] if p.probability is None else list(p.probability.values()) for p in said]
    assert np.allclose(np.array(got), own[:50], atol=1e-5)
    assert golden_parity(bundle).beyond == 0


def network(path: Path, last: str, width: int = 1, rows: Any = None) -> Path:
    "A layer as torch exports it: one tensor `x`, one output `logits`."
    weight = np.random.default_rng(1).normal(size=(3, width)).astype("float32")
    made = [helper.make_node("MatMul", ["x", "w"], ["h" if last else "logits"])]
    made += [helper.make_node(last, ["h"], ["logits"])] if last else []
    model = helper.make_model(
        helper.make_graph(
            made,
            "main_graph",
            [helper.make_tensor_value_info("x", FLOAT, [rows, 3])],
            [helper.make_tensor_value_info("logits", FLOAT, [rows, width])],
            [helper.make_tensor("w", FLOAT, [3, width], weight.ravel().tolist())],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    path.write_bytes(model.SerializeToString())
    return path


ROWS3 = np.random.default_rng(2).normal(size=(40, 3)).astype("float32")


def test_networks(tmp_path: Path) -> None:
    soft = export_onnx(network(tmp_path / "a.onnx", "Softmax", 3), ROWS3, tmp_path / "a", classes=("x", "y", "z"))
    assert (soft.task, soft.classes) == ("multiclass", ("x", "y", "z"))
    one = export_onnx(network(tmp_path / "b.onnx", "Sigmoid"), ROWS3, tmp_path / "b", classes=("no", "yes"))
    assert (one.task, one.positive) == ("binary", "yes")
    assert one.manifest["source"]["changes"] == ["'logits' as two columns"]
    value = export_onnx(network(tmp_path / "c.onnx", ""), ROWS3, tmp_path / "c")
    assert value.task == "regression"
    row = dict(zip(("x0", "x1", "x2"), map(float, ROWS3[0]), strict=True))
    p, logit = Predictor(one).predict([row])[0].probability, Predictor(value).predict([row])[0].value
    assert p is not None
    assert logit is not None
    assert p["yes"] == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)


@pytest.mark.parametrize(
    ("last", "width", "rows", "classes", "message"),
    [
        ("", 3, None, (), "'logits' holds no probabilities: .*; end the graph with a Softmax"),
        ("", 1, None, ("no", "yes"), "'logits' holds no probabilities: .* a Sigmoid"),
        ("Sigmoid", 3, None, (), "'logits' holds no probabilities: a row sums to"),
        ("Softmax", 3, 1, (), "'x' takes exactly 1 rows; export it with a dynamic first dimension"),
    ],
)
def test_networks_that_lack_something(
    tmp_path: Path, last: str, width: int, rows: Any, classes: tuple[str, ...], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        export_onnx(network(tmp_path / "n.onnx", last, width, rows), ROWS3, tmp_path / "made", classes=classes)
    assert not (tmp_path / "made").exists()


def test_a_graph_that_looks_at_the_whole_batch(tmp_path: Path) -> None:
    nodes = [helper.make_node("ReduceMean", ["X"], ["m"], axes=[0]), helper.make_node("Sub", ["X", "m"], ["y"])]
    file = graph(tmp_path / "b.onnx", {"X": (FLOAT, [None, 1])}, nodes, {"y": (FLOAT, [None, 1])})
    with pytest.raises(Refused, match="the answer to row 0 depends on the rows beside it"):
        export_onnx(file, {"a": [1.0, 2.0, 5.0]}, tmp_path / "made")


def test_texts_with_gaps(tmp_path: Path) -> None:
    "A column of texts with a missing value is encoded as it will be in production."
    node = helper.make_node(
        "LabelEncoder",
        ["plan"],
        ["y"],
        domain="ai.onnx.ml",
        keys_strings=["pro", "__null__"],
        values_floats=[2.0, 5.0],
        default_float=1.0,
    )
    model = helper.make_model(
        helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("plan", TEXT, [None, 1])],
            [helper.make_tensor_value_info("y", FLOAT, [None, 1])],
        ),
        opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)],
        ir_version=8,
    )
    (tmp_path / "t.onnx").write_bytes(model.SerializeToString())
    bundle = export_onnx(tmp_path / "t.onnx", pd.DataFrame({"plan": ["pro", None, "free"]}), tmp_path / "made")
    assert golden_parity(bundle).max_abs == 0
    said = Predictor(bundle).predict([{"plan": "pro"}, {"plan": None}, {"plan": "new"}])
    assert [p.value for p in said] == [2.0, 5.0, 1.0]


def test_packed_texts_and_whole_numbers(tmp_path: Path) -> None:
    for kind, values, name in ((INT, np.array([[1, 2], [3, 4]]), "int"), (TensorProto.DOUBLE, np.eye(2), "double")):
        nodes = [
            helper.make_node("Cast", ["X"], ["f"], to=FLOAT),
            helper.make_node("ReduceSum", ["f", "one"], ["y"], keepdims=1),
        ]
        model = helper.make_model(
            helper.make_graph(
                nodes,
                "g",
                [helper.make_tensor_value_info("X", kind, [None, 2])],
                [helper.make_tensor_value_info("y", FLOAT, [None, 1])],
                [helper.make_tensor("one", INT, [1], [1])],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        (tmp_path / f"{name}.onnx").write_bytes(model.SerializeToString())
        bundle = export_onnx(tmp_path / f"{name}.onnx", values, tmp_path / name)
        assert Predictor(bundle).predict([{"x0": 3, "x1": 4}])[0].value == 7


def test_the_explanation_baseline_without_outcomes(tmp_path: Path) -> None:
    bundle = export_onnx(network(tmp_path / "a.onnx", "Softmax", 3), ROWS3, tmp_path / "a", classes=("x", "y", "z"))
    about = bundle.json("baseline.json")
    assert about["measure"] == "mean_change"
    assert about["importance"][0]["loss_added"] > 0
    assert sum(about["expected"]) == pytest.approx(1, abs=1e-4)
    assert len(about["background"]["x0"]) == 40
    assert about["quantiles"][0] == sorted(about["quantiles"][0])
    assert "made elsewhere" in (bundle.path / "card.md").read_text()
