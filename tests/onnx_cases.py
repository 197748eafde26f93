"""The matrix of export: what is tried, what may be refused and what counts as equal. Written before the first result."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import ensemble, linear_model, naive_bayes, neighbors, neural_network, preprocessing, svm, tree
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif
from sklearn.impute import SimpleImputer
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from threadpoolctl import threadpool_limits

from mlops_nb.bundle.edges import edge_rows
from mlops_nb.bundle.fitting import answers_where_possible
from mlops_nb.bundle.neighbours import Encoded
from mlops_nb.bundle.onnx import convert, signature_of
from mlops_nb.bundle.parity import open_graph, run_graph, tolerance_for
from mlops_nb.bundle.proving import Examined, examine, worst_rows
from mlops_nb.core.errors import Refused
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.data.values import NULL, NULL_DAYS

SAVED = Path(__file__).resolve().parent.parent / "nbs" / "tables" / "onnx_matrix.json"

# Equal means: probabilities within 1e-5; values of a regression within 1e-5 of the value plus 1e-5 of the largest answer
# on ordinary rows. A row beyond that counts as `beside a split` only if moving one number of it by one float32 step (a
# date: one day's float32 step, that is the day itself) makes the original model give the graph's answer.
TOLERANCE = {"binary": "1e-5", "multiclass": "1e-5", "regression": "1e-5 of the value + 1e-5 of the largest answer"}

# What may be refused, and why. Anything else that is refused is a fault.
MAY_BE_REFUSED = {
    "knn": "neighbours at equal distance are taken in an order that scikit-learn does not define",
    "pca forest": "sums of products depend on their order, and a forest amplifies the last bit",
}

COLUMNS = (
    Column("value", "number", nullable=True, low=0, high=72),  # named as the output of a regression
    Column("a charge (€)", "number", nullable=True, low=18.25, high=118.75),
    Column("plan", "category", nullable=True, levels=("free", "pro", "max")),
    Column("region", "category", nullable=True, levels=tuple(f"r{i}" for i in range(8))),
    Column("paperless", "boolean", nullable=True),
    Column("since", "datetime", nullable=True, low=18_000, high=20_000),
    Column("note", "text", nullable=True),
    Column("label", "number"),  # never used by a model
)
TARGETS = {
    "binary": Target("y", "binary", ("No", "Yes"), "Yes"),
    "multiclass": Target("y", "multiclass", ("a", "b", "c")),
    "regression": Target("y", "regression"),
}
ORDINARY = {
    "value": 3, "a charge (€)": 50.5, "plan": "pro", "region": "r1", "paperless": True, "since": "2020-01-01",
    "note": "Line is slow, very slow", "label": 0,
}  # fmt: skip
WORDS = [
    "slow",
    "line",
    "is",
    "Broken",
    "very",
    "été",
    "Été",
    "n°12",
    "good",
    "price",
    "don't",
    "e-mail",
    "again",
    "ok!",
]
NUMBERS, DATES, TEXTS = ["value", "a charge (€)"], ["since"], ["plan", "region", "paperless"]


def contract(task: str) -> Contract:
    return Contract(COLUMNS, TARGETS[task])


def table(rows: int, seed: int = 0) -> pd.DataFrame:
    "Encoded rows with nulls in every column that may have them."
    rng = np.random.default_rng(seed)
    shares = np.array([32, 24, 16, 12, 8, 5, 2, 1]) / 100
    frame = pd.DataFrame(
        {
            "value": rng.integers(0, 72, rows).astype("float32"),
            "a charge (€)": rng.uniform(18, 119, rows).astype("float32"),
            "plan": rng.choice(np.array(["free", "pro", "max", NULL], object), rows),
            "region": rng.choice(np.array([f"r{i}" for i in range(8)], object), rows, p=shares),
            "paperless": rng.choice(np.array(["true", "false", NULL], object), rows),
            "since": rng.integers(18_000, 20_000, rows),
            "note": np.array([" ".join(rng.choice(WORDS, rng.integers(1, 7))) for _ in range(rows)], object),
            "label": np.zeros(rows, "float32"),
        }
    )
    frame.loc[::7, NUMBERS] = np.nan
    frame.loc[::11, "since"] = NULL_DAYS
    frame.loc[::13, "note"] = NULL
    return frame


def truth(frame: pd.DataFrame, task: str) -> Any:
    raw = frame["value"].fillna(20) / 20 + (frame["plan"] == "pro") * 1.5 + np.sin(frame["since"] / 300)
    raw += frame["note"].str.contains("slow") * 0.8
    noisy = raw.to_numpy() + np.random.default_rng(1).normal(0, 0.5, len(frame))
    return {"binary": (noisy > 2).astype(int), "multiclass": np.digitize(noisy, [1.5, 3]), "regression": noisy * 100}[
        task
    ]


def one_hot(**more: Any) -> Any:
    return preprocessing.OneHotEncoder(**{"handle_unknown": "ignore", "sparse_output": False, **more})


def ranks() -> Any:
    return preprocessing.OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)


def fill(strategy: str = "median", **more: Any) -> Any:
    return SimpleImputer(strategy=strategy, **more)


def scaled(scaler: Any, **more: Any) -> Any:
    return make_pipeline(fill(**more), scaler)


def filled_days() -> Any:
    return make_pipeline(
        SimpleImputer(missing_values=float(NULL_DAYS), strategy="median"), preprocessing.StandardScaler()
    )


SCALED = [
    ("n", scaled(preprocessing.StandardScaler()), NUMBERS),
    ("d", filled_days(), DATES),
    ("c", one_hot(sparse_output=True), TEXTS),
]
BINS = preprocessing.KBinsDiscretizer(5, quantile_method="averaged_inverted_cdf")
FEATURES: dict[str, Any] = {
    "plain": [("n", "passthrough", NUMBERS + DATES), ("c", one_hot(), TEXTS)],
    "ranked": [("n", "passthrough", NUMBERS), ("c", ranks(), TEXTS)],
    "filled": [("n", fill(), NUMBERS), ("d", "passthrough", DATES), ("c", one_hot(), TEXTS)],
    "mean, indicator": [("n", fill("mean", add_indicator=True), NUMBERS + DATES), ("c", one_hot(), TEXTS)],
    "most frequent": [("n", fill("most_frequent"), NUMBERS), ("c", make_pipeline(fill("most_frequent"), one_hot()), TEXTS)],
    "constant": [("n", fill("constant", fill_value=-1), NUMBERS), ("c", one_hot(drop="first"), TEXTS)],
    "infrequent": [
        ("n", fill(), NUMBERS),
        ("c", one_hot(handle_unknown="infrequent_if_exist", min_frequency=0.1), TEXTS),
    ],
    "target": [("n", fill(), NUMBERS), ("c", preprocessing.TargetEncoder(random_state=0), TEXTS)],
    "scaled": SCALED,
    "minmax": [("n", scaled(preprocessing.MinMaxScaler()), NUMBERS), ("c", one_hot(), TEXTS)],
    "robust": [("n", scaled(preprocessing.RobustScaler()), NUMBERS + DATES), ("c", one_hot(), TEXTS)],
    "maxabs": [("n", scaled(preprocessing.MaxAbsScaler()), NUMBERS), ("c", ranks(), TEXTS)],
    "quantile": [("n", scaled(preprocessing.QuantileTransformer(n_quantiles=50, random_state=0)), NUMBERS), ("c", one_hot(), TEXTS)],
    "power": [("n", scaled(preprocessing.PowerTransformer()), NUMBERS), ("c", one_hot(), TEXTS)],
    "bins": [("n", scaled(BINS), NUMBERS), ("c", one_hot(), TEXTS)],
    "polynomial": [
        ("n", make_pipeline(fill(), preprocessing.StandardScaler(), preprocessing.PolynomialFeatures(2)), NUMBERS),
        ("c", one_hot(), TEXTS),
    ],
    "tfidf": [("n", scaled(preprocessing.StandardScaler()), NUMBERS), ("t", TfidfVectorizer(), "note")],
    "bigrams": [("n", scaled(preprocessing.StandardScaler()), NUMBERS), ("t", CountVectorizer(ngram_range=(1, 2)), "note")],
    "union": [
        ("n", FeatureUnion([("s", scaled(preprocessing.StandardScaler())), ("m", fill(add_indicator=True))]), NUMBERS),
        ("p", ColumnTransformer([("c", one_hot(), ["plan"])], remainder=ranks()), TEXTS),
    ],
}  # fmt: skip


class Case:
    "One combination: features, steps between, and a model for classes and one for values."

    def __init__(self, features: str, classifier: Any, regressor: Any, *between: Any) -> None:
        self.features, self.classifier, self.regressor, self.between = features, classifier, regressor, between

    def pipeline(self, task: str) -> Pipeline:
        model = self.regressor if task == "regression" else self.classifier
        return make_pipeline(ColumnTransformer(FEATURES[self.features]), *map(clone, self.between), clone(model))


def _lightgbm() -> Case:
    import lightgbm

    more = {"n_estimators": 20, "verbose": -1, "n_jobs": 1, "random_state": 0}
    return Case("ranked", lightgbm.LGBMClassifier(**more), lightgbm.LGBMRegressor(**more))


def _xgboost() -> Case:
    import xgboost

    more = {"n_estimators": 20, "n_jobs": 1, "random_state": 0}
    return Case("plain", xgboost.XGBClassifier(**more), xgboost.XGBRegressor(**more))


def _several(*kinds: Any) -> list[tuple[str, Any]]:
    return [(f"m{i}", kind) for i, kind in enumerate(kinds)]


LOGISTIC, RIDGE = linear_model.LogisticRegression(max_iter=2_000), linear_model.Ridge()
FOREST = ensemble.RandomForestClassifier(20, random_state=0), ensemble.RandomForestRegressor(20, random_state=0)
HIST = (
    ensemble.HistGradientBoostingClassifier(max_iter=20, random_state=0),
    ensemble.HistGradientBoostingRegressor(max_iter=20, random_state=0),
)
GRADIENT = (
    ensemble.GradientBoostingClassifier(n_estimators=20, random_state=0),
    ensemble.GradientBoostingRegressor(n_estimators=20, random_state=0),
)
CATEGORICAL = {"max_iter": 20, "random_state": 0, "categorical_features": [2, 3, 4]}
CASES: dict[str, Callable[[], Case]] = {
    "hist": lambda: Case("plain", *HIST),
    "hist ranked": lambda: Case("ranked", *HIST),
    "hist scaled": lambda: Case("scaled", *HIST),
    "hist categorical": lambda: Case(
        "ranked",
        ensemble.HistGradientBoostingClassifier(**CATEGORICAL),
        ensemble.HistGradientBoostingRegressor(**CATEGORICAL),
    ),
    "gradient": lambda: Case("mean, indicator", *GRADIENT),
    "gradient robust": lambda: Case("robust", *GRADIENT),
    "forest": lambda: Case("filled", *FOREST),
    "forest scaled": lambda: Case("scaled", *FOREST),
    "forest target": lambda: Case("target", *FOREST),
    "extra": lambda: Case(
        "maxabs", ensemble.ExtraTreesClassifier(20, random_state=0), ensemble.ExtraTreesRegressor(20, random_state=0)
    ),
    "tree": lambda: Case(
        "most frequent", tree.DecisionTreeClassifier(max_depth=4, random_state=0), tree.DecisionTreeRegressor(max_depth=4)
    ),
    "logistic": lambda: Case("scaled", LOGISTIC, RIDGE),
    "logistic infrequent": lambda: Case("infrequent", LOGISTIC, linear_model.LinearRegression()),
    "logistic l1": lambda: Case(
        "constant", linear_model.LogisticRegression(penalty="l1", solver="saga", max_iter=200, tol=0.1), linear_model.Lasso()
    ),
    "sgd": lambda: Case(
        "minmax", linear_model.SGDClassifier(loss="log_loss", random_state=0), linear_model.SGDRegressor(random_state=0)
    ),
    "linear bins": lambda: Case("bins", LOGISTIC, linear_model.ElasticNet()),
    "linear polynomial": lambda: Case("polynomial", LOGISTIC, linear_model.BayesianRidge()),
    "linear quantile": lambda: Case("quantile", LOGISTIC, linear_model.HuberRegressor(max_iter=1_000)),
    "linear power": lambda: Case("power", LOGISTIC, RIDGE),
    "linear target": lambda: Case("target", LOGISTIC, RIDGE),
    "linear union": lambda: Case("union", LOGISTIC, RIDGE),
    "tfidf": lambda: Case("tfidf", LOGISTIC, RIDGE),
    "bigrams": lambda: Case("bigrams", LOGISTIC, RIDGE),
    "select": lambda: Case("scaled", LOGISTIC, RIDGE, VarianceThreshold(), SelectKBest(f_classif, k=6)),
    "pca": lambda: Case("scaled", LOGISTIC, RIDGE, PCA(4, random_state=0)),
    "svd": lambda: Case("scaled", LinearDiscriminantAnalysis(), RIDGE, TruncatedSVD(4, random_state=0)),
    "pca forest": lambda: Case("scaled", *FOREST, PCA(4, random_state=0)),
    "svm": lambda: Case("scaled", svm.SVC(probability=True, random_state=0), svm.SVR()),
    "linear svm": lambda: Case("scaled", CalibratedClassifierCV(svm.LinearSVC(random_state=0), cv=3), svm.LinearSVR(random_state=0)),
    "mlp": lambda: Case(
        "scaled",
        neural_network.MLPClassifier(hidden_layer_sizes=(16,), max_iter=50, random_state=0),
        neural_network.MLPRegressor(hidden_layer_sizes=(16,), max_iter=300, random_state=0),
    ),
    "knn": lambda: Case("scaled", neighbors.KNeighborsClassifier(), neighbors.KNeighborsRegressor()),
    "bayes": lambda: Case("scaled", naive_bayes.GaussianNB(), linear_model.ARDRegression()),
    "calibrated isotonic": lambda: Case(
        "filled",
        CalibratedClassifierCV(FOREST[0], method="isotonic", cv=3),
        TransformedTargetRegressor(RIDGE, transformer=preprocessing.StandardScaler()),
    ),
    "voting": lambda: Case(
        "scaled",
        ensemble.VotingClassifier(_several(LOGISTIC, FOREST[0], GRADIENT[0]), voting="soft", weights=[1, 2, 1]),
        ensemble.VotingRegressor(_several(RIDGE, FOREST[1], GRADIENT[1])),
    ),
    "stacking": lambda: Case(
        "scaled",
        ensemble.StackingClassifier(_several(LOGISTIC, HIST[0], svm.LinearSVC(random_state=0)), cv=3),
        ensemble.StackingRegressor(_several(RIDGE, HIST[1]), cv=3, passthrough=True),
    ),
    "bagging": lambda: Case(
        "filled",
        ensemble.BaggingClassifier(tree.DecisionTreeClassifier(max_depth=4), 8, max_features=0.7, random_state=0),
        ensemble.BaggingRegressor(tree.DecisionTreeRegressor(max_depth=4), 8, max_features=0.7, random_state=0),
    ),
    "adaboost": lambda: Case(
        "filled", ensemble.AdaBoostClassifier(n_estimators=10, random_state=0), ensemble.AdaBoostRegressor(n_estimators=10, random_state=0)
    ),
    "dummy": lambda: Case("plain", DummyClassifier(), DummyRegressor()),
    "multi-output": lambda: Case("scaled", MultiOutputClassifier(LOGISTIC), MultiOutputRegressor(RIDGE)),
    "lightgbm": _lightgbm,
    "xgboost": _xgboost,
}  # fmt: skip


def fitted(name: str, task: str, rows: int = 500) -> Any:
    "The pipeline of a case, fitted."
    train = table(rows)
    target = truth(train, task)
    as_column = "multi-output" in name  # one target, as such wrappers want it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a hundred small fits: convergence is not the question here
        return CASES[name]().pipeline(task).fit(train, target.reshape(-1, 1) if as_column else target)


def arrays(frame: pd.DataFrame) -> Encoded:
    return {name: frame[name].to_numpy() for name in frame}


def compared(model: Any, graph: bytes, task: str) -> Examined:
    "Model and graph on a fresh sample, on the edges and beside the model's jumps."
    session, signature = open_graph(graph), signature_of(contract(task))

    def ask(rows: Encoded) -> Any:
        return answers_where_possible(model, pd.DataFrame(dict(rows)), task)

    def answer(rows: Encoded) -> Any:
        return run_graph(session, rows, signature)

    sets = {"sample": arrays(table(600, seed=5)), "edge": contract(task).encode(edge_rows(contract(task), ORDINARY))}
    found = examine(ask, answer, sets, tolerance_for(task, ask(arrays(table(500)))))
    for kind, rows in sets.items():
        if found.sets[kind].wrong:
            print(worst_rows(ask, answer, rows, found.sets[kind].wrong).markdown())
    return found


def measure(name: str, task: str) -> dict[str, Any]:
    "What became of one combination: parity, refused or WRONG."
    model = fitted(name, task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what scikit-learn says of odd rows is not the question
        try:
            found = compared(model, convert(model, contract(task)), task)
        except Refused as e:
            return {"case": name, "task": task, "state": "refused", "why": f"{e.where}: {e.what}"}
    return {"case": name, "task": task, "state": "WRONG" if found.wrong else "parity", **found.to_dict()}


def main() -> int:
    "Measure the whole matrix and save it."
    with threadpool_limits(1):  # many small fits: threads would only wait for each other
        results = [measure(name, task) for name in CASES for task in TARGETS]
    SAVED.parent.mkdir(exist_ok=True)
    doc = {"tolerance": TOLERANCE, "may_be_refused": MAY_BE_REFUSED, "results": results}
    SAVED.write_text(json.dumps(doc, indent=1, ensure_ascii=False) + "\n")
    for row in results:
        if row["state"] != "parity":
            print(row)
    return int(any(row["state"] == "WRONG" for row in results))


if __name__ == "__main__":
    sys.exit(main())
