"""Pipelines nobody wrote: drawn from a grammar of scikit-learn's steps, each exported at parity or refused by name."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pandas as pd
from sklearn import (
    calibration,
    compose,
    decomposition,
    discriminant_analysis,
    dummy,
    ensemble,
    feature_selection,
    impute,
    kernel_approximation,
    linear_model,
    naive_bayes,
    neighbors,
    neural_network,
    preprocessing,
    svm,
    tree,
)  # fmt: skip
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline

from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.data.values import NULL, NULL_DAYS

Frame = tuple[Contract, pd.DataFrame]


def draw_table(rng: np.random.Generator, task: str, rows: int) -> Frame:
    "One to a dozen columns of all kinds, sometimes many, with nulls, ties, huge and tiny numbers, many categories."
    kinds = ["number", "number", "category", "boolean", "datetime", "text"]
    picked = [
        str(rng.choice(kinds))
        for _ in range(int(rng.choice([1, 2, 4, 8, 12, 60], p=[0.1, 0.15, 0.3, 0.25, 0.15, 0.05])))
    ]
    columns, data = [], {}
    for i, kind in enumerate(picked):
        name, nulls = str(rng.choice(["a b", "é", "x", "label", "value", "f"])) + str(i), bool(rng.random() < 0.5)
        missing = rng.random(rows) < (0.15 if nulls else 0)
        if kind == "number":
            scale, whole = 10.0 ** int(rng.integers(-3, 6)), rng.random() < 0.4
            values = (np.round(rng.normal(0, 5, rows)) if whole else rng.normal(0, 1, rows) * scale).astype("float32")
            data[name] = np.where(missing, np.float32(np.nan), values).astype("float32")
            column = Column(name, kind, nullable=nulls, low=float(values.min()), high=float(values.max()))
        elif kind == "datetime":
            data[name] = np.where(missing, NULL_DAYS, rng.integers(15_000, 20_000, rows))
            column = Column(name, kind, nullable=nulls, low=15_000, high=20_000)
        else:
            levels = {"boolean": ["true", "false"], "text": ["the line", "Slow Été", "very slow line", "n°1, ok"]}.get(
                kind
            )
            levels = levels or [f"c{j}" for j in range(int(rng.choice([2, 5, 40])))]
            data[name] = np.where(missing, NULL, rng.choice(np.array(levels, object), rows)).astype(object)
            column = Column(name, kind, nullable=nulls, levels=tuple(levels) if kind == "category" else ())
        columns.append(column)
    classes = {"binary": ("No", "Yes"), "multiclass": ("a", "b", "c"), "regression": ()}[task]
    target = Target("the target", task, classes, classes[-1] if task == "binary" else "")  # type: ignore[arg-type]
    return Contract(tuple(columns), target), pd.DataFrame(data)


def draw_target(rng: np.random.Generator, frame: pd.DataFrame, task: str) -> Any:
    "Something the columns say, and noise."
    codes = [
        pd.factorize(frame[n])[0] if frame[n].dtype == object else frame[n].fillna(0).rank().to_numpy() for n in frame
    ]
    raw = sum(rng.normal() * (c - c.mean()) / (c.std() + 1e-9) for c in codes) + rng.normal(0, 0.5, len(frame))
    return (
        raw * 10.0 ** int(rng.integers(-2, 5))
        if task == "regression"
        else pd.qcut(raw, 2 if task == "binary" else 3, labels=False)
    )


def _pick(rng: np.random.Generator, *options: Any) -> Any:
    return options[int(rng.integers(len(options)))]()


def _numeric(rng: np.random.Generator, filled: bool) -> Any:
    "Steps for numbers; an imputer first when something after it cannot take NaN."
    steps: list[Any] = []
    if filled:
        steps.append(_pick(
            rng, lambda: impute.SimpleImputer(strategy="median"), lambda: impute.SimpleImputer(add_indicator=True),
            lambda: impute.SimpleImputer(strategy="constant", fill_value=-7), lambda: impute.SimpleImputer(strategy="most_frequent"),
            lambda: impute.SimpleImputer(keep_empty_features=True),
        ))  # fmt: skip
        steps.extend(_pick(
            rng, list, list, lambda: [preprocessing.StandardScaler()], lambda: [preprocessing.StandardScaler(with_mean=False)],
            lambda: [preprocessing.MinMaxScaler(clip=True)], lambda: [preprocessing.RobustScaler()], lambda: [preprocessing.MaxAbsScaler()],
            lambda: [preprocessing.KBinsDiscretizer(4, encode="ordinal", strategy="uniform")],
            lambda: [preprocessing.KBinsDiscretizer(3, strategy="kmeans", random_state=0)], lambda: [preprocessing.PowerTransformer()],
            lambda: [preprocessing.QuantileTransformer(n_quantiles=20, output_distribution="normal")], lambda: [preprocessing.Normalizer()],
            lambda: [preprocessing.StandardScaler(), preprocessing.PolynomialFeatures(2, interaction_only=True, include_bias=False)],
            lambda: [preprocessing.Binarizer()], lambda: [preprocessing.SplineTransformer()],
            lambda: [preprocessing.FunctionTransformer(np.abs), preprocessing.FunctionTransformer(np.log1p)],
            lambda: [preprocessing.FunctionTransformer(lambda x: x)],
            lambda: [FeatureUnion([("a", preprocessing.StandardScaler()), ("b", preprocessing.MinMaxScaler())])],
        ))  # fmt: skip
    return make_pipeline(*steps) if steps else "passthrough"


def _textual(rng: np.random.Generator) -> Any:
    return _pick(
        rng, lambda: preprocessing.OneHotEncoder(handle_unknown="ignore"), lambda: preprocessing.OneHotEncoder(handle_unknown="ignore", drop="if_binary"),
        lambda: preprocessing.OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=0.1, sparse_output=False),
        lambda: preprocessing.OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=3, drop="first"), preprocessing.OneHotEncoder,
        lambda: preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1),
        lambda: preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1, min_frequency=5),
        lambda: preprocessing.TargetEncoder(random_state=0), lambda: preprocessing.TargetEncoder(random_state=0, smooth=10.0),
        lambda: make_pipeline(impute.SimpleImputer(strategy="most_frequent"), preprocessing.OneHotEncoder(handle_unknown="ignore")),
        lambda: make_pipeline(impute.SimpleImputer(missing_values=NULL, strategy="constant", fill_value="?"), preprocessing.OneHotEncoder(handle_unknown="ignore")),
    )  # fmt: skip


def _classifier(rng: np.random.Generator, deep: int) -> Any:
    weight = _pick(rng, lambda: None, lambda: "balanced")
    inner = (lambda: _classifier(rng, deep - 1)) if deep else (lambda: linear_model.LogisticRegression(max_iter=500))
    return _pick(
        rng, lambda: linear_model.LogisticRegression(max_iter=500, class_weight=weight), lambda: linear_model.LogisticRegression(solver="liblinear"),
        lambda: linear_model.SGDClassifier(loss="modified_huber", random_state=0), lambda: linear_model.RidgeClassifier(),
        lambda: tree.DecisionTreeClassifier(max_depth=5, class_weight=weight), lambda: ensemble.RandomForestClassifier(12, class_weight=weight, random_state=0),
        lambda: ensemble.ExtraTreesClassifier(12, max_depth=6, random_state=0), lambda: ensemble.GradientBoostingClassifier(n_estimators=8, random_state=0),
        lambda: ensemble.HistGradientBoostingClassifier(max_iter=12, random_state=0), lambda: svm.SVC(probability=True, random_state=0),
        lambda: neural_network.MLPClassifier((8,), activation=str(rng.choice(["relu", "tanh", "logistic"])), max_iter=40, random_state=0),
        naive_bayes.GaussianNB, naive_bayes.BernoulliNB, discriminant_analysis.LinearDiscriminantAnalysis, neighbors.KNeighborsClassifier,
        discriminant_analysis.QuadraticDiscriminantAnalysis, lambda: dummy.DummyClassifier(strategy=str(rng.choice(["prior", "most_frequent", "uniform"]))),
        lambda: calibration.CalibratedClassifierCV(inner(), method=str(rng.choice(["sigmoid", "isotonic"])), cv=3),
        lambda: ensemble.VotingClassifier([("a", inner()), ("b", make_pipeline(preprocessing.StandardScaler(with_mean=False), inner()))], voting=str(rng.choice(["soft", "soft", "hard"]))),
        lambda: ensemble.StackingClassifier([("a", inner()), ("b", inner())], cv=3, passthrough=bool(rng.random() < 0.5)),
        lambda: ensemble.BaggingClassifier(inner(), 4, max_features=0.8, random_state=0), lambda: ensemble.AdaBoostClassifier(n_estimators=6, random_state=0),
        lambda: GridSearchCV(tree.DecisionTreeClassifier(random_state=0), {"max_depth": [2, 4]}, cv=3),
    )  # fmt: skip


def _regressor(rng: np.random.Generator, deep: int) -> Any:
    inner = (lambda: _regressor(rng, deep - 1)) if deep else linear_model.Ridge
    return _pick(
        rng, linear_model.Ridge, linear_model.LinearRegression, lambda: linear_model.Lasso(0.1), linear_model.BayesianRidge, linear_model.HuberRegressor,
        lambda: linear_model.SGDRegressor(random_state=0), lambda: tree.DecisionTreeRegressor(max_depth=5), lambda: ensemble.RandomForestRegressor(12, random_state=0),
        lambda: ensemble.ExtraTreesRegressor(12, max_depth=6, random_state=0), lambda: ensemble.GradientBoostingRegressor(n_estimators=8, random_state=0),
        lambda: ensemble.HistGradientBoostingRegressor(max_iter=12, random_state=0), lambda: svm.SVR(kernel=str(rng.choice(["rbf", "linear", "sigmoid"]))),
        lambda: neural_network.MLPRegressor(hidden_layer_sizes=(8,), max_iter=40, random_state=0), neighbors.KNeighborsRegressor, dummy.DummyRegressor,
        lambda: compose.TransformedTargetRegressor(inner(), transformer=preprocessing.StandardScaler()),
        lambda: ensemble.VotingRegressor([("a", inner()), ("b", inner())]), lambda: ensemble.StackingRegressor([("a", inner()), ("b", inner())], cv=3),
        lambda: ensemble.BaggingRegressor(inner(), 4, max_features=0.8, random_state=0), lambda: ensemble.AdaBoostRegressor(n_estimators=6, random_state=0),
    )  # fmt: skip


def draw_pipeline(rng: np.random.Generator, contract: Contract, task: str) -> Any:
    "Groups by kind, sometimes nested or left over, steps between, and a model."
    model = (_regressor if task == "regression" else _classifier)(rng, 1)
    native = type(model).__name__.startswith(("HistGradient", "DecisionTree", "RandomForest", "Dummy"))
    filled = not native or bool(rng.random() < 0.5)
    numbers, dates, texts = contract.names("number"), contract.names("datetime"), contract.names("category", "boolean")
    groups: list[Any] = []
    if numbers:
        groups.append((_numeric(rng, filled), numbers + dates if rng.random() < 0.5 else numbers))
    if dates:
        groups.append(
            (_pick(rng, lambda: "passthrough", preprocessing.StandardScaler, preprocessing.MinMaxScaler), dates)
        )
    if texts:
        groups.append((_textual(rng), texts))
    for name in contract.names("text")[:2]:
        groups.append(
            (
                _pick(
                    rng,
                    TfidfVectorizer,
                    lambda: CountVectorizer(ngram_range=(1, 2), binary=True),
                    lambda: TfidfVectorizer(sublinear_tf=True, stop_words=["the"]),
                ),
                name,
            )
        )
    features = compose.make_column_transformer(*groups, sparse_threshold=float(rng.choice([0.0, 0.3])))
    between = _pick(
        rng, list, list, list, lambda: [feature_selection.VarianceThreshold()], lambda: [decomposition.TruncatedSVD(1, random_state=0)],
        lambda: [feature_selection.SelectPercentile(feature_selection.f_regression if task == "regression" else feature_selection.f_classif, percentile=60)],
        lambda: [kernel_approximation.Nystroem(n_components=4, random_state=0)],
    )  # fmt: skip
    return make_pipeline(features, *between, model)


def draw(seed: int, task: str, rows: int = 160) -> tuple[Contract, pd.DataFrame, Any]:
    "A contract, its rows and a fitted pipeline; one that scikit-learn itself cannot fit is drawn again."
    for attempt in range(40):
        rng = np.random.default_rng([seed, attempt])
        contract, frame = draw_table(rng, task, rows)
        pipeline = draw_pipeline(rng, contract, task)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return contract, frame, pipeline.fit(frame, draw_target(rng, frame, task))
        except (ValueError, TypeError, AttributeError, IndexError):
            continue
    raise AssertionError(f"nothing fits for {seed}")
