"""Splits: the right shares, the same whatever the order of the rows, nothing of the future in the past, copies together."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.core.errors import InputError
from mlops_nb.core.workspace import Workspace
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.data.quality import duplicates, leakage
from mlops_nb.data.repeats import find_repeats, row_keys
from mlops_nb.data.splits import SHARES, assign, split_frames, write_splits

TARGET = Target("y", "binary", ("no", "yes"), "yes")


def table(n, seed=0, share=0.2):
    generator = np.random.default_rng(seed)
    return pd.DataFrame({"x": generator.normal(size=n), "y": np.where(generator.random(n) < share, "yes", "no")})


def contract(*names, target=TARGET, time=""):
    return Contract(tuple(Column(n, "number") for n in names or ("x",)), target, time)


@settings(deadline=None, max_examples=40)
@given(n=st.integers(50, 400), seed=st.integers(0, 10**6), share=st.floats(0.05, 0.95))
def test_shares_hold_in_every_class(n, seed, share):
    frame = table(n, seed, share)
    parts = split_frames(contract(), frame, assign(contract(), frame))
    for label, rows in frame["y"].value_counts().items():
        for name, part in parts.items():
            assert abs((part["y"] == label).sum() - rows * SHARES[name]) <= 1.5
    assert sum(map(len, parts.values())) == n


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_rows_changes_nothing(seed):
    frame = table(200)
    found = assign(contract(), frame).codes
    order = np.random.default_rng(seed).permutation(200)
    assert assign(contract(), frame.iloc[order].reset_index(drop=True)).codes.tolist() == found[order].tolist()


def test_a_regression_is_shared_out_too():
    frame = table(200).assign(y=np.arange(200.0))
    rows = assign(contract(target=Target("y", "regression")), frame).rows()
    assert rows == {"train": 120, "valid": 30, "test": 30, "future": 20}


def test_copies_stay_together_and_are_told():
    frame = table(500)
    doubled = pd.concat([frame, frame.head(200)], ignore_index=True)
    found = assign(contract(), doubled)
    assert (found.codes[:200] == found.codes[500:]).all()
    assert [(m.key, m.args["count"]) for m in found.messages] == [("data.copies-together", 200)]
    parts = split_frames(contract(), doubled, found)
    assert leakage(contract(), parts["train"], parts["test"]).value == 0
    assert duplicates(contract(), doubled)[0].value == 200 / 700


def test_one_row_repeated_without_end_does_not_make_a_split():
    frame = table(500).assign(other=np.arange(500.0))
    frame.loc[:250, ["x", "other", "y"]] = [1.5, 7.0, "no"]
    rows = assign(contract("x", "other"), frame).rows()
    assert abs(rows["test"] - 75) < 5


def test_equal_rows_of_a_coarse_table_are_not_called_copies():
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({c: generator.integers(0, 3, 600).astype(float) for c in "abc"})
    frame["y"] = generator.choice(["no", "yes"], 600)
    coarse = contract("a", "b", "c")
    found = assign(coarse, frame)
    assert found.messages == ()
    assert found.rows()["test"] == 90
    parts = split_frames(coarse, frame, found)
    assert leakage(coarse, parts["train"], parts["test"]).value == 0
    assert find_repeats(frame, list(frame)).again.mean() > 0.9


def test_leakage_over_time_is_measured():
    frame = table(1000).assign(day=pd.date_range("2020-01-01", periods=1000))
    frame.loc[800:829, ["x", "y"]] = frame.loc[0:29, ["x", "y"]].to_numpy()
    parts = split_frames(contract(time="day"), frame, assign(contract(time="day"), frame))
    assert len(parts["test"]) == 150
    assert leakage(contract(), parts["train"], parts["test"]).value == pytest.approx(30 / 150)


def edges(frame, parts):
    return [(p["day"].min(), p["day"].max()) for p in parts.values()]


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), days=st.integers(60, 400))
def test_no_test_row_is_older_than_a_training_row(seed, days):
    generator = np.random.default_rng(seed)
    frame = table(1000, seed).assign(
        day=pd.Timestamp("2020-01-01") + pd.to_timedelta(generator.integers(0, days, 1000), "D")
    )
    timed = contract(time="day")
    found = assign(timed, frame)
    parts = split_frames(timed, frame, found)
    assert all(a[1] < b[0] for a, b in itertools.pairwise(edges(frame, parts)))
    assert all(abs(len(p) / 1000 - SHARES[n]) < 0.05 for n, p in parts.items())
    assert all(p["day"].is_monotonic_increasing for p in parts.values())


def test_few_moments_are_cut_and_told():
    frame = table(300).assign(day=pd.Timestamp("2020-01-01"))
    frame.loc[290:, "day"] = pd.Timestamp("2020-01-02")
    found = assign(contract(time="day"), frame)
    assert found.rows() == {"train": 180, "valid": 45, "test": 45, "future": 30}
    assert [m.key for m in found.messages] == ["data.time-ties"]
    order = np.random.default_rng(0).permutation(300)
    again = assign(contract(time="day"), frame.iloc[order].reset_index(drop=True))
    assert again.codes.tolist() == found.codes[order].tolist()


def test_rows_without_a_moment_are_the_oldest():
    frame = table(300).assign(day=pd.date_range("2020-01-01", periods=300))
    frame.loc[295:, "day"] = pd.NaT
    found = assign(contract(time="day"), frame)
    assert (found.codes[295:] == 0).all()
    assert found.messages[0].args == {"column": "day", "count": 5}


@pytest.mark.parametrize("moments", [range(2000, 2300), np.arange(300) / 7])
def test_a_number_orders_too(moments):
    frame = table(300).assign(day=moments)
    found = assign(contract(time="day"), frame)
    assert found.rows() == {"train": 180, "valid": 45, "test": 45, "future": 30}
    assert (np.diff(found.codes) >= 0).all()


def test_a_class_that_train_lacks_is_refused_and_elsewhere_told():
    frame = table(300).assign(day=pd.date_range("2020-01-01", periods=300))
    with pytest.raises(InputError, match="class 'yes' of 'y' does not occur in the oldest 60% of the rows"):
        assign(contract(time="day"), frame.assign(y=["no"] * 200 + ["yes"] * 100))
    told = assign(contract(time="day"), frame.assign(y=["no", "yes"] * 100 + ["no"] * 100)).messages
    assert [m.args["split"] for m in told] == ["test", "future"]


def test_keys_see_values_not_types():
    a = pd.DataFrame({"x": [1, 2], "y": ["a", "b"]})
    b = pd.DataFrame({"x": [1.0, 2.0], "y": pd.Categorical(["a", "b"])})
    assert row_keys(a, ["x", "y"]).tolist() == row_keys(b, ["x", "y"]).tolist()
    swapped = a.rename(columns={"x": "y", "y": "x"})
    assert not set(row_keys(a, ["x", "y"])) & set(row_keys(swapped, ["x", "y"]))
    assert row_keys(pd.DataFrame({"x": [0.0, -0.0]}), ["x"])[0] == row_keys(pd.DataFrame({"x": [-0.0]}), ["x"])[0]


def test_files_appear_together_and_are_the_same_bytes(tmp_path):
    ws = Workspace(tmp_path)
    frame = table(200).assign(ok=[True, None] * 100, note=[None] * 200, day=pd.Timestamp("2020-01-01"))
    parts = split_frames(contract(), frame, assign(contract(), frame))
    write_splits(ws, parts)
    first = {p.name: p.read_bytes() for p in ws.splits.iterdir()}
    assert sorted(first) == ["future.parquet", "test.parquet", "train.parquet", "valid.parquet"]
    write_splits(ws, parts)
    assert {p.name: p.read_bytes() for p in ws.splits.iterdir()} == first
    back = pd.read_parquet(ws.split("train"))
    assert back["ok"].tolist() == parts["train"]["ok"].tolist()
    assert back["note"].isna().all()
    assert [p.name for p in tmp_path.iterdir()] == ["splits"]
