"""The contract: what passes the check always encodes, the same way on every road, whatever the values."""

import pickle
import subprocess
import sys
from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.core.errors import InputError
from mlops_nb.data.checking import Problem
from mlops_nb.data.columns import EXACT, Column, encode_column
from mlops_nb.data.contract import Contract, Excluded, Target, contract_from_dict, load_contract
from mlops_nb.data.frames import conform, encode_frame, rows
from mlops_nb.data.values import NULL, NULL_DAYS, NULL_TEXTS, days, moment

CONTRACT = Contract(
    columns=(
        Column("age", "number", integer=True, nullable=True, low=0, high=120),
        Column("amount", "number", nullable=True),
        Column("plan", "category", nullable=True, levels=("basic", "pro", "1"), max_length=20),
        Column("note", "text", nullable=True, max_length=20),
        Column("paperless", "boolean", nullable=True),
        Column("since", "datetime", nullable=True),
    ),
    target=Target("churn", "binary", ("No", "Yes"), "Yes"),
    time="when",
    unit_id="customer",
    excluded=(Excluded("customer", "identifier"),),
)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=30),
    st.sampled_from([*NULL_TEXTS, "pro", " pro ", "True", "2020-02-29", "2020-02-29T23:00:00-05:00", "1e5"]),
)
JSON = st.one_of(ANYTHING, st.lists(ANYTHING, max_size=2), st.dictionaries(st.text(max_size=3), ANYTHING, max_size=2))
ROW = st.fixed_dictionaries(dict.fromkeys(CONTRACT.feature_names, JSON))


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[n], b[n], equal_nan=a[n].dtype.kind == "f") for n in a)


@settings(deadline=None, max_examples=300)
@given(st.lists(ROW, min_size=1, max_size=4))
def test_what_passes_the_check_encodes_and_survives_the_way_through_a_frame(sent):
    bad = {p.row for p in CONTRACT.check(sent) if p.action == "reject"}
    good = [row for i, row in enumerate(sent) if i not in bad]
    if not good:
        return
    direct = CONTRACT.encode(good)
    assert [a.dtype.kind for a in direct.values()] == ["f", "f", "O", "O", "O", "i"]
    assert np.isfinite(direct["age"]).sum() == sum(
        row["age"] is not None and row["age"] not in NULL_TEXTS and str(row["age"]).strip() != "" for row in good
    )
    settled = conform(CONTRACT, pd.DataFrame(good, dtype=object).assign(churn="No"))
    back = encode_frame(CONTRACT, settled)
    assert same(direct, {n: back[n].to_numpy() for n in back})
    again = CONTRACT.encode(rows(CONTRACT, settled))
    assert same(direct, again)


@given(JSON)
def test_a_judge_never_fails_and_every_problem_names_its_field(value):
    for problem in CONTRACT.check([dict.fromkeys(CONTRACT.feature_names, value)]):
        assert problem.field in CONTRACT.feature_names
        assert problem.allowed
        assert problem.action in ("flag", "reject")
        assert len(problem.value) <= 80


@pytest.mark.parametrize("null", [None, *sorted(NULL_TEXTS), "  "])
@pytest.mark.parametrize("kind", ["number", "category", "text", "boolean", "datetime"])
def test_every_spelling_of_null_is_null_in_every_kind(kind, null):
    strict, loose = Column("x", kind), Column("x", kind, nullable=True)
    contract = Contract((strict,), CONTRACT.target)
    assert [(p.rule, p.action) for p in contract.check([{"x": null}])] == [("null", "reject")]
    assert Contract((loose,), CONTRACT.target).check([{"x": null}]) == []
    encoded = encode_column(loose, [null])[0]
    assert np.isnan(encoded) if kind == "number" else encoded == (NULL_DAYS if kind == "datetime" else NULL)


@pytest.mark.parametrize(
    ("column", "value", "rule", "action"),
    [
        (Column("x", "number"), "12", "type", "reject"),
        (Column("x", "number"), True, "type", "reject"),
        (Column("x", "number"), float("nan"), "finite", "reject"),
        (Column("x", "number"), float("-inf"), "finite", "reject"),
        (Column("x", "number"), 1e39, "finite", "reject"),
        (Column("x", "number"), 10**400, "finite", "reject"),
        (Column("x", "number", integer=True), 1.5, "type", "flag"),
        (Column("x", "number", integer=True), EXACT + 1, "precision", "reject"),
        (Column("x", "number", integer=True, on_range="reject"), 1.5, "type", "reject"),
        (Column("x", "number", low=0, high=1), 1.01, "range", "flag"),
        (Column("x", "number", low=0, high=1, on_range="reject"), -1, "range", "reject"),
        (Column("x", "category", levels=("a",)), "b", "level", "flag"),
        (Column("x", "category", levels=("a",), on_level="reject"), "b", "level", "reject"),
        (Column("x", "category", levels=("a",), max_length=3), "long", "length", "reject"),
        (Column("x", "category", levels=("a",)), "b\n", "control", "reject"),
        (Column("x", "category", levels=("a",)), 5, "type", "reject"),
        (Column("x", "text"), "a\x1bb", "control", "reject"),
        (Column("x", "text"), {"a": 1}, "type", "reject"),
        (Column("x", "boolean"), "maybe", "type", "reject"),
        (Column("x", "boolean"), [True], "type", "reject"),
        (Column("x", "datetime"), 20_000, "type", "reject"),
        (Column("x", "datetime"), "yesterday", "type", "reject"),
        (Column("x", "datetime", low=0, high=10), "1980-01-01", "range", "flag"),
    ],
)
def test_faults(column, value, rule, action):
    found = Contract((column,), CONTRACT.target).check([{"x": value}])
    assert [(p.rule, p.action) for p in found] == [(rule, action)]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        (Column("x", "number", low=0, high=1), 1),
        (Column("x", "number", integer=True, on_large="round"), EXACT + 1),
        (Column("x", "category", levels=("a", "NA")), "NA"),
        (Column("x", "category", levels=("a\tb",)), "a\tb"),
        (Column("x", "category", levels=("1",)), 1),
        (Column("x", "text"), "two\nlines"),
        (Column("x", "boolean"), "TRUE"),
        (Column("x", "boolean"), 0),
        (Column("x", "datetime", low=0, high=0), date(1970, 1, 1)),
    ],
)
def test_good_values(column, value):
    assert Contract((column,), CONTRACT.target).check([{"x": value}]) == []


def test_names_of_fields():
    sent = {"age": 1, "amount": 1.0, "plan": "pro", "note": "x", "paperless": True, "since": "2020-01-01"}
    assert CONTRACT.check([sent]) == []
    flagged = CONTRACT.check([sent | {"churn": "No", "customer": 7, "when": "x"}])
    assert {p.field for p in flagged if p.action == "flag"} == {"churn", "customer", "when"}
    wrong = CONTRACT.check([{k if k != "age" else "Age": v for k, v in sent.items()}])
    assert [(p.field, p.rule, p.action) for p in wrong] == [("Age", "unknown", "reject"), ("age", "missing", "flag")]
    assert isinstance(wrong[0], Problem)
    assert wrong[0].to_dict()["allowed"] == "a column of the contract"


def test_days_agree_with_the_calendar():
    assert days([date(2020, 2, 29)])[0] == (date(2020, 2, 29) - date(1970, 1, 1)).days
    assert days(["2020-02-29T23:30:00-01:00"])[0] == (date(2020, 3, 1) - date(1970, 1, 1)).days
    assert days(pd.Series(pd.to_datetime(["1969-12-31T23:00"])))[0] == -1
    assert moment("2020-01-01T00:00:00+02:00").isoformat() == "2019-12-31T22:00:00"


def test_encoding_refuses_what_a_caller_got_wrong():
    with pytest.raises(InputError, match="no column 'age'"):
        CONTRACT.encode({"amount": [1.0]})
    with pytest.raises(InputError, match="different lengths"):
        Contract((Column("a", "number"), Column("b", "number")), CONTRACT.target).encode({"a": [1], "b": [1, 2]})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": []}, r"unknown key 'colums'; did you mean 'columns'\?"),
        ({"v": 2}, "contract version 2"),
        ({"columns": [{"name": "x", "kind": "number", "low": "a"}]}, r"Expected `float \| null`, got `str`"),
        ({"columns": [{"name": "x", "kind": "number", "low": 2, "high": 1}]}, "'x': low 2.0 is above high 1.0"),
        ({"columns": [{"name": "x", "kind": "number", "on_range": "drop"}]}, "Invalid enum value 'drop'"),
        ({"columns": []}, "no inputs"),
        ({"columns": [{"kind": "number"}]}, "missing required field `name`"),
        ({"columns": "all"}, "Expected `array`|columns '0': not an object"),
        ({"target": {"name": "y", "task": "ranking"}}, "Invalid enum value 'ranking'"),
        ({"target": {"name": "y", "task": "binary", "classes": ["a", "b"], "positive": "c"}}, "class 'c' is not among"),
        ({"target": {"name": "y", "task": "multiclass", "classes": ["a", "b"]}}, "at least three classes"),
        ({"target": {"name": "age", "task": "regression"}}, "'age' stands twice"),
    ],
)
def test_a_contract_edited_by_hand_is_told_its_fault(tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        contract_from_dict(CONTRACT.to_dict() | change, "contract.json")


def test_a_contract_survives_its_file(tmp_path):
    path = CONTRACT.save(tmp_path / "contract.json")
    assert load_contract(path) == CONTRACT
    assert load_contract(path).sha256 == CONTRACT.sha256
    assert "age" in CONTRACT._repr_html_()
    assert pickle.loads(pickle.dumps(CONTRACT)) == CONTRACT
    with pytest.raises(InputError, match=r"no column 'agee'; did you mean 'age'\?"):
        CONTRACT.column("agee")
    path.write_text("[]")
    with pytest.raises(InputError, match="not an object"):
        load_contract(path)


def test_a_server_pays_for_no_pandas():
    code = (
        "import sys, mlops_nb.data.contract;"
        "print([m for m in ('pandas', 'sklearn', 'scipy', 'pyarrow', 'mlflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
