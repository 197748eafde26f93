"""Lighter models: what is made, what is refused and why, and that the service really answers from the chosen one."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.datasets import make_classification
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from mlops_nb.bundle import lighter
from mlops_nb.bundle.format import golden_bytes, load_bundle, write_bundle
from mlops_nb.bundle.lighter import Candidate, Choice, Material, choose_lighter, judge, lighter_facts, provenance
from mlops_nb.bundle.manifest import json_bytes
from mlops_nb.bundle.onnx import convert
from mlops_nb.bundle.parts import Answer, Golden, Rule, Thresholds
from mlops_nb.charter import freeze_file, parse_charter
from mlops_nb.core.workspace import Workspace, stage_evidence
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.data.stage import run_data
from mlops_nb.lifecycle.scaffold import init_from_file
from mlops_nb.stats.intervals import Interval
from tests.conftest import Cli
from tests.serving_lab import Lab, ask, mood
from tests.test_bundle_export import run_cells, table

Task = Literal["binary", "multiclass", "regression"]
N = 2_400  # rows, half of them validation rows


def rows(classes: int = 2) -> tuple[pd.DataFrame, NDArray[Any]]:
    "Ten numbers that tell a class, with noise."
    x, y = make_classification(N, 10, n_informative=7, n_classes=classes, flip_y=0.05, random_state=1)
    return pd.DataFrame(x.astype("float32"), columns=[f"x{i}" for i in range(10)]), y


def contract_of(task: Task) -> Contract:
    columns = tuple(Column(f"x{i}", "number", low=-9, high=9) for i in range(10))
    classes = {"binary": ("no", "yes"), "multiclass": ("a", "b", "c"), "regression": ()}[task]
    return Contract(columns, Target("y", task, classes, "yes" if task == "binary" else ""))


METRICS = {"binary": ("roc_auc", 0.8), "multiclass": ("accuracy", 0.7), "regression": ("rmse", 2.0)}


def material(task: Task, model: Any, baseline: Any, y: NDArray[Any], frame: pd.DataFrame, **said: Any) -> Material:
    "What a lighter model is chosen from, around fitted estimators."
    metric, threshold = METRICS[task]
    doc = {
        "problem": {"name": "trial"},
        "data": {"file": "f.csv", "target": "y", "task": task},
        "criteria": {"performance": {"metric": metric, "threshold": threshold}},
        "lighter": said,
    }
    contract, cut = contract_of(task), Thresholds(0.5, "yes") if task == "binary" else Thresholds()
    graphs = (convert(model, contract), convert(baseline, contract))
    half = N // 2
    return Material(
        contract, parse_charter(doc, "charter.toml"), *graphs, cut, frame[:half], frame[half:], frame[:5], y[half:]
    )


@pytest.fixture(scope="module")
def network() -> Material:
    "A deep network beside a stump."
    frame, y = rows()
    half = N // 2
    deep = make_pipeline(StandardScaler(), MLPClassifier((256, 256, 128), max_iter=12, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it need not converge
        deep.fit(frame[:half], y[:half])
    stump = DecisionTreeClassifier(max_depth=1).fit(frame[:half], y[:half])
    return material("binary", deep, stump, y, frame, make="quantise")


def tried(choice: Choice, name: str) -> Candidate:
    "The candidate of that name."
    (found,) = [c for c in choice.tried if c.name == name]
    return found


def at_speed(monkeypatch: pytest.MonkeyPatch, ratio: float) -> None:
    "Clocks differ between machines; what is decided by them must not in a test."
    monkeypatch.setattr(lighter, "speed_gain", lambda *_: Interval(ratio, ratio * 0.98, ratio * 1.02, n=15))


def test_a_deep_network_is_quantised_with_a_small_loss_and_a_measured_gain(network: Material) -> None:
    choice = choose_lighter(network)
    int8 = tried(choice, "int8")
    assert int8.loss is not None
    assert int8.loss.value < int8.worst < 0.01
    assert int8.loss.method == "delong-paired"
    assert 0.2 < int8.size_ratio < 0.35
    assert int8.speed is not None
    assert 0 < int8.speed.low <= int8.speed.value <= int8.speed.high
    assert int8.why is None or int8.why.key == "bundle.lighter.speed"


@pytest.mark.parametrize(("ratio", "make"), [(2.0, "quantise"), (1.26, "baseline"), (0.8, "baseline")])
def test_what_is_not_clearly_faster_is_refused(
    network: Material, monkeypatch: pytest.MonkeyPatch, ratio: float, make: str
) -> None:
    at_speed(monkeypatch, ratio)
    choice = choose_lighter(network)
    assert choice.chosen.make == make
    if make == "baseline":
        assert tried(choice, "int8").why.key == "bundle.lighter.speed"  # type: ignore[union-attr]
        assert choice.reason.key == "bundle.lighter.all-refused"


def test_a_network_that_int8_harms_is_refused(network: Material) -> None:
    "The same function in another scale: one input ten thousand times as large, its weights as much smaller."
    frame, y = rows()
    half = N // 2
    deep = make_pipeline(StandardScaler(), MLPClassifier((512, 32), max_iter=12, random_state=0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deep.fit(frame[:half], y[:half])
    well = judge_int8(deep, frame, y)
    assert well.loss is not None
    assert well.worst < 0.01
    deep[0].scale_[3] /= 1e4
    deep[1].coefs_[0][3] /= 1e4
    harmed = judge_int8(deep, frame, y)
    assert harmed.why is not None
    assert harmed.why.key == "bundle.lighter.loss"
    assert harmed.worst > 0.05


def judge_int8(deep: Any, frame: pd.DataFrame, y: NDArray[Any]) -> Candidate:
    stump = DecisionTreeClassifier(max_depth=1).fit(frame, y)
    return tried(choose_lighter(material("binary", deep, stump, y, frame, make="quantise")), "int8")


@pytest.fixture(scope="module")
def boosted() -> Material:
    "Many trees beside a stump."
    frame, y = rows()
    half = N // 2
    trees = RandomForestClassifier(100, min_samples_leaf=2, random_state=0).fit(frame[:half], y[:half])
    return material(
        "binary", trees, DecisionTreeClassifier(max_depth=1).fit(frame[:half], y[:half]), y, frame, max_loss=0.03
    )


def test_trees_have_nothing_to_quantise(boosted: Material) -> None:
    choice = choose_lighter(boosted, "quantise")
    int8 = tried(choice, "int8")
    assert (int8.graph, int8.loss, int8.speed) == (b"", None, None)
    assert "nothing to quantise" in int8.why.text()  # type: ignore[union-attr]
    assert "TreeEnsemble" in int8.why.text("fr")  # type: ignore[union-attr]
    assert choice.chosen.make == "baseline"


def test_trees_are_distilled_within_the_limit(boosted: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    at_speed(monkeypatch, 5.0)
    choice = choose_lighter(boosted)
    assert choice.chosen.make == "distil"
    assert choice.chosen.worst <= 0.03 < tried(choice, "build_baseline").worst
    assert choice.chosen.size_ratio == min(c.size_ratio for c in choice.tried if not c.why)
    assert [f.id for f in lighter_facts(boosted, choice)] == [
        "export.lite_loss",
        "export.lite_speed",
        "export.lite_size",
    ]
    assert choose_lighter(boosted).chosen.graph == choice.chosen.graph


def test_a_limit_of_nothing_refuses_everything(boosted: Material, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(lighter, "time")  # what loses too much is not even timed
    strict = boosted.charter.model_copy(
        update={"lighter": boosted.charter.lighter.model_copy(update={"max_loss": 0.0})}
    )
    choice = choose_lighter(replace(boosted, charter=strict))
    assert choice.chosen.make == "baseline"
    assert all(c.why and c.speed is None for c in choice.tried)
    assert provenance(boosted, choice)["within"] is False


def test_the_model_itself_would_be_no_gain(boosted: Material) -> None:
    same = judge(boosted, Candidate("distil", "same", boosted.model))
    assert same.loss is not None
    assert (same.loss.value, same.worst) == (0.0, 0.0)
    assert same.why is not None
    assert same.why.key == "bundle.lighter.size"


def test_more_candidates_make_the_limit_stricter(boosted: Material) -> None:
    one, five = (judge(boosted, Candidate("distil", "stump", boosted.baseline), k).worst for k in (1, 5))
    assert one < five


@pytest.mark.slow
@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    at_speed(monkeypatch, 5.0)
    frame, classes = rows(3)
    half = N // 2
    signal = frame["x0"].to_numpy() * 5 + np.random.default_rng(0).normal(size=N)
    model, simple, y = {
        "multiclass": (
            RandomForestClassifier(60, random_state=0),
            DecisionTreeClassifier(max_depth=1),
            classes,
        ),
        "regression": (
            RandomForestRegressor(40, min_samples_leaf=5, random_state=0),
            DecisionTreeRegressor(max_depth=1),
            signal,
        ),
    }[task]
    fitted = [m.fit(frame[:half], y[:half]) for m in (model, simple)]
    found = material(task, fitted[0], fitted[1], y, frame, max_loss=0.15, make="distil")
    assert found.limit == pytest.approx(0.15 if task == "multiclass" else 0.30)  # a share of the threshold of 2
    choice = choose_lighter(found)
    assert choice.chosen.make == "distil", [str(c.why) for c in choice.tried]
    assert json.loads(json.dumps(choice.to_dict()))["tried"][0]["make"] == "baseline"


def test_a_light_regression_has_nothing_to_gain() -> None:
    frame, _ = rows()
    y = frame["x0"].to_numpy() * 5
    ridge = Ridge().fit(frame, y)
    choice = choose_lighter(material("regression", ridge, ridge, y, frame, make="distil"))
    assert {c.why.key for c in choice.tried[1:] if c.why} <= {"bundle.lighter.size", "bundle.lighter.loss"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deep = make_pipeline(
            StandardScaler(), MLPRegressor(hidden_layer_sizes=(64, 64), max_iter=3, random_state=0)
        ).fit(frame, y)
    int8 = tried(choose_lighter(material("regression", deep, ridge, y, frame, make="quantise")), "int8")
    assert int8.graph


def bundle_of(folder: Path, found: Material, choice: Choice) -> Path:
    "A bundle around a material and its chosen lighter model."
    contract, valid = found.contract, found.valid.head(6)
    sent = tuple({k: float(v) for k, v in row.items()} for row in valid.to_dict("records"))
    files = dict.fromkeys(("card.md", "licences.json", "environment.txt", "baseline.json"), b"{}\n") | {
        "contract.json": json_bytes(contract.to_dict()),
        "model.onnx": found.model,
        "lite.onnx": choice.chosen.graph,
        "rule.json": json_bytes(Rule(Answer("no", (0.5, 0.5))).to_dict()),
        "thresholds.json": json_bytes(found.thresholds.to_dict()),
        "golden.parquet": golden_bytes(Golden(sent, found.ask(found.model, valid), ("sample",) * 6), contract),
    }
    head = {"name": "trial", "task": "binary", "tolerance": {"atol": 1e-5, "rtol": 0.0}}
    return write_bundle(folder, {**head, "signature": found.signature.to_dict()}, files)


@pytest.mark.parametrize("kind", ["network", "boosted"])
def test_an_overloaded_service_answers_from_it(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_speed(monkeypatch, 5.0)
    found: Material = request.getfixturevalue(kind)
    choice = choose_lighter(found)
    assert choice.chosen.make == {"network": "quantise", "boosted": "distil"}[kind]
    some = found.valid.head(6)
    sent = [{k: float(v) for k, v in row.items()} for row in some.to_dict("records")]
    heavy, light = found.ask(found.model, some)[:, 1], found.ask(choice.chosen.graph, some)[:, 1]
    assert np.abs(heavy - light).max() > 1e-4  # otherwise nobody could tell who answered
    with Lab(tmp_path) as lab:
        server = lab.server(bundle_of(tmp_path / "bundles", found, choice), doubles=["moods"])
        assert [p["probability"]["yes"] for p in ask(server, *sent)] == pytest.approx(list(heavy), abs=1e-5)
        with mood(server, sleep_s=1.0):
            for _ in range(5):
                ask(server, *sent)
            told = ask(server, *sent, headers={"x-request-timeout-ms": "900"})
        assert {(p["degraded"], p["reason"]) for p in told} == {(True, "overload")}
        assert [p["probability"]["yes"] for p in told] == pytest.approx(list(light), abs=1e-5)


@pytest.mark.slow
def test_the_command_and_the_charter_ask_for_one(cli: Cli, tmp_path: Path) -> None:
    table("binary").to_csv(tmp_path / "rows.csv", index=False)
    ws = init_from_file(tmp_path / "ws", tmp_path / "rows.csv", "y")
    draft = ws.charter_file.read_text()
    asked = re.sub(r'(\[lighter\]\nmake = )"\w+"(.*\nmax_loss = )[\d.]+', r'\1"distil"\g<2>0.5', draft)
    assert asked != draft
    ws.charter_file.write_text(asked)
    run_data(ws)
    freeze_file(ws)
    run_cells(ws)

    done = cli("export", ws.root)
    assert done.returncode == 0, done.stderr
    by_charter = stage_evidence(ws, "export").data
    assert {t["make"] for t in by_charter["lighter"]["tried"]} == {"baseline", "distil"}
    about = load_bundle(ws.root / by_charter["candidate"]["path"])
    assert about.manifest["lite"]["make"] == by_charter["lighter"]["make"]
    assert about.manifest["lite"]["made_by"] in (about.path / "card.md").read_text()

    done = cli("export", ws.root, "--lighter", "quantise")
    assert done.returncode == 0, done.stderr
    assert "nothing to quantise" in done.stdout
    assert stage_evidence(ws, "export").data["lighter"]["make"] == "baseline"

    done = cli("export", ws.root, "--lighter", "prune")
    assert (done.returncode, done.stdout) == (2, "")
    assert "unknown kind 'prune'; use auto, quantise, distil, baseline" in done.stderr

    shutil.rmtree(ws.bundles)
    assert cli("export", ws.root).returncode == 0
    assert stage_evidence(Workspace(ws.root), "export").data["candidate"]["id"] == by_charter["candidate"]["id"]
