"""Pipelines of many shapes become graphs that answer alike, or are refused; none is wrong in silence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, RobustScaler, StandardScaler
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from threadpoolctl import threadpool_limits

from mlops_nb.bundle.edges import edge_rows
from mlops_nb.bundle.onnx import convert, floor_splits, signature_of
from mlops_nb.bundle.parity import compare, open_graph, run_graph, tolerance_for
from mlops_nb.core.errors import Refused
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.data.values import NULL_DAYS

COLUMNS = (
    Column("value", "number", nullable=True, low=0, high=72),  # named as the output of a regression
    Column("a charge (€)", "number", nullable=True, low=18.25, high=118.75),
    Column("plan", "category", nullable=True, levels=("free", "pro", "max")),
    Column("region", "category", nullable=True, levels=tuple(f"r{i}" for i in range(8))),
    Column("paperless", "boolean", nullable=True),
    Column("since", "datetime", nullable=True, low=18_000, high=20_000),
    Column("label", "number"),  # never used by a model
)
TARGETS = {
    "binary": Target("y", "binary", ("No", "Yes"), "Yes"),
    "multiclass": Target("y", "multiclass", ("a", "b", "c")),
    "regression": Target("y", "regression"),
}
NUMBERS, DATES, TEXTS = ["value", "a charge (€)"], ["since"], ["plan", "region", "paperless"]
ONE_HOT = OneHotEncoder(handle_unknown="ignore", sparse_output=False)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    "Many small fits: threads would only wait for each other."
    with threadpool_limits(1):
        yield


def table(rows: int, seed: int = 0) -> pd.DataFrame:
    "Encoded rows with nulls in every column that may have them."
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "value": rng.integers(0, 72, rows).astype("float32"),
            "a charge (€)": rng.uniform(18, 119, rows).astype("float32"),
            "plan": rng.choice(np.array(["free", "pro", "max", "__null__"], object), rows),
            "region": rng.choice(np.array([f"r{i}" for i in range(8)], object), rows),
            "paperless": rng.choice(np.array(["true", "false", "__null__"], object), rows),
            "since": rng.integers(18_000, 20_000, rows),
            "label": np.zeros(rows, "float32"),
        }
    )
    frame.loc[::7, NUMBERS] = np.nan
    frame.loc[::11, "since"] = NULL_DAYS
    return frame


def truth(frame: pd.DataFrame, task: str) -> Any:
    raw = frame["value"].fillna(20) / 20 + (frame["plan"] == "pro") * 1.5 + np.sin(frame["since"] / 300)
    noisy = raw.to_numpy() + np.random.default_rng(1).normal(0, 0.5, len(frame))
    return {"binary": (noisy > 2).astype(int), "multiclass": np.digitize(noisy, [1.5, 3]), "regression": noisy * 100}[
        task
    ]


FILL = SimpleImputer(strategy="median")
DAYS = make_pipeline(SimpleImputer(missing_values=float(NULL_DAYS), strategy="median"), StandardScaler())
FEATURES = {
    "plain": [("n", "passthrough", NUMBERS + DATES), ("c", ONE_HOT, TEXTS)],
    "ranked": [
        ("n", "passthrough", NUMBERS),
        ("c", OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), TEXTS),
    ],
    "filled": [("n", FILL, NUMBERS), ("d", "passthrough", DATES), ("c", ONE_HOT, TEXTS)],
    "scaled": [("n", make_pipeline(FILL, StandardScaler()), NUMBERS), ("d", DAYS, DATES), ("c", ONE_HOT, TEXTS)],
    "robust": [
        ("n", make_pipeline(FILL, RobustScaler()), NUMBERS),
        ("c", OneHotEncoder(handle_unknown="ignore"), TEXTS),
    ],
    "one column": [("n", make_pipeline(FILL, StandardScaler()), NUMBERS[:1])],
    "one text": [("c", ONE_HOT, ["plan"])],
}
MODELS: dict[str, tuple[Any, Any]] = {
    "linear": (LogisticRegression(max_iter=2_000), Ridge()),
    "boosting": (
        HistGradientBoostingClassifier(max_iter=15, random_state=0),
        HistGradientBoostingRegressor(max_iter=15, random_state=0),
    ),
    "old boosting": (
        GradientBoostingClassifier(n_estimators=20, random_state=0),
        GradientBoostingRegressor(n_estimators=20, random_state=0),
    ),
    "forest": (RandomForestClassifier(20, random_state=0), RandomForestRegressor(20, random_state=0)),
    "extra": (ExtraTreesClassifier(20, random_state=0), ExtraTreesRegressor(20, random_state=0)),
    "tree": (DecisionTreeClassifier(max_depth=3, random_state=0), DecisionTreeRegressor(max_depth=3, random_state=0)),
    "svm": (SVC(probability=True, random_state=0), SVR()),
}
PAIRS = [
    ("plain", "boosting"), ("ranked", "boosting"), ("one text", "boosting"), ("filled", "old boosting"), ("filled", "forest"),
    ("filled", "extra"), ("filled", "tree"), ("scaled", "linear"), ("robust", "linear"), ("one column", "linear"),
    ("one text", "linear"), ("scaled", "svm"),
]  # fmt: skip


def pipeline(features: str, model: str, task: str) -> Pipeline:
    estimator = MODELS[model][task == "regression"]
    return Pipeline([("features", ColumnTransformer(FEATURES[features])), ("model", estimator)])


def expected(fitted: Any, frame: pd.DataFrame, task: str) -> Any:
    given = fitted.predict(frame) if task == "regression" else fitted.predict_proba(frame)
    return np.asarray(given, float).reshape(len(frame), -1)


@pytest.mark.parametrize("task", TARGETS)
@pytest.mark.parametrize(("features", "model"), PAIRS)
def test_answers_alike_on_rows_and_edges(features: str, model: str, task: str) -> None:
    contract, train = Contract(COLUMNS, TARGETS[task]), table(500)
    fitted = pipeline(features, model, task).fit(train, truth(train, task))
    session, signature = open_graph(convert(fitted, contract)), signature_of(contract)
    ordinary = {
        "value": 3,
        "a charge (€)": 50.5,
        "plan": "pro",
        "region": "r1",
        "paperless": True,
        "since": "2020-01-01",
        "label": 0,
    }
    edges = pd.DataFrame(contract.encode(edge_rows(contract, ordinary)))
    tolerance = tolerance_for(task, expected(fitted, train, task))
    for frame in (table(300, seed=5), edges):
        got = run_graph(session, {n: frame[n].to_numpy() for n in frame}, signature)
        parity = compare(got, expected(fitted, frame, task), tolerance)
        assert parity.beyond == 0, (parity, frame.iloc[parity.worst[0]].to_dict())


def test_every_column_is_an_input_in_order_and_outputs_give_way() -> None:
    contract, train = Contract(COLUMNS, TARGETS["regression"]), table(200)
    graph = convert(pipeline("one column", "linear", "regression").fit(train, truth(train, "regression")), contract)
    session = open_graph(graph)
    assert [i.name for i in session.get_inputs()] == [c.name for c in COLUMNS]
    assert [o.name for o in session.get_outputs()] == ["value_"]
    assert signature_of(contract).answer == "value_"
    binary = Contract(COLUMNS, TARGETS["binary"])
    assert signature_of(binary).outputs == {"label": "label_", "probability": "probability"}


def test_names_that_clean_to_the_same_name() -> None:
    columns = tuple(Column(n, "number") for n in ("a b", "a_b", "a-b", "1", "/n"))
    contract = Contract(columns, Target("y", "regression"))
    frame = pd.DataFrame(
        np.random.default_rng(0).normal(size=(60, 5)).astype("float32"), columns=contract.feature_names
    )
    y = frame.to_numpy() @ np.array([1, 10, 100, 1000, 10_000])
    model = Pipeline([("f", ColumnTransformer([("n", "passthrough", list(frame))])), ("m", Ridge(alpha=1e-6))]).fit(
        frame, y
    )
    got = run_graph(
        open_graph(convert(model, contract)), {n: frame[n].to_numpy() for n in frame}, signature_of(contract)
    )
    assert np.allclose(got[:, 0], model.predict(frame), rtol=1e-4)


def test_the_same_pipeline_gives_the_same_bytes_without_names_of_the_converter() -> None:
    contract, train = Contract(COLUMNS, TARGETS["binary"]), table(300)
    graphs = {
        convert(pipeline("scaled", "linear", "binary").fit(train, truth(train, "binary")), contract) for _ in range(2)
    }
    assert len(graphs) == 1
    model = onnx.load_from_string(graphs.pop())
    assert model.producer_name == "mlops_nb"
    assert all(n.name.startswith("/") for n in model.graph.node)
    assert not model.graph.value_info


def test_splits_rounded_down_change_no_answer() -> None:
    train = table(500)
    fitted = pipeline("plain", "boosting", "binary").fit(train, truth(train, "binary"))
    floored = floor_splits(fitted)
    many = table(3_000, seed=9)
    assert np.array_equal(fitted.predict_proba(many), floored.predict_proba(many))
    assert fitted["model"] is not floored["model"]


@pytest.mark.parametrize(
    ("task", "steps"),
    [
        ("binary", [("f", ColumnTransformer(FEATURES["plain"])), ("m", DummyClassifier())]),
        ("regression", [("f", ColumnTransformer(FEATURES["plain"])), ("m", DummyRegressor())]),
        (
            "binary",
            [
                ("f", ColumnTransformer([("n", SimpleImputer(add_indicator=True), NUMBERS)])),
                ("s", StandardScaler()),
                ("m", LogisticRegression()),
            ],
        ),
    ],
)
def test_what_does_not_convert_is_refused(task: str, steps: list[tuple[str, Any]]) -> None:
    train = table(200)
    fitted = Pipeline(steps).fit(train, truth(train, task))
    with pytest.raises(Refused, match="does not convert to ONNX"):
        convert(fitted, Contract(COLUMNS, TARGETS[task]))


def test_a_class_that_was_never_seen_is_refused() -> None:
    train = table(200)
    fitted = pipeline("plain", "boosting", "binary").fit(train, truth(train, "binary"))
    with pytest.raises(Refused, match=r"knows classes \[.*0.*1.*\], the contract has 3"):
        convert(fitted, Contract(COLUMNS, TARGETS["multiclass"]))


def test_converting_warns_nobody() -> None:
    train = table(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        convert(
            pipeline("plain", "boosting", "binary").fit(train, truth(train, "binary")),
            Contract(COLUMNS, TARGETS["binary"]),
        )
