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
    with pytest.raises(Refused, match="the graph cannot be loaded"):
        export_onnx(tmp_path / "bad.onnx", {"X": [1.0]}, tmp_path / "made")
    (tmp_path / "rows.npy").write_bytes(b"nothing")
    (tmp_path / "ok.onnx").write_bytes(b"")
    with pytest.raises(InputError, match="not a numpy array"):
        export_onnx(tmp_path / "ok.onnx", tmp_path / "rows.npy", tmp_path / "made")
