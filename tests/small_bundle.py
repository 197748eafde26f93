"""The smallest complete bundle: a logistic of one number beside a text, a date and a truth value, made with onnx alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from mlops_nb.bundle.format import Bundle, golden_bytes, load_bundle, write_bundle
from mlops_nb.bundle.manifest import REQUIRED, json_bytes
from mlops_nb.bundle.parts import Answer, Condition, Golden, Rule, Segment, Signature, Tensor, Thresholds
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.stats.profiles import build_profile

CONTRACT = Contract(
    (
        Column("age", "number", integer=True, nullable=True, low=0, high=99),
        Column("plan", "category", levels=("a", "b")),
        Column("since", "datetime"),
        Column("paperless", "boolean", nullable=True),
    ),
    Target("churn", "binary", ("No", "Yes"), "Yes"),
)
SIGNATURE = Signature(
    "columns",
    (Tensor("age", "float32"), Tensor("plan", "string"), Tensor("since", "int64"), Tensor("paperless", "string")),
    {"label": "label", "probability": "probability"},
)
ROWS: tuple[dict[str, Any], ...] = (
    {"age": 3, "plan": "a", "since": "2020-01-01", "paperless": True},
    {"age": None, "plan": "unseen", "since": "2020-01-02", "paperless": None},
)


def small_graph(nodes: tuple[Any, ...] = (), tensors: tuple[Any, ...] = (), weight: float = 0.1) -> Any:
    "A model whose probability of Yes is the logistic of `weight` x age; 0.5 where there is no age."
    info, node = helper.make_tensor_value_info, helper.make_node
    kinds = {"float32": TensorProto.FLOAT, "string": TensorProto.STRING, "int64": TensorProto.INT64}
    made = [
        *nodes,
        node("IsNaN", ["age"], ["gap"]),
        node("Where", ["gap", "zero", "age"], ["known"]),
        node("Mul", ["known", "weight"], ["z"]),
        node("Sigmoid", ["z"], ["p"]),
        node("Sub", ["one", "p"], ["q"]),
        node("Concat", ["q", "p"], ["probability"], axis=1),
        node("ArgMax", ["probability"], ["label"], axis=1, keepdims=0),
    ]
    numbers = {"zero": 0.0, "one": 1.0, "weight": weight}
    graph = helper.make_graph(
        made,
        "g",
        [info(t.name, kinds[t.dtype], [None, 1]) for t in SIGNATURE.inputs],
        [info("label", TensorProto.INT64, [None]), info("probability", TensorProto.FLOAT, [None, 2])],
        [*tensors, *(helper.make_tensor(n, TensorProto.FLOAT, [], [v]) for n, v in numbers.items())],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def golden() -> Golden:
    "Two rows and what the graph answers."
    p = 1 / (1 + np.exp(-0.1 * np.array([3.0, 0.0])))
    return Golden(ROWS, np.column_stack([1 - p, p]), ("sample", "edge"))


def profile_files(folder: Path) -> dict[str, bytes]:
    "A reference profile."
    build_profile(CONTRACT.encode(list(ROWS)), CONTRACT).save(folder)
    return {f"profile/{p.name}": p.read_bytes() for p in sorted(folder.iterdir())}


HEAD: dict[str, Any] = {"name": "churn", "signature": SIGNATURE.to_dict(), "tolerance": {"atol": 1e-5, "rtol": 0.0}}
FILES: dict[str, bytes] = dict.fromkeys(REQUIRED, b"-\n") | {
    "model.onnx": small_graph().SerializeToString(),
    "contract.json": json_bytes(CONTRACT.to_dict()),
    "rule.json": json_bytes(
        Rule(Answer("No", (0.7, 0.3)), (Condition("age", "<", 3, Answer("Yes", (0.2, 0.8))),)).to_dict()
    ),
    "thresholds.json": json_bytes(Thresholds(0.4, "Yes", (Segment("plan", "a", 0.3),)).to_dict()),
    "golden.parquet": golden_bytes(golden(), CONTRACT),
    "baseline.json": b"{}\n",
    "licences.json": b"[]\n",
    "profile/profile.json": b"{}",
}


def small_bundle(parent: Path, files: Mapping[str, bytes] | None = None, **head: Any) -> Bundle:
    "The bundle, with other files or another head."
    return load_bundle(write_bundle(parent, {**HEAD, **head}, {**FILES, **(files or {})}))
