"""Proofs of concept as people write them, for the refactoring: (name, what the notebook's predictions are called, cells).

A cell that begins with `# ` and has no code is prose. All run on data that scikit-learn carries or that they write themselves.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

CSV = """import numpy as np
import pandas as pd

def write(path, seed, n=400):
    r = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "customer_id": range(n), "age": r.integers(18, 80, n), "income": r.lognormal(10, 0.6, n).round(2), "city": r.choice(["Paris", "Lyon", "Nice", None], n),
        "plan": r.choice(["basic", "plus", "pro"], n), "signup": pd.date_range("2021-01-01", periods=n, freq="D").strftime("%Y-%m-%d"), "visits": r.poisson(4, n),
    })
    frame.loc[r.random(n) < 0.1, "income"] = np.nan
    logit = 0.04 * (frame["age"] - 45) - 0.3 * (frame["visits"] - 4) + (frame["plan"] == "basic") + r.normal(0, 1, n)
    frame["churn"] = (logit > 0).astype(int)
    frame["spend"] = (50 + 2 * frame["age"] + 10 * frame["visits"] + r.normal(0, 5, n)).round(3)
    frame["review"] = np.where(logit > 0, "bad slow expensive", "good fast cheap") + pd.Series(r.choice([" app", " shop", " help line", " fast", " slow"], n))
    frame.to_csv(path, index=False)
"""


@dataclass(frozen=True)
class Case:
    "One notebook."

    name: str
    cells: tuple[str, ...]
    style: str = ""
    tags: tuple[tuple[int, str], ...] = ()  # cell from 0, tag


def case(name: str, style: str, text: str, tags: tuple[tuple[int, str], ...] = ()) -> Case:
    return Case(name, tuple(c.strip("\n") for c in text.split("\n---\n")), style, tags)


def write_notebook(case: Case, folder: Path) -> Path:
    "Write a case as .ipynb; a cell whose first line starts with '# # ' is markdown."
    cells = []
    for number, source in enumerate(case.cells):
        prose = source.startswith("# # ")
        text = "\n".join(line[2:] for line in source.splitlines()) if prose else source
        tags = [t for i, t in case.tags if i == number]
        cell = {
            "cell_type": "markdown" if prose else "code",
            "id": f"c{number}",
            "source": text,
            "metadata": {"tags": tags} if tags else {},
        }
        cells.append(cell if prose else {**cell, "outputs": [], "execution_count": None})
    path = folder / f"{case.name}.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return path


MOVED = (
    case(
        "pandas_sklearn",
        "pandas and scikit-learn, cell by cell",
        """
# # Churn of a telecom
#
# Who leaves next month?
---
import pandas as pd
import numpy as np
import matplotlib.pyplot as plt
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, roc_auc_score
%matplotlib inline
---
df = pd.read_csv("customers.csv")
df.head()
---
df.describe()
---
# # Missing incomes are filled with the median of the table.
---
df["income"] = df["income"].fillna(df["income"].median())
df["city"] = df["city"].fillna("unknown")
# one column a city
df = pd.get_dummies(df, columns=["city", "plan"])
---
X = df.drop(columns=["churn", "spend", "review", "signup", "customer_id"])
y = df["churn"]
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.25, random_state=42, stratify=y)
---
# # A forest is the first model that was not embarrassing.
---
scaler = StandardScaler()
X_train = scaler.fit_transform(X_train)
X_test = scaler.transform(X_test)
clf = RandomForestClassifier(n_estimators=60, max_depth=5, random_state=42)
clf.fit(X_train, y_train)
---
y_pred = clf.predict(X_test)
y_prob = clf.predict_proba(X_test)[:, 1]
print("accuracy", accuracy_score(y_test, y_pred))
print("auc", roc_auc_score(y_test, y_prob))
---
plt.hist(y_prob)
plt.show()
""",
    ),
    case(
        "pipeline",
        "a ColumnTransformer pipeline",
        """
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.metrics import classification_report
---
NUMERIC = ["age", "income", "visits"]
CATEGORICAL = ["city", "plan"]
TARGET = "churn"
---
data = pd.read_csv("customers.csv")
train_df, test_df = train_test_split(data, test_size=0.3, random_state=7)
---
numeric = Pipeline([("impute", SimpleImputer(strategy="median")), ("scale", StandardScaler())])
categorical = Pipeline([("impute", SimpleImputer(strategy="constant", fill_value="none")), ("encode", OneHotEncoder(handle_unknown="ignore"))])
preprocess = ColumnTransformer([("num", numeric, NUMERIC), ("cat", categorical, CATEGORICAL)])
model = Pipeline([("prep", preprocess), ("clf", LogisticRegression(C=0.5, max_iter=500))])
---
model.fit(train_df[NUMERIC + CATEGORICAL], train_df[TARGET])
---
proba = model.predict_proba(test_df[NUMERIC + CATEGORICAL])[:, 1]
threshold = 0.4
labels = (proba >= threshold).astype(int)
print(classification_report(test_df[TARGET], labels))
""",
    ),
    case(
        "functions",
        "helper functions that read globals",
        """
import numpy as np
import pandas as pd
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import mean_squared_error

SEED = 3
LAGS = (1, 2, 7)
TARGET = "spend"
---
# # Fill what is missing and add lags of the visits.
---
def load(path):
    frame = pd.read_csv(path, parse_dates=["signup"])
    return frame.sort_values("signup")

def add_features(frame):
    frame = frame.copy()
    for lag in LAGS:
        frame[f"lag_{lag}"] = frame["visits"].shift(lag).fillna(0)
    frame["month"] = frame["signup"].dt.month
    return frame

def rmse(a, b):
    return np.sqrt(mean_squared_error(a, b))
---
df = add_features(load("customers.csv"))
features = [c for c in df.columns if c.startswith("lag") or c in ("age", "visits", "month")]
cut = int(len(df) * 0.8)
train, test = df.iloc[:cut], df.iloc[cut:]
---
def build():
    return GradientBoostingRegressor(n_estimators=40, learning_rate=0.1, subsample=0.8, random_state=SEED)

model = build().fit(train[features], train[TARGET])
pred = model.predict(test[features])
print(rmse(test[TARGET], pred))
""",
    ),
    case(
        "classes",
        "classes of one's own",
        """
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.linear_model import LogisticRegression
---
# # Averages two simple models.
---
class Blend(BaseEstimator, ClassifierMixin):
    def __init__(self, weight=0.5):
        self.weight = weight

    def fit(self, X, y):
        self.a_ = GaussianNB().fit(X, y)
        self.b_ = LogisticRegression(max_iter=ITERATIONS).fit(X, y)
        self.classes_ = self.a_.classes_
        return self

    def predict_proba(self, X):
        return self.weight * self.a_.predict_proba(X) + (1 - self.weight) * self.b_.predict_proba(X)

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

ITERATIONS = 3000
---
class Experiment:
    def __init__(self, model, seed=0):
        self.model = model
        self.seed = seed
        self.fitted = False

    def fit(self, X, y):
        self.model.fit(X, y)
        self.fitted = True
        return self

    def predict(self, X):
        return self.model.predict(X)
---
X, y = load_breast_cancer(return_X_y=True)
X_tr, X_te, y_tr, y_te = train_test_split(X, y, random_state=1)
exp = Experiment(Blend(weight=0.3))
exp.fit(X_tr, y_tr)
out = exp.predict(X_te)
(out == y_te).mean()
""",
    ),
    case(
        "best_of_models",
        "a loop over models that keeps the best",
        """
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier, ExtraTreesClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.pipeline import make_pipeline
from sklearn.model_selection import train_test_split
from sklearn.metrics import f1_score
---
wine = load_wine(as_frame=True)
X = wine.data
y = wine.target
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.4, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X_train, y_train, test_size=0.3, random_state=0)
---
models = {
    "logistic": make_pipeline(StandardScaler(), LogisticRegression(C=0.01)),
    "forest": RandomForestClassifier(n_estimators=30, random_state=0),
    "extra": ExtraTreesClassifier(n_estimators=30, random_state=0),
}
scores = {}
for name, m in models.items():
    m.fit(X_train, y_train)
    val_pred = m.predict(X_val)
    scores[name] = f1_score(y_val, val_pred, average="macro")
    print(name, scores[name])
---
best_name = max(scores, key=scores.get)
print("best:", best_name)
best_model = models[best_name]
final = best_model.predict(X_test)
f1_score(y_test, final, average="macro")
""",
    ),
    case(
        "cross_validation",
        "folds, out-of-fold predictions and an average over the folds' models",
        """
import numpy as np, pandas as pd
from sklearn.model_selection import KFold
from sklearn.tree import DecisionTreeRegressor
from sklearn.datasets import load_diabetes
from sklearn.metrics import mean_absolute_error
---
diabetes = load_diabetes(as_frame=True)
full = diabetes.frame
train = full.iloc[:350].reset_index(drop=True)
test = full.iloc[350:].reset_index(drop=True)
feats = [c for c in full.columns if c != "target"]
---
N_FOLDS = 4
kf = KFold(n_splits=N_FOLDS, shuffle=True, random_state=11)
oof = np.zeros(len(train))
test_pred = np.zeros(len(test))
for fold, (tr_idx, va_idx) in enumerate(kf.split(train)):
    X_tr, y_tr = train.loc[tr_idx, feats], train.loc[tr_idx, "target"]
    X_va, y_va = train.loc[va_idx, feats], train.loc[va_idx, "target"]
    model = DecisionTreeRegressor(max_depth=4, random_state=fold)
    model.fit(X_tr, y_tr)
    oof[va_idx] = model.predict(X_va)
    print(fold, mean_absolute_error(y_va, oof[va_idx]))
    test_pred += model.predict(test[feats]) / N_FOLDS
print("OOF", mean_absolute_error(train["target"], oof))
---
print("test", mean_absolute_error(test["target"], test_pred))
""",
    ),
    case(
        "text",
        "text with TF-IDF",
        """
import pandas as pd
import re
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC
from sklearn.model_selection import train_test_split
from sklearn.metrics import accuracy_score
---
STOP = {"the", "a", "help"}

def clean(text):
    text = re.sub(r"[^a-z ]", "", text.lower())
    return " ".join(w for w in text.split() if w not in STOP)

reviews = pd.read_csv("customers.csv")[["review", "churn"]]
reviews["clean"] = reviews.review.apply(clean)
---
train_text, test_text, y_train, y_test = train_test_split(reviews["clean"], reviews["churn"], test_size=0.3, random_state=5)
vec = TfidfVectorizer(ngram_range=(1, 2), min_df=2)
Xtr = vec.fit_transform(train_text)
Xte = vec.transform(test_text)
---
svm = LinearSVC(C=0.1, random_state=5)
svm.fit(Xtr, y_train)
preds = svm.predict(Xte)
margins = svm.decision_function(Xte)
accuracy_score(y_test, preds)
""",
    ),
    case(
        "oversampling",
        "the minority over-sampled with resample",
        """
import numpy as np
import pandas as pd
from sklearn.utils import resample
from sklearn.tree import DecisionTreeClassifier
from sklearn.model_selection import train_test_split
from sklearn.metrics import recall_score

np.random.seed(123)
---
df = pd.read_csv("customers.csv").drop(columns=["review", "signup", "city", "customer_id"])
df["plan"] = df["plan"].map({"basic": 0, "plus": 1, "pro": 2})
df = df.fillna(df.mean())
df.sample(3)
---
train, test = train_test_split(df, test_size=0.3)
majority = train[train.churn == 1]
minority = train[train.churn == 0]
up = resample(minority, replace=True, n_samples=len(majority) + 20)
balanced = pd.concat([majority, up])
print(balanced.churn.value_counts())
---
tree = DecisionTreeClassifier(max_depth=4, max_features=3)
tree.fit(balanced.drop("churn", axis=1), balanced["churn"])
---
yhat = tree.predict(test.drop("churn", axis=1))
print(recall_score(test["churn"], yhat))
""",
    ),
    case(
        "dates",
        "dates, a split by time, statistics learned from train",
        """
import pandas as pd
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error as mae
---
df = pd.read_csv("customers.csv")
df["signup"] = pd.to_datetime(df["signup"])
df["dow"] = df.signup.dt.dayofweek
df["days"] = (df.signup - df.signup.min()).dt.days
---
train = df[df.signup < "2021-11-01"].copy()
test = df[df.signup >= "2021-11-01"].copy()
# the city's mean spend, learned on train
city_mean = train.groupby("city")["spend"].mean()
overall = train["spend"].mean()
for part in (train, test):
    part["city_spend"] = part["city"].map(city_mean).fillna(overall)
    part["income"] = part["income"].fillna(train["income"].median())
---
cols = ["dow", "days", "city_spend", "income", "age", "visits"]
ridge = Ridge(alpha=2.0)
ridge.fit(train[cols], train["spend"])
forecast = ridge.predict(test[cols])
print(f"MAE {mae(test['spend'], forecast):.2f}")
""",
    ),
    case(
        "regression",
        "a log target, tuned by a grid",
        """
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.metrics import r2_score
---
X, y = load_diabetes(return_X_y=True)
log_y = np.log1p(y)
X_train, X_test, y_train, y_test = train_test_split(X, log_y, test_size=0.2, random_state=9)
pipe = Pipeline([("scale", MinMaxScaler()), ("knn", KNeighborsRegressor())])
grid = {"knn__n_neighbors": [3, 9, 15], "knn__weights": ["uniform", "distance"]}
search = GridSearchCV(pipe, grid, cv=4)
search.fit(X_train, y_train)
print(search.best_params_)
---
best = search.best_estimator_
prediction = np.expm1(best.predict(X_test))
r2_score(np.expm1(y_test), prediction)
""",
    ),
    case(
        "multiclass",
        "labels encoded and decoded, an MLP",
        """
import pandas as pd
from sklearn.datasets import load_iris
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import LabelEncoder, StandardScaler
from sklearn.model_selection import StratifiedShuffleSplit
from sklearn.metrics import confusion_matrix, accuracy_score
---
iris = load_iris()
df = pd.DataFrame(iris.data, columns=iris.feature_names)
df["species"] = [iris.target_names[i] for i in iris.target]
---
le = LabelEncoder()
df["label"] = le.fit_transform(df["species"])
sss = StratifiedShuffleSplit(n_splits=1, test_size=0.33, random_state=2)
for train_index, test_index in sss.split(df, df["label"]):
    strat_train = df.loc[train_index]
    strat_test = df.loc[test_index]
---
X_tr = strat_train.drop(["species", "label"], axis=1).values
X_te = strat_test.drop(["species", "label"], axis=1).values
sc = StandardScaler().fit(X_tr)
net = MLPClassifier(hidden_layer_sizes=(8, 4), max_iter=300, random_state=2)
net.fit(sc.transform(X_tr), strat_train["label"])
---
guess = le.inverse_transform(net.predict(sc.transform(X_te)))
print(confusion_matrix(strat_test["species"], guess))
print(accuracy_score(strat_test["species"], guess))
""",
    ),
    case(
        "config_dict",
        "a dictionary of settings",
        """
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import train_test_split
from sklearn.metrics import log_loss
---
CFG = {
    "path": "customers.csv",
    "seed": 21,
    "test_size": 0.2,
    "features": ["age", "income", "visits"],
    "model": {"max_iter": 30, "learning_rate": 0.1, "early_stopping": True},
}
---
raw = pd.read_csv(CFG["path"])
X = raw[CFG["features"]]
y = raw["churn"]
Xtr, Xte, ytr, yte = train_test_split(X, y, test_size=CFG["test_size"], random_state=CFG["seed"])
---
clf = HistGradientBoostingClassifier(random_state=CFG["seed"], **CFG["model"])
clf.fit(Xtr, ytr)
p = clf.predict_proba(Xte)
print(log_loss(yte, p))
""",
    ),
    case(
        "papermill",
        "papermill parameters",
        """
# # Spend of customers
---
path = "customers.csv"
seed = 4
alpha = 0.7
target: str = "spend"
---
import pandas as pd
from sklearn.linear_model import Lasso
from sklearn.model_selection import train_test_split
---
frame = pd.read_csv(path).select_dtypes("number").drop(columns=["churn", "customer_id"])
frame = frame.fillna(frame.mean())
tr, te = train_test_split(frame, random_state=seed)
lasso = Lasso(alpha=alpha)
lasso.fit(tr.drop(columns=target), tr[target])
y_hat = lasso.predict(te.drop(columns=target))
y_hat[:5]
""",
        tags=((1, "parameters"),),
    ),
    case(
        "nbdev_marks",
        "nbdev marks on the functions, the experiment unmarked",
        """
#| default_exp churn
---
#| export
import numpy as np
from sklearn.datasets import make_classification
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import train_test_split
---
#| export
BATCH = 50

def batches(X, y):
    "Slices of the rows."
    for start in range(0, len(X), BATCH):
        yield X[start : start + BATCH], y[start : start + BATCH]
---
#| export
def unused_helper(x):
    return np.square(x)
---
X, y = make_classification(n_samples=500, n_features=8, random_state=6)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=6)
---
sgd = SGDClassifier(random_state=6, loss="log_loss")
for epoch in range(3):
    for xb, yb in batches(X_train, y_train):
        sgd.partial_fit(xb, yb, classes=np.unique(y))
---
answers = sgd.predict_proba(X_test)
print((answers.argmax(axis=1) == y_test).mean())
""",
    ),
    case(
        "messy",
        "globals, prints, plots, star import, reuse of names",
        """
# # Messy churn
---
import warnings
warnings.filterwarnings("ignore")
from numpy import *
import pandas as pd, seaborn_is_not_here as sns
""".replace(", seaborn_is_not_here as sns", "")
        + """
from sklearn.model_selection import train_test_split
from sklearn.linear_model import LogisticRegression
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import *
!pip install pandas
---
df=pd.read_csv('customers.csv'); print(df.shape)
df.isnull().sum()
---
def fill(col):
    global_median = df[col].median()
    return df[col].fillna(global_median)

df['income'] = fill('income')
df['income'] = log1p(df['income'])
tmp = df.groupby('plan').churn.mean()
tmp
---
drop = ['churn', 'customer_id', 'signup', 'review', 'spend']
df['city'].fillna('?').value_counts().head()
X = pd.get_dummies(df.drop(drop, axis=1)).astype(float)
y = df.churn.values
print(X.shape, y.mean())
---
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=.3, random_state=0)
model = LogisticRegression(max_iter=2000)
model.fit(X_train, y_train)
print(accuracy_score(y_test, model.predict(X_test)))
---
# better
model = RandomForestClassifier(50, random_state=0)
model.fit(X_train, y_train)
pred = model.predict(X_test)
print(accuracy_score(y_test, pred)); print(roc_auc_score(y_test, model.predict_proba(X_test)[:,1]))
---
cm = confusion_matrix(y_test, pred)
print(cm)
print("train", accuracy_score(y_train, model.predict(X_train)))
""",
    ),
    case(
        "ensemble",
        "two models, one name, averaged",
        """
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.metrics import roc_auc_score
---
X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=0.5, random_state=8)
sc = StandardScaler()
Xs_train = sc.fit_transform(X_train)
Xs_test = sc.transform(X_test)
---
model = SVC(C=2.0, gamma="scale")
model.fit(Xs_train, y_train)
s1 = model.decision_function(Xs_test)
s1 = 1 / (1 + np.exp(-s1))
---
model = ExtraTreesClassifier(n_estimators=40, random_state=8)
model.fit(X_train, y_train)
s2 = model.predict_proba(X_test)[:, 1]
---
blend = 0.4 * s1 + 0.6 * s2
print(roc_auc_score(y_test, blend))
""",
    ),
    case(
        "transformer",
        "a transformer class and FunctionTransformer with a lambda",
        """
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import make_column_transformer
from sklearn.linear_model import HuberRegressor
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.metrics import median_absolute_error
---
class Winsor(BaseEstimator, TransformerMixin):
    "Clips to quantiles learned in fit."
    def __init__(self, low=0.05, high=0.95):
        self.low = low
        self.high = high
    def fit(self, X, y=None):
        self.bounds_ = np.nanquantile(np.asarray(X, float), [self.low, self.high], axis=0)
        return self
    def transform(self, X):
        return np.clip(np.asarray(X, float), *self.bounds_)
---
offset = 1.5
logs = FunctionTransformer(lambda v: np.log(v + offset))
prep = make_column_transformer((make_pipeline(Winsor(low=0.1), StandardScaler()), ["age", "visits"]), (logs, ["visits"]))
d = pd.read_csv("customers.csv")
a, b = train_test_split(d, test_size=0.25, random_state=13)
reg = make_pipeline(prep, HuberRegressor(max_iter=1000))
reg.fit(a, a["spend"])
est = reg.predict(b)
median_absolute_error(b["spend"], est)
""",
    ),
    case(
        "early_stopping",
        "boosting with a hand-made stop on a validation set",
        """
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split
---
X, y = load_diabetes(return_X_y=True)
X_tmp, X_test, y_tmp, y_test = train_test_split(X, y, test_size=0.2, random_state=17)
X_train, X_valid, y_train, y_valid = train_test_split(X_tmp, y_tmp, test_size=0.25, random_state=17)
---
gbr = GradientBoostingRegressor(max_depth=2, warm_start=True, random_state=17)
best_val = float("inf")
wait = 0
for n in range(1, 80):
    gbr.n_estimators = n
    gbr.fit(X_train, y_train)
    val_error = mean_squared_error(y_valid, gbr.predict(X_valid))
    if val_error < best_val:
        best_val, best_n, wait = val_error, n, 0
    else:
        wait += 1
        if wait == 5:
            print("stop at", n)
            break
---
final_model = GradientBoostingRegressor(max_depth=2, n_estimators=best_n, random_state=17)
final_model.fit(X_train, y_train)
y_final = final_model.predict(X_test)
print(best_n, np.sqrt(mean_squared_error(y_test, y_final)))
""",
    ),
)


FIT = """import numpy as np
from sklearn.linear_model import Ridge
X, y = np.eye(4), np.arange(4.0)
model = Ridge()
---
model.fit(X, y)
p = model.predict(X)
"""
REFUSED = (
    (
        case(
            "late",
            "used before it is defined",
            FIT.replace("model = Ridge()", "").replace("p =", "model = Ridge()\np ="),
        ),
        r"cell 2, line 1: 'model' is used before it is defined \(cell 2, line 2\)",
    ),
    (
        case("nowhere", "never defined", FIT.replace("fit(X, y)", "fit(scaled, y)")),
        r"cell 2, line 1: 'scaled' is never defined",
    ),
    (
        case(
            "shell",
            "the output of a shell command",
            FIT.replace("model = Ridge()", "files = !ls\nmodel = Ridge(alpha=len(files) + 1)"),
        ),
        r"cell 1, line 4: the code depends on 'files = !ls'",
    ),
    (
        case("run", "another notebook is run", "%run prepare.ipynb\n---\n" + FIT),
        r"cell 1, line 1: '%run prepare.ipynb' does what no module can repeat",
    ),
    (
        case("folder", "the folder is changed", "import os\n%cd ..\n---\n" + FIT),
        r"cell 1, line 2: '%cd ..' does what no module can repeat",
    ),
    (
        case("star", "a star import from beside the notebook", "from helpers import *\n---\n" + FIT),
        r"cell 1, line 1: star import of 'helpers'",
    ),
    (
        case(
            "setter",
            "a function that sets a global",
            FIT.replace(
                "p = model.predict(X)",
                "def bump(a):\n    global total\n    total = 2\n    return a\np = model.predict(bump(X))",
            ),
        ),
        r"cell 2, line 3: 'total' is a global that a function sets",
    ),
    (
        case(
            "reader",
            "a class that reads a table",
            FIT.replace(
                "model = Ridge()",
                "class Own(Ridge):\n    def fit(self, X, y):\n        return super().fit(X + shift, y)\nshift = X.mean()\nmodel = Own()",
            ),
        ),
        r"cell 1, line 4: 'shift' is a variable of the notebook that a definition reads",
    ),
    (
        case("dynamic", "code made when it runs", FIT.replace("model = Ridge()", "model = eval('Ridge()')")),
        r"cell 1, line 4: 'eval' is known only when it runs",
    ),
    (
        case("asked", "a question to the person", FIT.replace("Ridge()", "Ridge(alpha=float(input()))")),
        r"cell 1, line 4: 'input' is known only when it runs",
    ),
    (
        case("unasked", "a model that is never asked", FIT.replace("p = model.predict(X)", "")),
        r"a model is fitted \(cell 2, line 1\) and never asked",
    ),
    (
        case(
            "thrown_away",
            "models of cross-validation are thrown away",
            FIT.replace("model.fit(X, y)", "").replace(
                "p = model.predict(X)",
                "from sklearn.model_selection import cross_val_predict\np = cross_val_predict(model, X, y, cv=2)",
            ),
        ),
        r"cell 2, line 2: no fitted model is asked for these predictions",
    ),
)
