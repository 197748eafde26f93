"""Scripts with seeded leaks, and their sound twins: what each must be found guilty of, and nothing else."""

PRE, OVERLAP, MULTI = "leakage-preprocessing", "leakage-overlap", "leakage-multi-test"

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

CASES: dict[str, tuple[set[str], str]] = {
    "minmax_all": (
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
    ),
    "minmax_all_twin": (
        set(),
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
    "numpy_norm": (
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
    ),
    "numpy_norm_twin": (
        set(),
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
    "tfidf_all": (
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
    ),
    "tfidf_twin": (
        set(),
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
    "select_kbest_cv": (
        {PRE},
        """
from sklearn.datasets import load_breast_cancer
X, y = load_breast_cancer(return_X_y=True)
X_new = SelectKBest(f_classif, k=10).fit_transform(X, y)
scores = cross_val_score(LogisticRegression(), X_new, y, cv=5)
print(scores.mean())
""",
    ),
    "select_twin": (
        set(),
        """
from sklearn.datasets import load_breast_cancer
X, y = load_breast_cancer(return_X_y=True)
pipe = Pipeline([('sel', SelectKBest(f_classif, k=10)), ('clf', LogisticRegression())])
scores = cross_val_score(pipe, X, y, cv=5)
print(scores.mean())
""",
    ),
    "smote_before": (
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
    ),
    "upsample_minority": (
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
    ),
    "downsample_ok": (
        set(),
        """
from sklearn.utils import resample
df = pd.read_csv('a.csv')
maj = df[df.y == 0]; mino = df[df.y == 1]
down = resample(maj, replace=False, n_samples=len(mino), random_state=1)
df2 = pd.concat([down, mino])
X_train, X_test, y_train, y_test = train_test_split(df2.drop('y', axis=1), df2.y, random_state=0)
clf = RandomForestClassifier(random_state=0).fit(X_train, y_train)
print(f1_score(y_test, clf.predict(X_test)))
""",
    ),
    "fit_all_score_test": (
        {OVERLAP},
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
clf = GradientBoostingClassifier(random_state=0)
clf.fit(X, y)
print(roc_auc_score(y_test, clf.predict_proba(X_test)[:, 1]))
""",
    ),
    "train_score_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
clf = GradientBoostingClassifier(random_state=0)
clf.fit(X_train, y_train)
print('train', clf.score(X_train, y_train), 'test', clf.score(X_test, y_test))
final = GradientBoostingClassifier(random_state=0).fit(X, y)
""",
    ),
    "tune_test": (
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
    ),
    "tune_val_ok": (
        set(),
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
    "models_loop": (
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
    ),
    "grid_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
X = df.drop(columns=['y']); y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
pipe = Pipeline([('s', StandardScaler()), ('m', LogisticRegression())])
gs = GridSearchCV(pipe, {'m__C': [.1, 1, 10]}, cv=5)
gs.fit(X_train, y_train)
print(gs.best_params_, gs.best_score_)
print(gs.score(X_test, y_test))
""",
    ),
    "eval_set_test": (
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
    ),
    "eval_set_val_ok": (
        set(),
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
    "class_style": (
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
    ),
    "class_ok": (
        set(),
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
    "inplace_helper": (
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
    ),
    "target_encode": (
        {PRE},
        """
df = pd.read_csv('a.csv')
means = df.groupby('city')['y'].mean()
df['city_te'] = df['city'].map(means)
X = df[['city_te', 'age']]; y = df['y']
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
print(LogisticRegression().fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "kaggle_concat": (
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
    ),
    "kfold_scaler_out": (
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
    ),
    "kfold_ok": (
        set(),
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
    "pca_cv": (
        {PRE},
        """
from sklearn.datasets import load_digits
digits = load_digits()
X = PCA(20).fit_transform(digits.data)
print(cross_val_score(LogisticRegression(max_iter=500), X, digits.target).mean())
""",
    ),
    "corr_select": (
        {PRE},
        """
df = pd.read_csv('a.csv')
corr = df.corr()['y'].abs()
cols = corr[corr > 0.2].index.drop('y')
X_train, X_test, y_train, y_test = train_test_split(df[cols], df['y'], random_state=0)
m = Ridge().fit(X_train, y_train)
print(r2_score(y_test, m.predict(X_test)))
""",
    ),
    "eda_ok": (
        set(),
        """
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
    ),
    "manual_sample_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
train = df.sample(frac=0.8, random_state=1)
test = df.drop(train.index)
m = LinearRegression().fit(train[['a']], train['y'])
print(m.score(test[['a']], test['y']))
""",
    ),
    "manual_sample_bad": (
        {OVERLAP},
        """
df = pd.read_csv('a.csv')
train = df.sample(frac=0.8, random_state=1)
test = df.sample(frac=0.2, random_state=2)
m = LinearRegression().fit(train[['a']], train['y'])
print(m.score(test[['a']], test['y']))
""",
    ),
    "time_mask_ok": (
        set(),
        """
df = pd.read_csv('a.csv', parse_dates=['d'])
df = df.sort_values('d')
train = df[df['d'] < '2020-01-01']
test = df[df['d'] >= '2020-01-01']
sc = StandardScaler()
m = LinearRegression().fit(sc.fit_transform(train[['a']]), train['y'])
print(m.score(sc.transform(test[['a']]), test['y']))
""",
    ),
    "isin_index_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
train = df.sample(frac=0.8, random_state=1)
test = df[~df.index.isin(train.index)]
m = LinearRegression().fit(train[['a']], train['y'])
print(m.score(test[['a']], test['y']))
""",
    ),
    "rand_mask_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
msk = np.random.rand(len(df)) < 0.8
train = df[msk]; test = df[~msk]
m = LinearRegression().fit(train[['a']], train['y'])
print(m.score(test[['a']], test['y']))
""",
    ),
    "keras_bad": (
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
    ),
    "keras_ok": (
        set(),
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
    "refit_scaler_on_test_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
pre = make_pipeline(SimpleImputer(), StandardScaler())
Z = pre.fit_transform(X_train, y_train)
clf = LogisticRegression().fit(Z, y_train)
print(clf.score(pre.transform(X_test), y_test))
""",
    ),
    "ct_before": (
        {PRE},
        """
from sklearn.compose import ColumnTransformer
df = pd.read_csv('a.csv')
ct = ColumnTransformer([('n', StandardScaler(), ['a']), ('c', OneHotEncoder(), ['b'])])
X = ct.fit_transform(df)
X_train, X_test, y_train, y_test = train_test_split(X, df.y, random_state=0)
print(LogisticRegression().fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "onehot_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
enc = OneHotEncoder()
X = enc.fit_transform(df[['b']])
le = LabelEncoder()
y = le.fit_transform(df['y'])
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
print(LogisticRegression().fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "threshold_test": (
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
    ),
    "roc_plot_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
m = LogisticRegression().fit(X_train, y_train)
p = m.predict_proba(X_test)[:, 1]
fpr, tpr, thr = roc_curve(y_test, p)
print(auc(fpr, tpr), accuracy_score(y_test, p > .5), roc_auc_score(y_test, p))
""",
    ),
    "two_models_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
base = LogisticRegression().fit(X_train, y_train)
model = RandomForestClassifier(random_state=0).fit(X_train, y_train)
for m in (base, model):
    print(m.score(X_train, y_train))
print(base.score(X_test, y_test), model.score(X_test, y_test))
""",
    ),
    "concat_dup": (
        {OVERLAP},
        """
df = pd.read_csv('a.csv')
pos = df[df.y == 1]
df = pd.concat([df] + [pos] * 5)
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
m = LogisticRegression().fit(X_train, y_train)
print(m.score(X_test, y_test))
""",
    ),
    "repeat_tune_cv_ok": (
        set(),
        """
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
    ),
    "func_eval_multi": (
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
    ),
    "knn_impute_all": (
        {PRE},
        """
df = pd.read_csv('a.csv')
num = df.select_dtypes('number').columns
imp = KNNImputer()
df[num] = imp.fit_transform(df[num])
X_train, X_test, y_train, y_test = train_test_split(df.drop(columns='y'), df.y, random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "apply_lambda_all": (
        {PRE},
        """
df = pd.read_csv('a.csv')
df[['a', 'b']] = df[['a', 'b']].apply(lambda c: (c - c.mean()) / c.std())
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'b']], df.y, random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
    ),
    "row_apply_ok": (
        set(),
        """
df = pd.read_csv('a.csv')
df['bmi'] = df.apply(lambda r: r['w'] / r['h'] ** 2, axis=1)
df['tot'] = df[['a', 'b']].sum(axis=1)
df['la'] = np.log1p(df['a'])
X_train, X_test, y_train, y_test = train_test_split(df[['a', 'bmi', 'tot']], df.y, random_state=0)
print(Ridge().fit(X_train, y_train).score(X_test, y_test))
""",
    ),
}
