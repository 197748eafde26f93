"""Contracts that a person would have written, for tables that people really have."""

import datetime
import decimal
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

import mlops_nb.data
from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import LANGUAGES, Message, catalogue
from mlops_nb.data.columns import Column
from mlops_nb.data.examples import load_example
from mlops_nb.data.frames import conform, encode_frame, labels, rows
from mlops_nb.data.inference import infer_contract
from mlops_nb.data.kinds import guess_column
from mlops_nb.data.loading import read_table

N = 200


def guess(values, name="x"):
    return guess_column(pd.Series(values, name=name))


def through_csv(frame, tmp_path):
    frame.to_csv(tmp_path / "t.csv", index=False)
    return read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 2, 3] * 30, Column("x", "number", integer=True, low=1, high=3)),
        ([1.0, 2.0, None] * 30, Column("x", "number", integer=True, nullable=True, low=1, high=2)),
        ([1.5, 2.0, None] * 30, Column("x", "number", nullable=True, low=1.5, high=2)),
        (["1.5", " 2 ", ""] * 30, Column("x", "number", nullable=True, low=1.5, high=2)),
        ([decimal.Decimal("1.5"), None] * 30, Column("x", "number", nullable=True, low=1.5, high=1.5)),
        ([True, False] * 30, Column("x", "boolean")),
        ([True, None] * 30, Column("x", "category", nullable=True, levels=("true",), max_length=64)),
        (["TRUE", "false", "NA"] * 30, Column("x", "boolean", nullable=True)),
        (["a", "b "] * 30, Column("x", "category", levels=("a", "b"), max_length=64)),
        (["a", None] * 30, Column("x", "category", nullable=True, levels=("a",), max_length=64)),
        (["01", "75"] * 30, Column("x", "category", levels=("01", "75"), max_length=64)),
        (["1", "2", "3+"] * 30, Column("x", "category", levels=("1", "2", "3+"), max_length=64)),
        ([datetime.date(1970, 1, 2), None] * 30, Column("x", "datetime", nullable=True, low=1, high=1)),
        (["1970-01-02", "1970-01-03T10:00:00Z"] * 30, Column("x", "datetime", low=1, high=2)),
        (["02/01/1970", "13/01/1970"] * 30, Column("x", "datetime", low=1, high=12, format="%d/%m/%Y")),
        (["01/13/1970", "01/02/1970"] * 30, Column("x", "datetime", low=1, high=12, format="%m/%d/%Y")),
        (pd.to_datetime(["1970-01-02", "1970-01-03"] * 30, utc=True), Column("x", "datetime", low=1, high=2)),
        (pd.Categorical(["a", "b"] * 30), Column("x", "category", levels=("a", "b"), max_length=64)),
        (pd.array([1, None] * 30, "Int64"), Column("x", "number", integer=True, nullable=True, low=1, high=1)),
        (pd.array([True, None] * 30, "boolean"), Column("x", "boolean", nullable=True)),
        (pd.array(["a", None] * 30, "string"), Column("x", "category", nullable=True, levels=("a",), max_length=64)),
    ],
)
def test_kinds(values, expected):
    assert guess(values).column == expected


@pytest.mark.parametrize(
    ("values", "name", "reason"),
    [
        ([None] * 60, "x", "all-null"),
        ([np.nan] * 60, "x", "all-null"),
        (["", "NA"] * 30, "x", "all-null"),
        ([np.inf] * 60, "x", "all-null"),
        ([3] * 60, "x", "constant"),
        (["FR", "FR "] * 30, "x", "constant"),
        ([True] * 60, "x", "constant"),
        (["2020-01-01"] * 60, "x", "constant"),
        (range(60), "x", "identifier"),
        (range(1000, 1060), "x", "identifier"),
        ([17 * i for i in range(60)], "customer_id", "identifier"),
        ([f"C-{i}" for i in range(60)], "x", "identifier"),
        ([f"Mary Smith{i}" for i in range(60)], "x", "identifier"),
        ([f"u{i % 30}" for i in range(60)], "userId", "identifier"),
        ([[1, 2]] * 60, "x", "unsupported"),
        ([{"a": 1}] * 60, "x", "unsupported"),
        ([b"a", b"b"] * 30, "x", "unsupported"),
        (pd.to_timedelta(range(60), unit="s"), "x", "unsupported"),
    ],
)
def test_what_is_left_out_is_told(values, name, reason):
    found = guess(values, name)
    assert (found.column, found.reason) == (None, reason)
    assert [m.key for m in found.messages] == [f"data.excluded.{reason}"]
    assert name in found.messages[0].text()


@pytest.mark.parametrize(
    ("values", "kind", "key"),
    [
        ([f"{i / 3:.2f}" for i in range(99)] + ["free"], "number", "data.mixed.number"),
        (["1", "2", "3+"] * 30, "category", "data.mixed.text"),
        ([1, 2, "many"] * 30, "category", "data.mixed.text"),
        ([1.0, np.inf, -np.inf] * 30, "number", "data.infinite"),
        ([1e300, 1.0, 2.5] * 30, "number", "data.infinite"),
        ([17_000_000 * i for i in range(60)], "number", "data.integer-rounded"),
        (["01/02/1970", "03/04/1970"] * 30, "datetime", "data.date-ambiguous"),
        ([f"town {i}" for i in range(300)] * 3, "text", "data.many-levels"),
    ],
)
def test_what_a_person_should_know(values, kind, key):
    found = guess(values)
    assert found.column.kind == kind
    assert [m.key for m in found.messages] == [key]


def test_quantities_that_are_all_different_stay():
    generator = np.random.default_rng(0)
    assert guess(generator.normal(size=N)).column.kind == "number"
    assert guess(generator.choice(10**6, N, replace=False), "income").column.kind == "number"


def test_every_message_exists_in_both_languages():
    code = "".join(p.read_text() for p in Path(mlops_nb.data.__file__).parent.glob("*.py"))
    keys = set(re.findall(r'Message\(\s*"([^"]+)"', code)) | set(re.findall(r'"(data\.mixed\.[a-z]+)"', code))
    keys |= {f"data.excluded.{r}" for r in ("all-null", "constant", "identifier", "unsupported")}
    keys |= {f"data.lost.{k}" for k in ("number", "boolean", "datetime")}
    keys |= {f"fact.{k}" for k in re.findall(r'Fact\(\s*"([a-z_.]+)"', code)}
    assert len(keys) > 25
    for lang in LANGUAGES:
        assert not keys - catalogue(lang).keys()
    english, french = ({k for k in catalogue(lang) if k.startswith("data.")} for lang in LANGUAGES)
    assert english == french


@pytest.mark.parametrize("lang", LANGUAGES)
def test_messages_fill_every_place(lang):
    args = {
        "column": "c",
        "count": 3,
        "example": "e",
        "value": "v",
        "type": "t",
        "limit": 5,
        "class": "k",
        "split": "s",
        "name": "n",
    }
    for key in catalogue(lang):
        if key.startswith("data."):
            assert "{" not in Message(key, args).text(lang), key


@pytest.mark.parametrize(
    ("name", "task", "inputs"),
    [("breast_cancer", "binary", 30), ("wine", "multiclass", 13), ("diabetes", "regression", 10)],
)
def test_the_tables_of_scikit_learn(tmp_path, name, task, inputs):
    frame = through_csv(getattr(datasets, f"load_{name}")(as_frame=True).frame, tmp_path)
    contract, _ = infer_contract(frame, "target")
    assert contract.target.task == task
    assert [c.kind for c in contract.columns] == ["number"] * inputs
    assert not contract.excluded
    assert (contract.time, contract.unit_id) == ("", "")
    assert len(labels(contract, frame)) == len(frame)


def test_churn(tmp_path):
    frame, fields = load_example("churn")
    frame = through_csv(frame, tmp_path)
    contract, messages = infer_contract(frame, fields["target"])
    assert contract.target.positive == "Yes"
    assert len(contract.columns) == 19
    assert messages == ()
    assert [c.name for c in contract.columns if c.nullable] == ["total_charges"]
    assert contract.column("contract").levels == ("Month-to-month", "One year", "Two year")


def ordinary(n=N):
    generator = np.random.default_rng(1)
    start = datetime.date(2022, 1, 1)
    return pd.DataFrame(
        {
            "Customer ID": [f"K{i:04}" for i in range(n)],
            "signed": [f"{start + datetime.timedelta(days=int(d)):%d/%m/%Y}" for d in generator.integers(0, 700, n)],
            "city": generator.choice(["Lyon", "Brest", None], n),
            "amount": np.where(generator.random(n) < 0.2, np.nan, generator.gamma(2, 30, n).round(2)),
            "visits": generator.integers(0, 9, n),
            "birth_date": pd.date_range("1950-01-01", periods=n, freq="31D").astype(str),
            "remark": [
                f"said that number {i} was {w} late" for i, w in enumerate(generator.choice(["very", "not"], n))
            ],
            "left": generator.choice(["oui", "non"], n),
        }
    )


def test_a_table_with_text_gaps_and_dates(tmp_path):
    frame = through_csv(ordinary(), tmp_path)
    frame.loc[::50, "signed"] = None
    contract, messages = infer_contract(frame, "left")
    kinds = {c.name: c.kind for c in contract.columns}
    assert kinds == {
        "city": "category",
        "amount": "number",
        "visits": "number",
        "birth_date": "datetime",
        "remark": "text",
    }
    assert (contract.time, contract.unit_id) == ("signed", "Customer ID")
    assert contract.target.classes == ("non", "oui")
    assert [m.key for m in messages] == ["data.excluded.identifier", "data.many-levels", "data.time-inferred"]
    settled = conform(contract, frame)
    assert settled["signed"].dtype.kind == "M"
    assert settled["signed"].isna().sum() == 4
    encoded = encode_frame(contract, settled)
    direct = contract.encode(rows(contract, settled))
    assert all(np.array_equal(encoded[n], direct[n], equal_nan=direct[n].dtype.kind == "f") for n in direct)


def test_inference_is_the_same_every_time_and_for_every_order(tmp_path):
    frame = through_csv(ordinary(), tmp_path)
    first = infer_contract(frame, "left")
    assert infer_contract(frame, "left") == first
    shuffled = infer_contract(frame.sample(frac=1, random_state=0).reset_index(drop=True), "left")
    assert shuffled[0] == first[0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"target": "lefft"}, r"t.csv: no column 'lefft'; did you mean 'left'\?"),
        ({"target": "outcome"}, r"t.csv: no column 'outcome'; its columns are Customer ID, signed, city"),
        ({"target": "left", "time": "Signed"}, r"no column 'Signed'; did you mean 'signed'\?"),
        ({"target": "left", "exclude": ["amounts"]}, r"no column 'amounts'; did you mean 'amount'\?"),
        ({"target": "left", "unit_id": "left"}, "column 'left' has two roles"),
        ({"target": "left", "exclude": ["left"]}, "column 'left' has two roles"),
        ({"target": "left", "positive": "Oui"}, "t.csv: target 'left': no class 'Oui'; the classes are non and oui"),
        ({"target": "left", "task": "multiclass"}, "two classes, but the task is multiclass"),
        ({"target": "left", "task": "regression"}, "'(oui|non)' is no number, but the task is regression"),
        ({"target": "left", "time": "city"}, "column of time 'city' holds no dates"),
        ({"target": "visits", "task": "binary"}, "9 classes, but the task is binary"),
        ({"target": "Customer ID"}, "200 different texts are no classes"),
    ],
)
def test_what_was_asked_for_must_make_sense(given, message):
    with pytest.raises(InputError, match=message):
        infer_contract(ordinary(), **given, where="t.csv")


def test_tasks_of_numeric_targets():
    frame = ordinary()
    assert infer_contract(frame, "amount")[0].target.task == "regression"
    assert infer_contract(frame, "visits")[0].target.task == "multiclass"
    assert infer_contract(frame, "visits", task="regression")[0].target.classes == ()
    assert infer_contract(frame.assign(left=frame["left"] == "oui"), "left")[0].target.classes == ("false", "true")
    assert infer_contract(frame.assign(left=(frame["left"] == "oui") * 1.0), "left")[0].target.classes == ("0", "1")


def test_labels_follow_the_classes():
    frame = ordinary()
    contract, _ = infer_contract(frame, "left")
    assert labels(contract, frame).tolist() == [int(v == "oui") for v in frame["left"]]
    with pytest.raises(InputError, match="'null' is not one of the classes"):
        labels(contract, frame.assign(left=None))
    number, _ = infer_contract(frame, "amount")
    with pytest.raises(InputError, match="nulls in the target"):
        labels(number, frame)
