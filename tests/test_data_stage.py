"""The first stage: what it leaves behind, what it refuses, and that a refusal leaves nothing behind."""

import datetime
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

from mlops_nb.charter import load_charter
from mlops_nb.core.errors import InputError
from mlops_nb.core.hashing import sha256_file
from mlops_nb.core.workspace import Workspace, stage_evidence
from mlops_nb.data.contract import Excluded, load_contract
from mlops_nb.data.examples import load_example
from mlops_nb.data.frames import labels, rows
from mlops_nb.data.quality import SUSPECT, dominance
from mlops_nb.data.stage import contract_for, prepare, run_data

TODAY = datetime.date(2024, 1, 1)


def workspace(tmp_path, frame, *, target="y", task="binary", name="t.csv", **data):
    ws = Workspace(tmp_path)
    ws.data.mkdir(exist_ok=True)
    if isinstance(frame, bytes):
        (ws.data / name).write_bytes(frame)
    else:
        frame.to_csv(ws.data / name, index=False)
    charter(ws, target=target, task=task, name=name, **data)
    return ws


def charter(ws, *, target="y", task="binary", name="t.csv", **data):
    lines = [
        f"{k} = {json.dumps(v)}" for k, v in {"file": f"data/{name}", "target": target, "task": task, **data}.items()
    ]
    text = '[problem]\nname = "t"\n[data]\n' + "\n".join(lines) + "\n[criteria.performance]\nthreshold = 0.7\n"
    ws.charter_file.write_text(text)


def table(n=300):
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": [f"K{i:05}" for i in range(n)],
            "empty": None,
            "same": "FR",
            "price": [f"{v:.2f}" for v in generator.gamma(2, 10, n - 2)] + ["free", "ask"],
            "size": np.where(generator.random(n) < 0.1, np.nan, generator.normal(size=n)),
            "colour": generator.choice(["red", "blue", None], n),
            "day": pd.date_range("2023-01-01", periods=n).astype(str),
            "y": generator.choice(["no", "yes"], n),
        }
    )


def state(ws):
    return {p.relative_to(ws.root).as_posix(): sha256_file(p) for p in ws.root.rglob("*") if p.is_file()}


def test_what_the_stage_leaves_behind(tmp_path):
    ws = workspace(tmp_path, table(), time="day", unit_id="id")
    evidence = run_data(ws, TODAY)
    back = stage_evidence(ws, "data")
    assert back.facts[0].value == 300
    assert back.data == evidence.data
    assert [(e["name"], e["reason"]) for e in back.data["excluded"]] == [
        ("id", "identifier"), ("empty", "all-null"), ("same", "constant"),
    ]  # fmt: skip
    assert [w.key for w in back.warnings] == [
        "data.excluded.identifier", "data.excluded.all-null", "data.excluded.constant",
        "data.mixed.number", "data.lost.number",
    ]  # fmt: skip
    assert back.data["snapshot"]["id"] == sha256_file(ws.data / "t.csv") == back.inputs["data/t.csv"]
    assert back.data["snapshot"]["time_span"] == ["2023-01-01T00:00:00", "2023-10-27T00:00:00"]
    assert back.data["split_by"] == "time"
    assert back.data["split_sha256"]["splits/test.parquet"] == sha256_file(ws.split("test"))
    assert back.data["contract"] == load_contract(ws.contract_file).sha256
    assert sum(back.data["splits"].values()) == 300
    values = {f.id: f.value for f in back.facts}
    assert values["quality.freshness_days"] == 66
    assert values["quality.completeness/price"] == pytest.approx(298 / 300)
    assert values["quality.leakage"] == values["quality.duplicates"] == 0
    test = pd.read_parquet(ws.split("test"))
    assert list(test) == list(table())
    contract = load_contract(ws.contract_file)
    assert contract.check(rows(contract, test)) == []
    assert set(labels(contract, test)) == {0, 1}


def test_the_same_table_gives_the_same_bytes(tmp_path):
    ws = workspace(tmp_path, table())
    run_data(ws, TODAY)
    first = state(ws)
    run_data(ws, TODAY)
    assert state(ws) == first


def handful():
    return table().head(12)


@pytest.mark.parametrize(
    ("frame", "given", "message"),
    [
        (table(), {"target": "yy"}, r"data/t.csv: no column 'yy'; did you mean 'y'\?"),
        (table(), {"target": "outcome"}, "data/t.csv: no column 'outcome'; its columns are id"),
        (b"", {}, "t.csv: the file is empty"),
        (b"a,y\n", {}, "t.csv: the file holds no rows"),
        (b"a,a,y\n1,2,3\n", {}, "t.csv: column 'a' stands 2 times"),
        ("a,y\ncafé,1\n".encode("latin-1"), {}, "t.csv:2: not UTF-8 text"),
        (handful(), {}, "data/t.csv: target 'y': 12 rows with a value; at least 50"),
        (table().assign(y="no"), {}, r"data/t.csv: target 'y': one class only \('no'\)"),
        (table().assign(y=None), {}, "data/t.csv: target 'y': every value is null"),
        (table().assign(y=["no"] * 297 + ["yes"] * 3), {}, "class 'yes' has 3 rows"),
        (table()[["id", "same", "empty", "y"]], {}, "data/t.csv: no column is left to learn from"),
        (table(), {"time": "dy"}, r"no column 'dy'; did you mean 'day'\?"),
        (table(), {"exclude": ["price", "size", "colour", "day"]}, "no column is left to learn from"),
        (table(), {"task": "regression"}, "is no number, but the task is regression"),
        (table(), {"positive": "maybe"}, "no class 'maybe'"),
        (table(), {"name": "t.xlsx"}, "unknown file type '.xlsx'"),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(tmp_path, frame, given, message):
    ws = workspace(tmp_path, frame, **given)
    before = state(ws)
    with pytest.raises(InputError, match=message) as caught:
        run_data(ws, TODAY)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert caught.value.fix
    assert state(ws) == before


def test_an_unusable_next_file_leaves_the_workspace_as_it_was(tmp_path):
    ws = workspace(tmp_path, table())
    run_data(ws, TODAY)
    table().drop(columns="size").to_csv(ws.data / "t.csv", index=False)
    before = state(ws)
    with pytest.raises(InputError, match="no column 'size'"):
        run_data(ws, TODAY)
    table().assign(y=["no", "yes", "perhaps"] * 100).to_csv(ws.data / "t.csv", index=False)
    before = state(ws)
    with pytest.raises(InputError, match="3 classes, but the task is binary"):
        run_data(ws, TODAY)
    assert state(ws) == before


def test_a_corrected_contract_stands(tmp_path):
    ws = workspace(tmp_path, table())
    run_data(ws, TODAY)
    contract = load_contract(ws.contract_file)
    doc = json.loads(json.dumps(contract.to_dict()))
    doc["columns"][1] |= {"low": -1, "high": 1, "description": "in metres"}
    ws.contract_file.write_text(json.dumps(doc))
    evidence = run_data(ws, TODAY)
    kept = load_contract(ws.contract_file)
    assert kept.columns[1].description == "in metres"
    assert "data.out-of-range" in [w.key for w in evidence.warnings]


def test_charter_and_contract_must_agree(tmp_path):
    ws = workspace(tmp_path, table(), time="day")
    run_data(ws, TODAY)
    charter(ws)
    with pytest.raises(
        InputError, match=r"charter.toml: data.time is '', but contract.json says 'day'; make them agree"
    ):
        run_data(ws, TODAY)


def test_excluding_and_readmitting_a_column(tmp_path):
    ws = workspace(tmp_path, table())
    run_data(ws, TODAY)
    whole = load_contract(ws.contract_file)
    charter(ws, exclude=["size"])
    run_data(ws, TODAY)
    less = load_contract(ws.contract_file)
    assert "size" not in less.feature_names
    assert Excluded("size", "charter") in less.excluded
    assert "size" in pd.read_parquet(ws.split("test"))
    charter(ws)
    run_data(ws, TODAY)
    assert load_contract(ws.contract_file) == whole


def test_rows_without_a_target_are_left_out_and_told(tmp_path):
    frame = table()
    frame.loc[:9, "y"] = None
    evidence = run_data(workspace(tmp_path, frame), TODAY)
    assert sum(evidence.data["splits"].values()) == 290
    assert ("data.target-null", 10) in [(w.key, w.args.get("count")) for w in evidence.warnings]
    assert evidence.fact("quality.completeness/y").value == pytest.approx(290 / 300)


@pytest.mark.parametrize(
    ("name", "task"), [("breast_cancer", "binary"), ("wine", "multiclass"), ("diabetes", "regression")]
)
def test_the_tables_of_scikit_learn(tmp_path, name, task):
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    evidence = run_data(workspace(tmp_path, frame, target="target", task=task), TODAY)
    assert evidence.fact("quality.completeness").value == 1
    assert evidence.fact("quality.leakage").value == 0
    assert evidence.fact("quality.dominance").value < 0.9
    if task == "multiclass":
        assert [w.key for w in evidence.warnings] == ["data.rare-class"]
        assert all(len(c) == 3 for c in evidence.data["target"]["by_split"].values())


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_target_in_disguise_dominates(tmp_path, task):
    frame, generator = table(600), np.random.default_rng(1)
    if task == "regression":
        frame["y"] = generator.gamma(2, 10, 600)
        frame["told"] = frame["y"] * 1.1 + 3
    else:
        frame["y"] = generator.choice(["a", "b", "c"][: 2 + (task == "multiclass")], 600)
        frame["told"] = "code " + frame["y"]
    ws = workspace(tmp_path, frame, task=task)
    evidence = run_data(ws, TODAY)
    assert evidence.fact("quality.dominance/told").value > SUSPECT
    honest = prepare(ws, load_charter(ws.charter_file).data)
    contract = honest.contract
    mixed = honest.usable.sample(frac=1, random_state=0)
    others = [f for f in dominance(contract, mixed[:300], mixed[300:], most=9) if "/" in f.id and "told" not in f.id]
    assert all(f.value < 0.3 for f in others)


def test_churn_costs_seconds(tmp_path):
    frame, fields = load_example("churn")
    ws = workspace(tmp_path, frame, target="churn", positive="Yes")
    evidence = run_data(ws, TODAY)
    assert evidence.data["target"]["classes"] == ["No", "Yes"]
    assert [w.key for w in evidence.warnings] == ["data.copies-together"]
    shares = [c["Yes"] / (c["Yes"] + c["No"]) for c in evidence.data["target"]["by_split"].values()]
    assert max(shares) - min(shares) < 0.005
    assert set(fields["subgroups"]) <= set(load_contract(ws.contract_file).feature_names)


def test_a_contract_may_come_before_the_charter_of_a_table(tmp_path):
    ws = workspace(tmp_path, table())
    contract, messages = contract_for(ws, table(), load_charter(ws.charter_file).data)
    assert not ws.contract_file.exists()
    assert contract.time == ""
    assert "day" in contract.feature_names
    assert messages


def test_killed_at_any_moment_it_starts_again(tmp_path):
    ws = workspace(tmp_path, table(5000))
    code = f"from mlops_nb.data.stage import run_data; from mlops_nb.core.workspace import Workspace; run_data(Workspace({str(tmp_path)!r}))"
    for delay_s in (0.9, 1.1, 1.3, 1.6):
        child = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(delay_s)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    run_data(ws, TODAY)
    first = {k: v for k, v in state(ws).items() if k.startswith("splits/")}
    run_data(ws, TODAY)
    assert {k: v for k, v in state(ws).items() if k.startswith("splits/")} == first
    assert len(first) == 4
