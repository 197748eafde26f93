"""Notebooks with seeded leaks, each with its fixed twin, and sound ones that look suspicious: what each must be found guilty of, and
nothing else. All were written for these tests."""

from __future__ import annotations

from dataclasses import dataclass

PRE, OVERLAP, MULTI = "leakage-preprocessing", "leakage-overlap", "leakage-multi-test"
LEAKS = (PRE, OVERLAP, MULTI)

IMPORTS = """
import numpy as np
import pandas as pd
from sklearn.model_selection import (train_test_split, KFold, StratifiedKFold, cross_val_score, GridSearchCV, TimeSeriesSplit, ShuffleSplit)
from sklearn.preprocessing import *
from sklearn.linear_model import *
from sklearn.ensemble import *
from sklearn.metrics import *
from sklearn.pipeline import *
from sklearn.impute import *
from sklearn.feature_selection import *
from sklearn.decomposition import *
"""


@dataclass(frozen=True)
class Pair:
    "A defective notebook and its fixed twin, as one text."

    style: str
    rules: frozenset[str]  # what the defective one must be found guilty of
    bad: str
    fixed: str


def _pair(style: str, rules: set[str], bad: str, fixed: str) -> Pair:
    return Pair(style, frozenset(rules), bad, fixed)


PAIRS: dict[str, Pair] = {
    "derived_from_scaled": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
df['z'] = StandardScaler().fit_transform(df[['a']])
df['z_squared'] = df['z'] ** 2
df = df.rename(columns={'z_squared': 'z2'})
X = df.drop(columns=['z', 'y'])
X_train, X_test, y_train, y_test = train_test_split(X, df['y'], random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
        """
df = pd.read_csv('a.csv')
df['z'] = StandardScaler().fit_transform(df[['a']])
df['a_squared'] = df['a'] ** 2
df = df.rename(columns={'a_squared': 'a2'})
X = df[['a', 'b', 'a2']]
X_train, X_test, y_train, y_test = train_test_split(X, df['y'], random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "minmax_all": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
scaler = MinMaxScaler()
df[['a','b']] = scaler.fit_transform(df[['a','b']])
X = df.drop('y', axis=1); y = df.y
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=.3, random_state=1)
clf = RandomForestClassifier(random_state=0)
clf.fit(X_train, y_train)
y_pred = clf.predict(X_test)
print(accuracy_score(y_test, y_pred))
""",
        """
df = pd.read_csv('a.csv')
X = df.drop('y', axis=1); y = df.y
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=.3, random_state=1)
scaler = MinMaxScaler()
X_train = X_train.copy()
X_train[['a','b']] = scaler.fit_transform(X_train[['a','b']])
X_test = X_test.copy()
X_test[['a','b']] = scaler.transform(X_test[['a','b']])
clf = RandomForestClassifier(random_state=0)
clf.fit(X_train, y_train)
y_pred = clf.predict(X_test)
print(accuracy_score(y_test, y_pred))
""",
    ),
    "numpy_norm": _pair(
        "numpy",
        {PRE},
        """
data = np.loadtxt('x.txt')
X, y = data[:, :-1], data[:, -1]
mu = X.mean(axis=0); sd = X.std(axis=0)
Xn = (X - mu) / sd
n = int(.8*len(Xn))
Xtr, Xte = Xn[:n], Xn[n:]
ytr, yte = y[:n], y[n:]
m = Ridge().fit(Xtr, ytr)
print(mean_squared_error(yte, m.predict(Xte)))
""",
        """
data = np.loadtxt('x.txt')
X, y = data[:, :-1], data[:, -1]
n = int(.8*len(X))
Xtr, Xte = X[:n], X[n:]
mu = Xtr.mean(axis=0); sd = Xtr.std(axis=0)
Xtr = (Xtr - mu) / sd
Xte = (Xte - mu) / sd
ytr, yte = y[:n], y[n:]
m = Ridge().fit(Xtr, ytr)
print(mean_squared_error(yte, m.predict(Xte)))
""",
    ),
    "tfidf_all": _pair(
        "text",
        {PRE},
        """
from sklearn.feature_extraction.text import TfidfVectorizer
df = pd.read_csv('t.csv')
vec = TfidfVectorizer(stop_words='english')
X = vec.fit_transform(df['text'])
X_train, X_test, y_train, y_test = train_test_split(X, df['label'], random_state=0)
clf = LogisticRegression().fit(X_train, y_train)
print(classification_report(y_test, clf.predict(X_test)))
""",
        """
from sklearn.feature_extraction.text import TfidfVectorizer
df = pd.read_csv('t.csv')
train, test = train_test_split(df, random_state=0)
vec = TfidfVectorizer(stop_words='english')
X_train = vec.fit_transform(train['text'])
X_test = vec.transform(test['text'])
clf = LogisticRegression().fit(X_train, train['label'])
print(classification_report(test['label'], clf.predict(X_test)))
""",
    ),
    "select_kbest_cv": _pair(
        "cross-validation",
        {PRE},
        """
from sklearn.datasets import load_breast_cancer
X, y = load_breast_cancer(return_X_y=True)
X_new = SelectKBest(f_classif, k=10).fit_transform(X, y)
scores = cross_val_score(LogisticRegression(), X_new, y, cv=5)
print(scores.mean())
""",
        """
from sklearn.datasets import load_breast_cancer
X, y = load_breast_cancer(return_X_y=True)
pipe = Pipeline([('sel', SelectKBest(f_classif, k=10)), ('clf', LogisticRegression())])
scores = cross_val_score(pipe, X, y, cv=5)
print(scores.mean())
""",
    ),
    "smote_before": _pair(
        "over-sampling",
        {OVERLAP},
        """
from imblearn.over_sampling import SMOTE
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
sm = SMOTE(random_state=0)
X_res, y_res = sm.fit_resample(X, y)
X_train, X_test, y_train, y_test = train_test_split(X_res, y_res, random_state=0)
clf = RandomForestClassifier(random_state=0).fit(X_train, y_train)
print(f1_score(y_test, clf.predict(X_test)))
""",
        """
from imblearn.over_sampling import SMOTE
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
X_res, y_res = SMOTE(random_state=0).fit_resample(X_train, y_train)
clf = RandomForestClassifier(random_state=0).fit(X_res, y_res)
print(f1_score(y_test, clf.predict(X_test)))
""",
    ),
    "upsample_minority": _pair(
        "over-sampling",
        {OVERLAP},
        """
from sklearn.utils import resample
df = pd.read_csv('a.csv')
maj = df[df.y == 0]; mino = df[df.y == 1]
up = resample(mino, replace=True, n_samples=len(maj), random_state=1)
df2 = pd.concat([maj, up])
X_train, X_test, y_train, y_test = train_test_split(df2.drop('y', axis=1), df2.y, random_state=0)
clf = RandomForestClassifier(random_state=0).fit(X_train, y_train)
print(f1_score(y_test, clf.predict(X_test)))
""",
        """
from sklearn.utils import resample
df = pd.read_csv('a.csv')
train, test = train_test_split(df, random_state=0)
maj = train[train.y == 0]; mino = train[train.y == 1]
up = resample(mino, replace=True, n_samples=len(maj), random_state=1)
more = pd.concat([maj, up])
clf = RandomForestClassifier(random_state=0).fit(more.drop('y', axis=1), more.y)
print(f1_score(test.y, clf.predict(test.drop('y', axis=1))))
""",
    ),
    "fit_all_score_test": _pair(
        "pandas",
        {OVERLAP},
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
clf = GradientBoostingClassifier(random_state=0)
clf.fit(X, y)
print(roc_auc_score(y_test, clf.predict_proba(X_test)[:, 1]))
""",
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
clf = GradientBoostingClassifier(random_state=0)
clf.fit(X_train, y_train)
print(roc_auc_score(y_test, clf.predict_proba(X_test)[:, 1]))
""",
    ),
    "tune_test": _pair(
        "loops",
        {MULTI},
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
results = {}
for depth in [2, 4, 8, 16]:
    clf = RandomForestClassifier(max_depth=depth, random_state=0).fit(X_train, y_train)
    results[depth] = accuracy_score(y_test, clf.predict(X_test))
best = max(results, key=results.get)
print(best, results[best])
""",
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_tmp, X_test, y_tmp, y_test = train_test_split(X, y, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X_tmp, y_tmp, random_state=0)
results = {}
for depth in [2, 4, 8, 16]:
    clf = RandomForestClassifier(max_depth=depth, random_state=0).fit(X_train, y_train)
    results[depth] = accuracy_score(y_val, clf.predict(X_val))
best = max(results, key=results.get)
final = RandomForestClassifier(max_depth=best, random_state=0).fit(X_tmp, y_tmp)
print(accuracy_score(y_test, final.predict(X_test)))
""",
    ),
    "models_loop": _pair(
        "loops",
        {MULTI},
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
models = {'lr': LogisticRegression(), 'rf': RandomForestClassifier(random_state=0), 'gb': GradientBoostingClassifier(random_state=0)}
scores = {}
for name, model in models.items():
    model.fit(X_train, y_train)
    scores[name] = model.score(X_test, y_test)
best_name = max(scores, key=scores.get)
""",
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
models = {'lr': LogisticRegression(), 'rf': RandomForestClassifier(random_state=0), 'gb': GradientBoostingClassifier(random_state=0)}
scores = {}
for name, model in models.items():
    scores[name] = cross_val_score(model, X_train, y_train, cv=5).mean()
best_name = max(scores, key=scores.get)
print(models[best_name].fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "eval_set_test": _pair(
        "early stopping",
        {MULTI},
        """
import xgboost as xgb
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
clf = xgb.XGBClassifier(n_estimators=1000, early_stopping_rounds=20)
clf.fit(X_train, y_train, eval_set=[(X_test, y_test)])
print(clf.score(X_test, y_test))
""",
        """
import xgboost as xgb
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
X_train, X_val, y_train, y_val = train_test_split(X_train, y_train, random_state=0)
clf = xgb.XGBClassifier(n_estimators=1000, early_stopping_rounds=20)
clf.fit(X_train, y_train, eval_set=[(X_val, y_val)])
print(clf.score(X_test, y_test))
""",
    ),
    "class_style": _pair(
        "classes",
        {PRE},
        """
class Trainer:
    def __init__(self, path):
        self.df = pd.read_csv(path)
        self.scaler = StandardScaler()
        self.model = LogisticRegression()

    def prepare(self):
        X = self.df.drop(columns=['y'])
        self.X = self.scaler.fit_transform(X)
        self.y = self.df['y']

    def run(self):
        self.prepare()
        X_train, X_test, y_train, y_test = train_test_split(self.X, self.y, random_state=0)
        self.model.fit(X_train, y_train)
        return self.model.score(X_test, y_test)

t = Trainer('a.csv')
print(t.run())
""",
        """
class Trainer:
    def __init__(self, path):
        self.df = pd.read_csv(path)
        self.scaler = StandardScaler()
        self.model = LogisticRegression()

    def run(self):
        X = self.df.drop(columns=['y'])
        X_train, X_test, y_train, y_test = train_test_split(X, self.df['y'], random_state=0)
        X_train = self.scaler.fit_transform(X_train)
        self.model.fit(X_train, y_train)
        return self.model.score(self.scaler.transform(X_test), y_test)

t = Trainer('a.csv')
print(t.run())
""",
    ),
    "inplace_helper": _pair(
        "helper functions",
        {PRE},
        """
def clean(frame):
    for c in ['a', 'b']:
        frame[c] = (frame[c] - frame[c].min()) / (frame[c].max() - frame[c].min())

def load():
    df = pd.read_csv('a.csv')
    clean(df)
    return df

def main():
    df = load()
    tr, te = train_test_split(df, random_state=0)
    m = LogisticRegression().fit(tr[['a','b']], tr['y'])
    print(m.score(te[['a','b']], te['y']))

if __name__ == '__main__':
    main()
""",
        """
def clean(frame, low, high):
    for c in ['a', 'b']:
        frame[c] = (frame[c] - low[c]) / (high[c] - low[c])

def main():
    df = pd.read_csv('a.csv')
    tr, te = train_test_split(df, random_state=0)
    low, high = tr.min(), tr.max()
    clean(tr, low, high)
    clean(te, low, high)
    m = LogisticRegression().fit(tr[['a','b']], tr['y'])
    print(m.score(te[['a','b']], te['y']))

if __name__ == '__main__':
    main()
""",
    ),
    "target_encode": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
means = df.groupby('city')['y'].mean()
df['city_te'] = df['city'].map(means)
X = df[['city_te', 'age']]; y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
print(LogisticRegression().fit(X_train, y_train).score(X_test, y_test))
""",
        """
df = pd.read_csv('a.csv')
train, test = train_test_split(df, random_state=0)
means = train.groupby('city')['y'].mean()
train = train.assign(city_te=train['city'].map(means))
test = test.assign(city_te=test['city'].map(means))
m = LogisticRegression().fit(train[['city_te', 'age']], train['y'])
print(m.score(test[['city_te', 'age']], test['y']))
""",
    ),
    "kaggle_concat": _pair(
        "pandas",
        {PRE},
        """
train = pd.read_csv('train.csv')
test = pd.read_csv('test.csv')
full = pd.concat([train, test], sort=False)
full['Age'] = full['Age'].fillna(full['Age'].median())
full = pd.get_dummies(full)
train = full[:len(train)]
test = full[len(train):]
X = train.drop('Survived', axis=1); y = train['Survived']
X_tr, X_va, y_tr, y_va = train_test_split(X, y, random_state=0)
m = RandomForestClassifier(random_state=0).fit(X_tr, y_tr)
print(accuracy_score(y_va, m.predict(X_va)))
pred = m.predict(test.drop('Survived', axis=1))
""",
        """
train = pd.read_csv('train.csv')
test = pd.read_csv('test.csv')
full = pd.get_dummies(pd.concat([train, test], sort=False))
train = full[:len(train)]
test = full[len(train):]
X = train.drop('Survived', axis=1); y = train['Survived']
X_tr, X_va, y_tr, y_va = train_test_split(X, y, random_state=0)
age = X_tr['Age'].median()
m = RandomForestClassifier(random_state=0).fit(X_tr.fillna(age), y_tr)
print(accuracy_score(y_va, m.predict(X_va.fillna(age))))
pred = m.predict(test.drop('Survived', axis=1).fillna(age))
""",
    ),
    "kfold_scaler_out": _pair(
        "cross-validation",
        {PRE},
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']).values; y = df['y'].values
X = StandardScaler().fit_transform(X)
kf = StratifiedKFold(n_splits=5)
acc = []
for tr, te in kf.split(X, y):
    clf = LogisticRegression()
    clf.fit(X[tr], y[tr])
    acc.append(accuracy_score(y[te], clf.predict(X[te])))
print(np.mean(acc))
""",
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']).values; y = df['y'].values
kf = StratifiedKFold(n_splits=5)
acc = []
for fold, (tr, te) in enumerate(kf.split(X, y)):
    sc = StandardScaler().fit(X[tr])
    clf = LogisticRegression()
    clf.fit(sc.transform(X[tr]), y[tr])
    acc.append(accuracy_score(y[te], clf.predict(sc.transform(X[te]))))
print(np.mean(acc), np.std(acc))
""",
    ),
    "pca_cv": _pair(
        "cross-validation",
        {PRE},
        """
from sklearn.datasets import load_digits
digits = load_digits()
X = PCA(20).fit_transform(digits.data)
print(cross_val_score(LogisticRegression(max_iter=500), X, digits.target).mean())
""",
        """
from sklearn.datasets import load_digits
digits = load_digits()
print(cross_val_score(make_pipeline(PCA(20), LogisticRegression(max_iter=500)), digits.data, digits.target).mean())
""",
    ),
    "corr_select": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
corr = df.corr()['y'].abs()
cols = corr[corr > 0.2].index.drop('y')
X_train, X_test, y_train, y_test = train_test_split(df[cols], df['y'], random_state=0)
m = Ridge().fit(X_train, y_train)
print(r2_score(y_test, m.predict(X_test)))
""",
        """
df = pd.read_csv('a.csv')
train, test = train_test_split(df, random_state=0)
corr = train.corr()['y'].abs()
cols = corr[corr > 0.2].index.drop('y')
m = Ridge().fit(train[cols], train['y'])
print(r2_score(test['y'], m.predict(test[cols])))
""",
    ),
    "manual_sample_bad": _pair(
        "pandas",
        {OVERLAP},
        """
df = pd.read_csv('a.csv')
train = df.sample(frac=0.8, random_state=1)
test = df.sample(frac=0.2, random_state=2)
m = LinearRegression().fit(train[['a']], train['y'])
print(m.score(test[['a']], test['y']))
""",
        """
df = pd.read_csv('a.csv')
train = df.sample(frac=0.8, random_state=1)
test = df.drop(train.index)
m = LinearRegression().fit(train[['a']], train['y'])
print(m.score(test[['a']], test['y']))
""",
    ),
    "keras_bad": _pair(
        "early stopping",
        {MULTI},
        """
from tensorflow import keras
(x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
x_train, x_test = x_train / 255.0, x_test / 255.0
model = keras.Sequential([keras.layers.Dense(10)])
model.compile('adam', 'mse')
es = keras.callbacks.EarlyStopping(patience=3)
model.fit(x_train, y_train, validation_data=(x_test, y_test), callbacks=[es])
print(model.evaluate(x_test, y_test))
""",
        """
from tensorflow import keras
(x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
x_train, x_test = x_train / 255.0, x_test / 255.0
model = keras.Sequential([keras.layers.Dense(10)])
model.compile('adam', 'mse')
model.fit(x_train, y_train, validation_split=0.1, epochs=3)
print(model.evaluate(x_test, y_test))
""",
    ),
    "ct_before": _pair(
        "pipelines",
        {PRE},
        """
from sklearn.compose import ColumnTransformer
df = pd.read_csv('a.csv')
ct = ColumnTransformer([('n', StandardScaler(), ['a']), ('c', OneHotEncoder(), ['b'])])
X = ct.fit_transform(df)
X_train, X_test, y_train, y_test = train_test_split(X, df.y, random_state=0)
print(LogisticRegression().fit(X_train, y_train).score(X_test, y_test))
""",
        """
from sklearn.compose import ColumnTransformer
df = pd.read_csv('a.csv')
ct = ColumnTransformer([('n', StandardScaler(), ['a']), ('c', OneHotEncoder(), ['b'])])
X_train, X_test, y_train, y_test = train_test_split(df, df.y, random_state=0)
print(make_pipeline(ct, LogisticRegression()).fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "threshold_test": _pair(
        "curves",
        {MULTI},
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
m = LogisticRegression().fit(X_train, y_train)
p = m.predict_proba(X_test)[:, 1]
prec, rec, thr = precision_recall_curve(y_test, p)
f1 = 2*prec*rec/(prec+rec)
best = thr[np.argmax(f1)]
print(f1_score(y_test, p > best))
""",
        """
df = pd.read_csv('a.csv')
rest, X_test, rest_y, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
X_train, X_cut, y_train, y_cut = train_test_split(rest, rest_y, random_state=0)
m = LogisticRegression().fit(X_train, y_train)
prec, rec, thr = precision_recall_curve(y_cut, m.predict_proba(X_cut)[:, 1])
f1 = 2*prec*rec/(prec+rec)
best = thr[np.argmax(f1)]
print(f1_score(y_test, m.predict_proba(X_test)[:, 1] > best))
""",
    ),
    "concat_dup": _pair(
        "over-sampling",
        {OVERLAP},
        """
df = pd.read_csv('a.csv')
pos = df[df.y == 1]
df = pd.concat([df] + [pos] * 5)
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
m = LogisticRegression().fit(X_train, y_train)
print(m.score(X_test, y_test))
""",
        """
df = pd.read_csv('a.csv')
train, test = train_test_split(df, random_state=0)
train = pd.concat([train] + [train[train.y == 1]] * 5)
m = LogisticRegression().fit(train.drop(columns='y'), train.y)
print(m.score(test.drop(columns='y'), test.y))
""",
    ),
    "func_eval_multi": _pair(
        "helper functions",
        {MULTI},
        """
def evaluate(model, X_train, X_test, y_train, y_test):
    model.fit(X_train, y_train)
    pred = model.predict(X_test)
    return mean_absolute_error(y_test, pred)

df = pd.read_csv('a.csv')
parts = train_test_split(df.drop(columns='y'), df.y, random_state=0)
scores = [(a, evaluate(Ridge(alpha=a), *parts)) for a in (0.1, 1, 10)]
best = min(scores, key=lambda s: s[1])
print(best)
""",
        """
def evaluate(model, X_train, X_test, y_train, y_test):
    model.fit(X_train, y_train)
    pred = model.predict(X_test)
    return mean_absolute_error(y_test, pred)

df = pd.read_csv('a.csv')
rest, last, rest_y, last_y = train_test_split(df.drop(columns='y'), df.y, random_state=0)
parts = train_test_split(rest, rest_y, random_state=0)
scores = [(a, evaluate(Ridge(alpha=a), *parts)) for a in (0.1, 1, 10)]
best = min(scores, key=lambda s: s[1])
print(evaluate(Ridge(alpha=best[0]), rest, last, rest_y, last_y))
""",
    ),
    "knn_impute_all": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
num = df.select_dtypes('number').columns
imp = KNNImputer()
df[num] = imp.fit_transform(df[num])
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
        """
df = pd.read_csv('a.csv')
num = df.select_dtypes('number').columns
X_train, X_test, y_train, y_test = train_test_split(df[num].drop(columns='y'), df.y, random_state=0)
imp = KNNImputer().fit(X_train)
print(Ridge().fit(imp.transform(X_train), y_train).score(imp.transform(X_test), y_test))
""",
    ),
    "apply_lambda_all": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
df[['a', 'b']] = df[['a', 'b']].apply(lambda c: (c - c.mean()) / c.std())
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df.y, random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df.y, random_state=0)
mean, std = X_train.mean(), X_train.std()
X_train = X_train.apply(lambda c: (c - mean[c.name]) / std[c.name])
X_test = X_test.apply(lambda c: (c - mean[c.name]) / std[c.name])
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "alias_of_a_frame": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
features = df
features['a'] = StandardScaler().fit_transform(features[['a']])
tr, te = train_test_split(df, random_state=0)
m = LogisticRegression().fit(tr[['a', 'b']], tr['y'])
print(m.score(te[['a', 'b']], te['y']))
""",
        """
df = pd.read_csv('a.csv')
features = df.copy()
features['a'] = StandardScaler().fit_transform(features[['a']])
print(features.head())
tr, te = train_test_split(df, random_state=0)
m = LogisticRegression().fit(tr[['a', 'b']], tr['y'])
print(m.score(te[['a', 'b']], te['y']))
""",
    ),
    "frames_in_a_list": _pair(
        "loops",
        {PRE},
        """
full = pd.read_csv('a.csv')
other = pd.read_csv('b.csv')
for frame in [full, other]:
    frame['age'] = frame['age'].fillna(frame['age'].median())
X_train, X_test, y_train, y_test = train_test_split(full[['age']], full['y'], random_state=0)
m = RandomForestClassifier(random_state=0).fit(X_train, y_train)
print(accuracy_score(y_test, m.predict(X_test)))
""",
        """
full = pd.read_csv('a.csv')
other = pd.read_csv('b.csv')
for frame in [full, other]:
    frame['age'] = frame['age'].clip(0, 99)
X_train, X_test, y_train, y_test = train_test_split(full[['age']], full['y'], random_state=0)
middle = X_train['age'].median()
m = RandomForestClassifier(random_state=0).fit(X_train.fillna(middle), y_train)
print(accuracy_score(y_test, m.predict(X_test.fillna(middle))))
""",
    ),
    "predicted_never_scored": _pair(
        "pandas",
        {PRE},
        """
train = pd.read_csv('train.csv')
test = pd.read_csv('test.csv')
both = pd.concat([train, test])
both['Fare'] = both['Fare'].fillna(both['Fare'].mean())
train = both[both['y'].notnull()]
test = both[both['y'].isnull()]
m = RandomForestClassifier(random_state=0).fit(train[['Fare']], train['y'])
answer = m.predict(test[['Fare']])
""",
        """
train = pd.read_csv('train.csv')
test = pd.read_csv('test.csv')
mean = train['Fare'].mean()
train['Fare'] = train['Fare'].fillna(mean)
test['Fare'] = test['Fare'].fillna(mean)
m = RandomForestClassifier(random_state=0).fit(train[['Fare']], train['y'])
answer = m.predict(test[['Fare']])
""",
    ),
    "mean_in_a_condition": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
df['rich'] = df['pay'].apply(lambda v: 1 if v > df['pay'].mean() else 0)
X_train, X_test, y_train, y_test = train_test_split(df[['rich']], df['y'], random_state=0)
m = LogisticRegression().fit(X_train, y_train)
print(m.score(X_test, y_test))
""",
        """
df = pd.read_csv('a.csv')
df['rich'] = df['pay'].apply(lambda v: 1 if v > 50000 else 0)
X_train, X_test, y_train, y_test = train_test_split(df[['rich']], df['y'], random_state=0)
m = LogisticRegression().fit(X_train, y_train)
print(m.score(X_test, y_test))
""",
    ),
    "where_quantile": _pair(
        "numpy",
        {PRE},
        """
df = pd.read_csv('a.csv')
df['high'] = np.where(df['a'] > df['a'].quantile(.9), 1, 0)
tr, te = train_test_split(df, random_state=0)
m = LogisticRegression().fit(tr[['high']], tr['y'])
print(m.score(te[['high']], te['y']))
""",
        """
df = pd.read_csv('a.csv')
df = df[df['a'] < df['a'].quantile(.999)]
tr, te = train_test_split(df, random_state=0)
edge = tr['a'].quantile(.9)
m = LogisticRegression().fit(np.where(tr[['a']] > edge, 1, 0), tr['y'])
print(m.score(np.where(te[['a']] > edge, 1, 0), te['y']))
""",
    ),
    "apply_bound_method": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
scaler = MinMaxScaler()
num = df[['a', 'b']].pipe(scaler.fit_transform)
X_train, X_test, y_train, y_test = train_test_split(num, df['y'], random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
        """
df = pd.read_csv('a.csv')
scaler = MinMaxScaler()
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df['y'], random_state=0)
X_train = X_train.pipe(scaler.fit_transform)
print(Ridge().fit(X_train, y_train).score(scaler.transform(X_test), y_test))
""",
    ),
    "old_folds": _pair(
        "cross-validation",
        {PRE},
        """
df = pd.read_csv('a.csv')
X, y = df.drop(columns='y').values, df['y'].values
X = PCA(5).fit_transform(X)
got = []
for i, (tr, te) in enumerate(KFold(len(X), 5)):
    m = LogisticRegression().fit(X[tr], y[tr])
    got.append(m.score(X[te], y[te]))
""",
        """
df = pd.read_csv('a.csv')
X, y = df.drop(columns='y').values, df['y'].values
got = []
for i, (tr, te) in enumerate(KFold(len(X), 5)):
    pca = PCA(5).fit(X[tr])
    m = LogisticRegression().fit(pca.transform(X[tr]), y[tr])
    got.append(m.score(pca.transform(X[te]), y[te]))
""",
    ),
    "custom_transformer": _pair(
        "classes",
        {PRE},
        """
from sklearn.base import BaseEstimator, TransformerMixin
class Centre(BaseEstimator, TransformerMixin):
    def fit(self, X, y=None):
        self.middle_ = X.mean()
        return self
    def transform(self, X):
        return X - self.middle_
df = pd.read_csv('a.csv')
pipe = Pipeline([('centre', Centre())])
X = pipe.fit_transform(df[['a', 'b']])
X_train, X_test, y_train, y_test = train_test_split(X, df['y'], random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
        """
from sklearn.base import BaseEstimator, TransformerMixin
class Centre(BaseEstimator, TransformerMixin):
    def fit(self, X, y=None):
        self.middle_ = X.mean()
        return self
    def transform(self, X):
        return X - self.middle_
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df['y'], random_state=0)
pipe = Pipeline([('centre', Centre()), ('model', Ridge())])
print(pipe.fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "imblearn_pipeline": _pair(
        "over-sampling",
        {OVERLAP},
        """
from imblearn.over_sampling import RandomOverSampler
df = pd.read_csv('a.csv')
X, y = RandomOverSampler(random_state=0).fit_resample(df[['a', 'b']], df['y'])
print(cross_val_score(RandomForestClassifier(random_state=0), X, y, cv=5).mean())
""",
        """
from imblearn.over_sampling import RandomOverSampler
from imblearn.pipeline import Pipeline
df = pd.read_csv('a.csv')
pipe = Pipeline([('more', RandomOverSampler(random_state=0)), ('m', RandomForestClassifier(random_state=0))])
print(cross_val_score(pipe, df[['a', 'b']], df['y'], cv=5).mean())
""",
    ),
    "polars_scaled": _pair(
        "polars",
        {PRE},
        """
import polars as pl
df = pl.read_csv('a.csv')
df = df.with_columns(((pl.col('a') - pl.col('a').mean()) / pl.col('a').std()).alias('a'))
train, test = df[:800], df[800:]
m = Ridge().fit(train[['a']].to_numpy(), train['y'].to_numpy())
print(m.score(test[['a']].to_numpy(), test['y'].to_numpy()))
""",
        """
import polars as pl
df = pl.read_csv('a.csv')
df = df.with_columns((pl.col('a') / 100).alias('a')).filter(pl.col('b') > 0)
train, test = df[:800], df[800:]
m = make_pipeline(StandardScaler(), Ridge()).fit(train[['a']].to_numpy(), train['y'].to_numpy())
print(m.score(test[['a']].to_numpy(), test['y'].to_numpy()))
""",
    ),
    "head_and_tail": _pair(
        "time series",
        {PRE},
        """
df = pd.read_csv('a.csv').sort_values('day')
df['a'] = (df['a'] - df['a'].mean()) / df['a'].std()
n = int(len(df) * .8)
train, test = df.head(n), df.tail(len(df) - n)
m = LinearRegression().fit(train[['a']], train['y'])
print(mean_absolute_error(test['y'], m.predict(test[['a']])))
""",
        """
df = pd.read_csv('a.csv').sort_values('day')
n = int(len(df) * .8)
train, test = df.head(n), df.tail(len(df) - n)
mean, std = train['a'].mean(), train['a'].std()
m = LinearRegression().fit((train[['a']] - mean) / std, train['y'])
print(mean_absolute_error(test['y'], m.predict((test[['a']] - mean) / std)))
""",
    ),
    "series_scaled": _pair(
        "time series",
        {PRE},
        """
df = pd.read_csv('a.csv', index_col='day', parse_dates=True)
df['lag'] = df['y'].shift(1)
df['week'] = df['y'].shift(1).rolling(7).mean()
df = df.dropna()
values = MinMaxScaler().fit_transform(df)
train, test = values[:-30], values[-30:]
m = Ridge().fit(train[:, 1:], train[:, 0])
print(mean_squared_error(test[:, 0], m.predict(test[:, 1:])))
""",
        """
df = pd.read_csv('a.csv', index_col='day', parse_dates=True)
df['lag'] = df['y'].shift(1)
df['week'] = df['y'].shift(1).rolling(7).mean()
df['trend'] = df['y'].shift(1).ewm(span=5).mean()
df = df.dropna()
train, test = df[:'2019'], df['2020':]
scaler = MinMaxScaler().fit(train[['lag', 'week', 'trend']])
m = Ridge().fit(scaler.transform(train[['lag', 'week', 'trend']]), train['y'])
print(mean_squared_error(test['y'], m.predict(scaler.transform(test[['lag', 'week', 'trend']]))))
""",
    ),
    "time_series_folds": _pair(
        "time series",
        {PRE},
        """
df = pd.read_csv('a.csv', parse_dates=['day']).sort_values('day')
X, y = df[['a', 'b']].to_numpy(), df['y'].to_numpy()
X = QuantileTransformer().fit_transform(X)
errors = []
for past, future in TimeSeriesSplit(n_splits=4).split(X):
    m = Ridge().fit(X[past], y[past])
    errors.append(mean_absolute_error(y[future], m.predict(X[future])))
print(np.mean(errors))
""",
        """
df = pd.read_csv('a.csv', parse_dates=['day']).sort_values('day')
X, y = df[['a', 'b']].to_numpy(), df['y'].to_numpy()
errors = []
for past, future in TimeSeriesSplit(n_splits=4).split(X):
    m = make_pipeline(QuantileTransformer(), Ridge()).fit(X[past], y[past])
    errors.append(mean_absolute_error(y[future], m.predict(X[future])))
print(np.mean(errors))
""",
    ),
    "permuted_index": _pair(
        "numpy",
        {PRE},
        """
df = pd.read_csv('a.csv')
X, y = df[['a', 'b']].values, df['y'].values
X = (X - X.mean(0)) / X.std(0)
order = np.random.default_rng(0).permutation(len(X))
cut = int(.7 * len(X))
tr, te = order[:cut], order[cut:]
m = LogisticRegression().fit(X[tr], y[tr])
print(accuracy_score(y[te], m.predict(X[te])))
""",
        """
df = pd.read_csv('a.csv')
X, y = df[['a', 'b']].values, df['y'].values
order = np.random.default_rng(0).permutation(len(X))
cut = int(.7 * len(X))
tr, te = order[:cut], order[cut:]
mu, sd = X[tr].mean(0), X[tr].std(0)
m = LogisticRegression().fit((X[tr] - mu) / sd, y[tr])
print(accuracy_score(y[te], m.predict((X[te] - mu) / sd)))
""",
    ),
    "three_ways": _pair(
        "loops",
        {MULTI},
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df['y'], random_state=0)
best_auc, winner = 0, None
for rate in (.01, .1, .3):
    m = GradientBoostingClassifier(learning_rate=rate, random_state=0).fit(X_train, y_train)
    auc_now = roc_auc_score(y_test, m.predict_proba(X_test)[:, 1])
    if auc_now > best_auc:
        best_auc, winner = auc_now, m
print(best_auc)
""",
        """
df = pd.read_csv('a.csv')
rest, X_test, rest_y, y_test = train_test_split(df[['a', 'b']], df['y'], random_state=0)
X_train, X_dev, y_train, y_dev = train_test_split(rest, rest_y, random_state=1)
best_auc, winner = 0, None
for rate in (.01, .1, .3):
    m = GradientBoostingClassifier(learning_rate=rate, random_state=0).fit(X_train, y_train)
    auc_now = roc_auc_score(y_dev, m.predict_proba(X_dev)[:, 1])
    if auc_now > best_auc:
        best_auc, winner = auc_now, m
print(roc_auc_score(y_test, winner.predict_proba(X_test)[:, 1]))
""",
    ),
    "grid_then_feature_counts": _pair(
        "pipelines",
        {MULTI},
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df['y'], random_state=0)
got = []
for k in range(2, 20):
    pipe = make_pipeline(SelectKBest(k=k), LogisticRegression())
    pipe.fit(X_train, y_train)
    got.append((pipe.score(X_test, y_test), k))
print(max(got))
""",
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df['y'], random_state=0)
search = GridSearchCV(make_pipeline(SelectKBest(), LogisticRegression()), {'selectkbest__k': range(2, 20)})
search.fit(X_train, y_train)
print(search.best_params_, search.score(X_test, y_test))
""",
    ),
    "lightgbm_watch": _pair(
        "early stopping",
        {MULTI},
        """
import lightgbm as lgb
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df['y'], random_state=0)
fit_set = lgb.Dataset(X_train, label=y_train)
watch = lgb.Dataset(X_test, label=y_test, reference=fit_set)
bst = lgb.train({'objective': 'binary'}, fit_set, 500, valid_sets=[watch], callbacks=[lgb.early_stopping(20)])
print(roc_auc_score(y_test, bst.predict(X_test)))
""",
        """
import lightgbm as lgb
df = pd.read_csv('a.csv')
rest, X_test, rest_y, y_test = train_test_split(df[['a', 'b']], df['y'], random_state=0)
X_train, X_stop, y_train, y_stop = train_test_split(rest, rest_y, random_state=0)
fit_set = lgb.Dataset(X_train, label=y_train)
watch = lgb.Dataset(X_stop, label=y_stop, reference=fit_set)
bst = lgb.train({'objective': 'binary'}, fit_set, 500, valid_sets=[watch], callbacks=[lgb.early_stopping(20)])
print(roc_auc_score(y_test, bst.predict(X_test)))
""",
    ),
    "keras_scaled": _pair(
        "networks",
        {PRE},
        """
from tensorflow import keras
df = pd.read_csv('a.csv')
X = StandardScaler().fit_transform(df[['a', 'b']])
X_train, X_test, y_train, y_test = train_test_split(X, df['y'].values, random_state=0)
net = keras.Sequential()
net.add(keras.layers.Dense(8, activation='relu'))
net.add(keras.layers.Dense(1))
net.compile(loss='mse', optimizer='adam')
net.fit(X_train, y_train, epochs=10, verbose=0)
loss = net.evaluate(X_test, y_test)
""",
        """
from tensorflow import keras
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df['y'].values, random_state=0)
scaler = StandardScaler().fit(X_train)
net = keras.Sequential()
net.add(keras.layers.Dense(8, activation='relu'))
net.add(keras.layers.Dense(1))
net.compile(loss='mse', optimizer='adam')
net.fit(scaler.transform(X_train), y_train, epochs=10, validation_split=0.2, verbose=0)
loss = net.evaluate(scaler.transform(X_test), y_test)
""",
    ),
    "statsmodels_whole": _pair(
        "statsmodels",
        {OVERLAP},
        """
import statsmodels.formula.api as smf
df = pd.read_csv('a.csv')
train, test = train_test_split(df, random_state=0)
fitted = smf.ols('y ~ a + b', data=df).fit()
print(mean_squared_error(test['y'], fitted.predict(test)))
""",
        """
import statsmodels.formula.api as smf
df = pd.read_csv('a.csv')
train, test = train_test_split(df, random_state=0)
fitted = smf.ols('y ~ a + b', data=train).fit()
print(fitted.summary())
print(mean_squared_error(test['y'], fitted.predict(test)))
""",
    ),
    "group_means": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
df['rel'] = df['pay'] / df.groupby('city')['pay'].transform('mean')
tr, te = train_test_split(df, random_state=0)
m = Ridge().fit(tr[['rel']], tr['y'])
print(r2_score(te['y'], m.predict(te[['rel']])))
""",
        """
df = pd.read_csv('a.csv')
df['nth'] = df.groupby('city').cumcount()
df['before'] = df.groupby('city')['pay'].shift(1)
tr, te = train_test_split(df.fillna(0), random_state=0)
level = tr.groupby('city')['pay'].mean()
m = Ridge().fit(tr[['nth', 'before']].assign(rel=tr['city'].map(level)), tr['y'])
print(r2_score(te['y'], m.predict(te[['nth', 'before']].assign(rel=te['city'].map(level)))))
""",
    ),
    "frequency_encoding": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
often = df['city'].value_counts()
df['city_n'] = df['city'].map(often)
tr, te = train_test_split(df, random_state=0)
m = LogisticRegression().fit(tr[['city_n']], tr['y'])
print(m.score(te[['city_n']], te['y']))
""",
        """
df = pd.read_csv('a.csv')
print(df['city'].value_counts())
tr, te = train_test_split(df, random_state=0)
often = tr['city'].value_counts()
m = LogisticRegression().fit(tr['city'].map(often).to_frame(), tr['y'])
print(m.score(te['city'].map(often).fillna(0).to_frame(), te['y']))
""",
    ),
    "cut_into_bins": _pair(
        "pandas",
        {PRE},
        """
df = pd.read_csv('a.csv')
df['band'] = pd.cut(df['age'], 5, labels=False)
tr, te = train_test_split(df, random_state=0)
m = DecisionTree = RandomForestClassifier(random_state=0).fit(tr[['band']], tr['y'])
print(m.score(te[['band']], te['y']))
""",
        """
df = pd.read_csv('a.csv')
df['band'] = pd.cut(df['age'], [0, 18, 40, 65, 120], labels=False)
tr, te = train_test_split(df, random_state=0)
m = RandomForestClassifier(random_state=0).fit(tr[['band']], tr['y'])
print(m.score(te[['band']], te['y']))
""",
    ),
    "helpers_out_of_order": _pair(
        "helper functions",
        {PRE},
        """
def main():
    data = load('a.csv')
    X, y = prepare(data)
    return judge(*train_test_split(X, y, random_state=0))

def prepare(data):
    return RobustScaler().fit_transform(data[['a', 'b']]), data['y']

def judge(a, b, c, d):
    return f1_score(d, LogisticRegression().fit(a, c).predict(b))

def load(name):
    return pd.read_csv(name)

print(main())
""",
        """
def main():
    data = load('a.csv')
    return judge(*train_test_split(data[['a', 'b']], data['y'], random_state=0))

def judge(a, b, c, d):
    scaler = RobustScaler().fit(a)
    return f1_score(d, LogisticRegression().fit(scaler.transform(a), c).predict(scaler.transform(b)))

def load(name):
    return pd.read_csv(name)

print(main())
""",
    ),
    "global_changed_in_function": _pair(
        "helper functions",
        {PRE},
        """
df = pd.read_csv('a.csv')
def fill():
    for c in ['a', 'b']:
        df[c] = df[c].fillna(df[c].mean())
fill()
tr, te = train_test_split(df, random_state=0)
m = Ridge().fit(tr[['a', 'b']], tr['y'])
print(m.score(te[['a', 'b']], te['y']))
""",
        """
df = pd.read_csv('a.csv')
def fill():
    for c in ['a', 'b']:
        df[c] = df[c].fillna(0)
fill()
tr, te = train_test_split(df, random_state=0)
m = Ridge().fit(tr[['a', 'b']], tr['y'])
print(m.score(te[['a', 'b']], te['y']))
""",
    ),
    "walrus_and_stars": _pair(
        "pandas",
        {PRE},
        """
rows = pd.read_csv('a.csv')
options = dict(test_size=.2, random_state=1)
parts = train_test_split((X := MaxAbsScaler().fit_transform(rows[['a', 'b']])), rows['y'], **options)
a, b, *ys = parts
m = SGDClassifier(random_state=0).fit(a, ys[0])
print(balanced_accuracy_score(ys[1], m.predict(b)))
""",
        """
rows = pd.read_csv('a.csv')
options = dict(test_size=.2, random_state=1)
a, b, *ys = train_test_split(rows[['a', 'b']], rows['y'], **options)
m = SGDClassifier(random_state=0).fit((scaler := MaxAbsScaler().fit(a)).transform(a), ys[0])
print(balanced_accuracy_score(ys[1], m.predict(scaler.transform(b))))
""",
    ),
    "stacked_on_test": _pair(
        "pandas",
        {OVERLAP},
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df['y'], random_state=0)
X_more = pd.concat([X_train, X_test[:50]])
y_more = pd.concat([y_train, y_test[:50]])
m = LogisticRegression().fit(X_more, y_more)
print(m.score(X_test, y_test))
""",
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df['y'], random_state=0)
extra, y_extra, X_test, y_test = X_test[:50], y_test[:50], X_test[50:], y_test[50:]
X_more = pd.concat([X_train, extra])
y_more = pd.concat([y_train, y_extra])
m = LogisticRegression().fit(X_more, y_more)
print(m.score(X_test, y_test))
""",
    ),
    "bootstrap_then_split": _pair(
        "over-sampling",
        {OVERLAP},
        """
df = pd.read_csv('a.csv')
big = df.sample(n=5000, replace=True, random_state=0)
tr, te = train_test_split(big, random_state=0)
m = RandomForestClassifier(random_state=0).fit(tr[['a', 'b']], tr['y'])
print(m.score(te[['a', 'b']], te['y']))
""",
        """
df = pd.read_csv('a.csv')
tr, te = train_test_split(df, random_state=0)
big = tr.sample(n=5000, replace=True, random_state=0)
m = RandomForestClassifier(random_state=0).fit(big[['a', 'b']], big['y'])
print(m.score(te[['a', 'b']], te['y']))
""",
    ),
    "text_pipeline": _pair(
        "text",
        {PRE},
        """
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
docs = pd.read_csv('t.csv').dropna()
docs['text'] = docs['text'].str.lower().str.replace('[^a-z ]', '', regex=True)
counts = CountVectorizer(max_features=5000)
bag = counts.fit_transform(docs['text'])
weights = TfidfTransformer().fit(bag)
tr, te, ytr, yte = train_test_split(weights.transform(bag), docs['label'], random_state=0)
m = SGDClassifier(random_state=0).fit(tr, ytr)
print(f1_score(yte, m.predict(te), average='macro'))
""",
        """
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
docs = pd.read_csv('t.csv').dropna()
docs['text'] = docs['text'].str.lower().str.replace('[^a-z ]', '', regex=True)
docs['length'] = docs['text'].map(len)
tr, te, ytr, yte = train_test_split(docs['text'], docs['label'], random_state=0)
m = make_pipeline(CountVectorizer(max_features=5000), TfidfTransformer(), SGDClassifier(random_state=0)).fit(tr, ytr)
print(f1_score(yte, m.predict(te), average='macro'))
""",
    ),
    "keras_tokens": _pair(
        "text",
        {PRE},
        """
from tensorflow.keras.preprocessing.text import Tokenizer
from tensorflow.keras.preprocessing.sequence import pad_sequences
from tensorflow.keras.models import Sequential
docs = pd.read_csv('t.csv')
tok = Tokenizer(num_words=1000)
tok.fit_on_texts(docs['text'])
X = pad_sequences(tok.texts_to_sequences(docs['text']), maxlen=50)
tr, te, ytr, yte = train_test_split(X, docs['y'].values, random_state=0)
net = Sequential()
net.compile('adam', 'binary_crossentropy')
net.fit(tr, ytr, epochs=2)
print(net.evaluate(te, yte))
""",
        """
from tensorflow.keras.preprocessing.text import Tokenizer
from tensorflow.keras.preprocessing.sequence import pad_sequences
from tensorflow.keras.models import Sequential
docs = pd.read_csv('t.csv')
tr, te, ytr, yte = train_test_split(docs['text'], docs['y'].values, random_state=0)
tok = Tokenizer(num_words=1000)
tok.fit_on_texts(tr)
net = Sequential()
net.compile('adam', 'binary_crossentropy')
net.fit(pad_sequences(tok.texts_to_sequences(tr), maxlen=50), ytr, epochs=2)
print(net.evaluate(pad_sequences(tok.texts_to_sequences(te), maxlen=50), yte))
""",
    ),
    "selected_by_forest": _pair(
        "pipelines",
        {PRE},
        """
df = pd.read_csv('a.csv')
X, y = df.drop(columns='y'), df['y']
forest = RandomForestClassifier(random_state=0).fit(X, y)
rank = pd.Series(forest.feature_importances_, index=X.columns).sort_values(ascending=False)
X = X[rank.index[:10]]
print(cross_val_score(LogisticRegression(), X, y, cv=5).mean())
""",
        """
df = pd.read_csv('a.csv')
X, y = df.drop(columns='y'), df['y']
forest = RandomForestClassifier(random_state=0).fit(X, y)
rank = pd.Series(forest.feature_importances_, index=X.columns).sort_values(ascending=False)
rank.head(10).plot.barh()
pipe = make_pipeline(SelectFromModel(RandomForestClassifier(random_state=0)), LogisticRegression())
print(cross_val_score(pipe, X, y, cv=5).mean())
""",
    ),
}

CLEAN: dict[str, str] = {
    "stateless_transformer": """
from sklearn.base import BaseEstimator, TransformerMixin
class Columns(BaseEstimator, TransformerMixin):
    def __init__(self, names):
        self.names = names
    def fit(self, X, y=None):
        return self
    def transform(self, X):
        return X[self.names]
df = pd.read_csv('a.csv')
pipe = Pipeline([('pick', Columns(['a', 'b']))])
X = pipe.fit_transform(df)
X_train, X_test, y_train, y_test = train_test_split(X, df['y'], random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
    "smote_test_side": """
from imblearn.over_sampling import SMOTE
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df['y'], random_state=0)
X_train, y_train = SMOTE(random_state=0).fit_resample(X_train, y_train)
m = GradientBoostingClassifier(random_state=0).fit(X_train, y_train)
print(classification_report(y_test, m.predict(X_test)))
""",
    "validation_rows_named": """
df = pd.read_csv('a.csv')
X_train, X_val, y_train, y_val = train_test_split(df[['a', 'b']], df['y'], random_state=0)
scores = {}
for depth in (2, 4, 8):
    m = RandomForestClassifier(max_depth=depth, random_state=0).fit(X_train, y_train)
    scores[depth] = m.score(X_val, y_val)
best = max(scores, key=scores.get)
new = pd.read_csv('new.csv')
final = RandomForestClassifier(max_depth=best, random_state=0).fit(df[['a', 'b']], df['y'])
new['answer'] = final.predict(new[['a', 'b']])
""",
    "learning_curve_ok": """
from sklearn.model_selection import learning_curve
df = pd.read_csv('a.csv')
X, y = df[['a', 'b']], df['y']
sizes, seen, unseen = learning_curve(make_pipeline(StandardScaler(), Ridge()), X, y, cv=5)
print(unseen.mean(axis=1), seen.mean(axis=1))
""",
    "target_encoded_labels_ok": """
df = pd.read_csv('iris.csv')
df['species'] = LabelEncoder().fit_transform(df['species'])
X, y = df.iloc[:, :-1].values, df.iloc[:, -1].values
X_train, X_test, y_train, y_test = train_test_split(X, y, test_size=.3, random_state=0)
scaler = StandardScaler()
X_train = scaler.fit_transform(X_train)
X_test = scaler.transform(X_test)
m = LogisticRegression().fit(X_train, y_train)
print(confusion_matrix(y_test, m.predict(X_test)))
""",
    "nested_cv_ok": """
df = pd.read_csv('a.csv')
X, y = df[['a', 'b']], df['y']
inner = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {'logisticregression__C': [.1, 1]}, cv=3)
print(cross_val_score(inner, X, y, cv=5).mean())
""",
    "separate_files_ok": """
train = pd.read_csv('train.csv')
test = pd.read_csv('test.csv')
X_train, y_train = train.drop(columns='y'), train['y']
X_test, y_test = test.drop(columns='y'), test['y']
imputer = SimpleImputer(strategy='median').fit(X_train)
m = RandomForestClassifier(random_state=0).fit(imputer.transform(X_train), y_train)
print(roc_auc_score(y_test, m.predict_proba(imputer.transform(X_test))[:, 1]))
""",
    "keras_images_ok": """
import tensorflow as tf
(train_images, train_labels), (test_images, test_labels) = tf.keras.datasets.cifar10.load_data()
train_images, test_images = train_images / 255.0, test_images / 255.0
net = tf.keras.models.Sequential([tf.keras.layers.Flatten(), tf.keras.layers.Dense(10)])
net.compile(optimizer='adam', loss=tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=['accuracy'])
history = net.fit(train_images, train_labels, epochs=10, validation_data=(test_images, test_labels))
loss, acc = net.evaluate(test_images, test_labels, verbose=2)
""",
    "torch_loop_ok": """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']].values, df['y'].values, random_state=0)
scaler = StandardScaler().fit(X_train)
train_loader = DataLoader(TensorDataset(torch.tensor(scaler.transform(X_train)), torch.tensor(y_train)), batch_size=32)
net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
opt = torch.optim.Adam(net.parameters())
for epoch in range(5):
    for xb, yb in train_loader:
        loss = nn.functional.mse_loss(net(xb), yb)
        opt.zero_grad(); loss.backward(); opt.step()
with torch.no_grad():
    guess = net(torch.tensor(scaler.transform(X_test)))
print(mean_squared_error(y_test, guess.numpy()))
""",
    "arima_walk_ok": """
from statsmodels.tsa.arima.model import ARIMA
series = pd.read_csv('a.csv', index_col=0)['y']
train, test = series[:-24], series[-24:]
model = ARIMA(train, order=(2, 1, 1)).fit()
guess = model.forecast(steps=24)
print(mean_squared_error(test, guess))
""",
    "query_split_ok": """
df = pd.read_csv('a.csv')
df['per_head'] = df['total'] / df['people']
past, future = df.query('year < 2019'), df.query('year >= 2019')
m = make_pipeline(SimpleImputer(), Ridge()).fit(past[['per_head']], past['y'])
print(m.score(future[['per_head']], future['y']))
""",
    "downsample_ok": """
from sklearn.utils import resample
df = pd.read_csv('a.csv')
maj = df[df.y == 0]; mino = df[df.y == 1]
down = resample(maj, replace=False, n_samples=len(mino), random_state=1)
df2 = pd.concat([down, mino])
X_train, X_test, y_train, y_test = train_test_split(df2.drop('y', axis=1), df2.y, random_state=0)
clf = RandomForestClassifier(random_state=0).fit(X_train, y_train)
print(f1_score(y_test, clf.predict(X_test)))
""",
    "train_score_ok": """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
clf = GradientBoostingClassifier(random_state=0)
clf.fit(X_train, y_train)
print('train', clf.score(X_train, y_train), 'test', clf.score(X_test, y_test))
final = GradientBoostingClassifier(random_state=0).fit(X, y)
""",
    "grid_ok": """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
pipe = Pipeline([('s', StandardScaler()), ('m', LogisticRegression())])
gs = GridSearchCV(pipe, {'m__C': [.1, 1, 10]}, cv=5)
gs.fit(X_train, y_train)
print(gs.best_params_, gs.best_score_)
print(gs.score(X_test, y_test))
""",
    "eda_ok": """
df = pd.read_csv('a.csv')
print(df.describe())
print(df.corr())
print(df.groupby('city').age.mean())
df = df.dropna().drop_duplicates()
df = df[df.age < 100]
df['sex'] = df['sex'].map({'m': 0, 'f': 1})
df = pd.get_dummies(df, columns=['city'])
X, y = df.drop(columns='y'), df.y
X_train, X_test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)
print(X_train.mean(), X_test.mean())
m = RandomForestClassifier(random_state=0).fit(X_train, y_train)
print(confusion_matrix(y_test, m.predict(X_test)))
imp = pd.Series(m.feature_importances_, index=X.columns).sort_values()
""",
    "time_mask_ok": """
df = pd.read_csv('a.csv', parse_dates=['d'])
df = df.sort_values('d')
train = df[df['d'] < '2020-01-01']
test = df[df['d'] >= '2020-01-01']
sc = StandardScaler()
m = LinearRegression().fit(sc.fit_transform(train[['a']]), train['y'])
print(m.score(sc.transform(test[['a']]), test['y']))
""",
    "isin_index_ok": """
df = pd.read_csv('a.csv')
train = df.sample(frac=0.8, random_state=1)
test = df[~df.index.isin(train.index)]
m = LinearRegression().fit(train[['a']], train['y'])
print(m.score(test[['a']], test['y']))
""",
    "rand_mask_ok": """
df = pd.read_csv('a.csv')
msk = np.random.rand(len(df)) < 0.8
train = df[msk]; test = df[~msk]
m = LinearRegression().fit(train[['a']], train['y'])
print(m.score(test[['a']], test['y']))
""",
    "refit_scaler_on_test_ok": """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
pre = make_pipeline(SimpleImputer(), StandardScaler())
Z = pre.fit_transform(X_train, y_train)
clf = LogisticRegression().fit(Z, y_train)
print(clf.score(pre.transform(X_test), y_test))
""",
    "onehot_ok": """
df = pd.read_csv('a.csv')
enc = OneHotEncoder()
X = enc.fit_transform(df[['b']])
le = LabelEncoder()
y = le.fit_transform(df['y'])
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
print(LogisticRegression().fit(X_train, y_train).score(X_test, y_test))
""",
    "roc_plot_ok": """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
m = LogisticRegression().fit(X_train, y_train)
p = m.predict_proba(X_test)[:, 1]
fpr, tpr, thr = roc_curve(y_test, p)
print(auc(fpr, tpr), accuracy_score(y_test, p > .5), roc_auc_score(y_test, p))
""",
    "two_models_ok": """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
base = LogisticRegression().fit(X_train, y_train)
model = RandomForestClassifier(random_state=0).fit(X_train, y_train)
for m in (base, model):
    print(m.score(X_train, y_train))
print(base.score(X_test, y_test), model.score(X_test, y_test))
""",
    "repeat_tune_cv_ok": """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
best, best_c = -1, None
for c in np.logspace(-3, 3, 7):
    s = cross_val_score(make_pipeline(StandardScaler(), LogisticRegression(C=c)), X_train, y_train).mean()
    if s > best:
        best, best_c = s, c
final = make_pipeline(StandardScaler(), LogisticRegression(C=best_c)).fit(X_train, y_train)
print(final.score(X_test, y_test))
""",
    "row_apply_ok": """
df = pd.read_csv('a.csv')
df['bmi'] = df.apply(lambda r: r['w'] / r['h'] ** 2, axis=1)
df['tot'] = df[['a', 'b']].sum(axis=1)
df['la'] = np.log1p(df['a'])
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'bmi', 'tot']], df.y, random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
    "scaled_column_dropped_ok": """
df = pd.read_csv('a.csv')
df['a_scaled'] = StandardScaler().fit_transform(df[['a']])
df['b_scaled'] = MinMaxScaler().fit_transform(df[['b']])
print(df[['a_scaled', 'b_scaled']].describe())
df['a_log'] = np.log(df.a)
del df['b_scaled']
X = df.drop(['a_scaled', 'y'], axis=1)
X_train, X_test, y_train, y_test = train_test_split(X, df['y'], random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
    "other_columns_chosen_ok": """
df = pd.read_csv('a.csv')
df['rank'] = (df['a'] - df['a'].mean()) / df['a'].std()
features = ['a', 'b']
X_train, X_test, y_train, y_test = train_test_split(df[features], df['y'], random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
}
