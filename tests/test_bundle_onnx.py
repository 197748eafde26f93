"""Pipelines of many shapes become graphs that answer alike, or are refused; none is wrong in silence."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.ensemble import VotingClassifier
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from sklearn.impute import IterativeImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits

from mlops_nb.bundle.onnx import convert, signature_of
from mlops_nb.bundle.parity import open_graph, run_graph
from mlops_nb.core.errors import Refused
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from tests.onnx_cases import COLUMNS, NUMBERS, contract, fill, fitted, one_hot, table, truth


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    "Many small fits: threads would only wait for each other."
    with threadpool_limits(1):
        yield


def test_every_column_is_an_input_in_order_and_outputs_give_way() -> None:
    session = open_graph(convert(fitted("logistic", "regression", 200), contract("regression")))
    assert [i.name for i in session.get_inputs()] == [c.name for c in COLUMNS]
    assert [o.name for o in session.get_outputs()] == ["value_"]
    assert signature_of(contract("regression")).answer == "value_"
    assert signature_of(contract("binary")).outputs == {"label": "label_", "probability": "probability"}


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
    graphs = {convert(fitted("svm", "binary", 200), contract("binary")) for _ in range(2)}
    assert len(graphs) == 1
    model = onnx.load_from_string(graphs.pop())
    assert model.producer_name == "mlops_nb"
    assert all(n.name.startswith("/") for n in model.graph.node)
    assert not model.graph.value_info


class Doubled(TransformerMixin, BaseEstimator):
    "A step of somebody's own."

    def fit(self, X: Any, y: Any = None) -> Doubled:
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: Any) -> Any:
        return X * 2


MODEL = LogisticRegression(max_iter=2_000)
REFUSED = {
    "lambda": (FunctionTransformer(lambda x: x * 2), MODEL, "the function '<lambda>' is Python", "features module"),
    "own class": (Doubled(), MODEL, r"Doubled does not convert to ONNX: it is a class of your own", "features module"),
    "no probabilities": (StandardScaler(), LinearSVC(), "LinearSVC .* gives no probabilities", "CalibratedClassifierCV"),
    "hard vote": (StandardScaler(), VotingClassifier([("m", MODEL)]), "VotingClassifier .* gives no probabilities", "Calibrated"),
    "iterative": (IterativeImputer(), MODEL, "n: IterativeImputer does not convert to ONNX", "a step that converts"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_convert_is_refused_with_its_place_and_a_fix(name: str) -> None:
    step, model, why, fix = REFUSED[name]
    train = table(200).fillna(0)
    pipeline = make_pipeline(ColumnTransformer([("n", step, NUMBERS)]), model).fit(train, truth(train, "binary"))
    with pytest.raises(Refused, match=why) as refused:
        convert(pipeline, contract("binary"))
    assert pd.Series([refused.value.fix]).str.contains(fix).all()


@pytest.mark.parametrize(
    ("step", "why"),
    [
        (CountVectorizer(analyzer="char"), "analyzer 'char'"),
        (TfidfVectorizer(strip_accents="ascii"), "strip_accents 'ascii'"),
        (CountVectorizer(tokenizer=str.split, token_pattern=None), "its tokenizer is a function of your own"),
        (HashingVectorizer(n_features=8), "HashingVectorizer"),
    ],
)
def test_texts_that_only_python_can_cut_are_refused(step: Any, why: str) -> None:
    train = table(120)
    pipeline = make_pipeline(make_column_transformer((step, "note")), MODEL).fit(train, truth(train, "binary"))
    with pytest.raises(Refused, match=why):
        convert(pipeline, contract("binary"))


def test_several_targets_are_refused() -> None:
    train = table(100)
    both = np.column_stack([truth(train, "regression")] * 2)
    model = make_pipeline(make_column_transformer((fill(), NUMBERS)), Ridge()).fit(train, both)
    with pytest.raises(Refused, match="ridge: Ridge does not convert to ONNX: several targets"):
        convert(model, contract("regression"))


def test_a_class_that_was_never_seen_is_refused() -> None:
    with pytest.raises(Refused, match=r"knows classes \[.*0.*1.*\], the contract has 3"):
        convert(fitted("hist", "binary", 200), contract("multiclass"))


def test_columns_that_are_not_in_the_contract_are_refused() -> None:
    train = table(100).rename(columns={"plan": "scheme"})
    model = make_pipeline(make_column_transformer((one_hot(), ["scheme"])), MODEL).fit(train, np.arange(100) % 2)
    with pytest.raises(Refused, match="column 'scheme' is not in the contract"):
        convert(model, contract("binary"))


def test_converting_warns_nobody() -> None:
    for name in ("hist", "svm", "tfidf"):
        model = fitted(name, "binary", 200)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            convert(model, contract("binary"))


def test_the_label_is_the_largest_probability() -> None:
    model, rows = fitted("svm", "multiclass", 200), {n: v.to_numpy() for n, v in table(50, 3).items()}
    session, signature = open_graph(convert(model, contract("multiclass"))), signature_of(contract("multiclass"))
    label, probability = session.run(None, {t.name: t.feed(rows[t.name]) for t in signature.inputs})
    assert np.array_equal(label, probability.argmax(axis=1))
    assert np.array_equal(run_graph(session, rows, signature), probability.astype(float))
