from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import Message
from mlops_nb.core.workspace import Workspace, evidence_file
from mlops_nb.poc.case import open_case, predictions_file
from mlops_nb.poc.scorecard import (
    production_packages,
    run_score,
    score_evidence,
    scorecard,
)
from mlops_nb.poc.verdict import CONDITIONAL, CRITERIA, GO, NO_GO, NOT_ASSESSED
from tests.scored_workspace import CHARTER, NAMES, Story, make


def states(ws: Workspace) -> dict[str, str]:
    return {c["id"]: c["state"] for c in run_score(ws).data["criteria"]}


def test_the_clean_twin_is_all_go_whatever_the_draw(tmp_path: Path) -> None:
    for seed in range(4):
        assert states(make(tmp_path / str(seed), Story(seed=seed))) == dict.fromkeys(CRITERIA, GO)


def unfair(ws: Workspace) -> None:
    "The probabilities of one group become noise, and stay calibrated."
    table, rows = pd.read_parquet(predictions_file(ws)), pd.read_parquet(ws.split("test"))
    hit = (rows["sex"] == "f").to_numpy()
    base = float((rows["y"][hit] == "yes").mean())
    p = np.where(hit, base + np.random.default_rng(0).normal(0, 0.01, len(rows)), table["p.yes"])
    label = NAMES[(p > 0.5).astype(int)]
    table.assign(**{"p.yes": p, "p.no": 1 - p, "label": label}).to_parquet(predictions_file(ws))


def miscalibrated(ws: Workspace) -> None:
    table = pd.read_parquet(predictions_file(ws))
    p = table["p.yes"] ** 3
    table.assign(**{"p.yes": p, "p.no": 1 - p}).to_parquet(predictions_file(ws))


def pickled(ws: Workspace) -> None:
    folder = ws.bundles / "mini-bbbbbbbbbbbb"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(pickle.dumps({"weights": [1, 2]}))


def vulnerable(ws: Workspace) -> None:
    (ws.root / "known.json").write_text(
        '{"advisories": [{"id": "X-1", "package": "Numpy", "affected": ">=2", "severity": "high"}]}'
    )


LOW = CHARTER.replace("threshold = 0.75", "threshold = 0.70")
DEFECTS: dict[str, tuple[str, str, Story, Callable[[Workspace], None] | None]] = {
    "leaked target": ("data_quality", NO_GO, Story(quality={"quality.dominance/x": 1.0}), None),
    "input that may leak": ("data_quality", CONDITIONAL, Story(quality={"quality.dominance/x": 0.93}), None),
    "rows over the split": ("data_quality", NO_GO, Story(quality={"quality.leakage": 0.2}), None),
    "copied rows": ("data_quality", CONDITIONAL, Story(quality={"quality.duplicates": 0.05}), None),
    "missing data": ("data_quality", NO_GO, Story(quality={"quality.completeness": 0.8}), None),
    "one column broke": ("data_quality", CONDITIONAL, Story(quality={"quality.completeness/x": 0.2}), None),
    "stale data": ("data_quality", NO_GO, Story(quality={"quality.freshness_days": 300}), None),
    "no date": ("data_quality", NOT_ASSESSED, Story(quality={"quality.freshness_days": None}), None),
    "rows of the future": ("data_quality", NO_GO, Story(quality={"quality.future_rows": 0.2}), None),
    "an input from afterwards": ("data_quality", CONDITIONAL, Story(quality={"quality.later/x": 0.3}), None),
    "contradicting copies": ("data_quality", CONDITIONAL, Story(quality={"quality.conflicts": 0.05}), None),
    "unstable training": ("reproducibility", NO_GO, Story(seeds=(0.84, 0.70, 0.77)), None),
    "too few runs": ("reproducibility", NOT_ASSESSED, Story(seeds=(0.84, 0.84)), None),
    "slow model": ("latency", NO_GO, Story(trial={"latency.p99": 900.0}), None),
    "dropped requests": ("latency", CONDITIONAL, Story(trial={"latency.answered": 0.9}), None),
    "broken interface": ("integration", NO_GO, Story(trial={"integration.pass_rate": 0.9}), None),
    "slow way back": ("rollback", NO_GO, Story(trial={"rollback.duration": 400.0}), None),
    "no drill": ("rollback", NOT_ASSESSED, Story(trial={"rollback.duration": None}), None),
    "unfair subgroup": ("fairness", NO_GO, Story(charter=LOW.replace("0.70", "0.60")), unfair),
    "miscalibrated": ("performance", CONDITIONAL, Story(), miscalibrated),
    "unreachable threshold": ("performance", NO_GO, Story(charter=CHARTER.replace("0.75", "0.95")), None),
    "secret": ("security", NO_GO, Story(code='password = "hV7#kQ2!mZ9pLx"'), None),
    "pickle": ("security", NO_GO, Story(), pickled),
    "vulnerability": ("security", NO_GO, Story(), vulnerable),
    "nobody looked": ("security", CONDITIONAL, Story(charter=CHARTER.replace("known.json", "")), None),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_changes_its_own_criterion_and_no_other(tmp_path: Path, name: str) -> None:
    criterion, state, story, change = DEFECTS[name]
    ws = make(tmp_path, story)
    if change:
        change(ws)
    assert states(ws) == dict.fromkeys(CRITERIA, GO) | {criterion: state}
    told = next(c for c in run_score(ws).data["criteria"] if c["id"] == criterion)
    for lang in ("en", "fr"):
        text = Message.from_dict(told["reason"]).text(lang)
        assert "score." not in text, text
        assert "{" not in text, text


def test_a_stage_that_never_ran_leaves_its_criteria_not_assessed(tmp_path: Path) -> None:
    ws = make(tmp_path)
    for stage in ("data", "poc", "trial"):
        evidence_file(ws, stage).unlink()
    predictions_file(ws).unlink()
    assert states(ws) == dict.fromkeys(CRITERIA, NOT_ASSESSED) | {"security": GO}


def test_few_rows_are_not_assessed_and_say_how_many_would_do(tmp_path: Path) -> None:
    found = run_score(make(tmp_path, Story(rows=14)))
    card = {c["id"]: c for c in found.data["criteria"]}
    assert card["performance"]["state"] == NOT_ASSESSED
    assert card["performance"]["n_needed"] > 100
    assert card["fairness"]["state"] == NOT_ASSESSED


def test_a_shuffled_target_is_a_no_go_on_performance(tmp_path: Path) -> None:
    ws = make(tmp_path, Story(rows=90, charter=LOW))
    test = pd.read_parquet(ws.split("test"))
    outcomes = []
    for seed in range(20):
        test.assign(y=np.random.default_rng(seed).permutation(test["y"])).to_parquet(ws.split("test"))
        outcomes.append(states(ws)["performance"])
    assert set(outcomes) == {NO_GO}


def test_a_model_worse_than_the_baseline_is_a_condition(tmp_path: Path) -> None:
    ws = make(tmp_path)
    file = ws.runs / "seed-0" / "predictions.parquet"
    table = pd.read_parquet(file)
    table.rename(
        columns={"p.yes": "baseline.p.yes", "p.no": "baseline.p.no", "baseline.p.yes": "p.yes", "baseline.p.no": "p.no"}
    ).to_parquet(file)
    assert states(ws) == dict.fromkeys(CRITERIA, GO) | {"performance": CONDITIONAL}


def test_the_same_files_give_the_same_scorecard(tmp_path: Path) -> None:
    ws = make(tmp_path)
    assert score_evidence(open_case(ws)).to_dict() == score_evidence(open_case(ws)).to_dict()


def test_unanswered_rows_are_counted_and_said(tmp_path: Path) -> None:
    ws = make(tmp_path)
    pd.read_parquet(predictions_file(ws)).iloc[100:].to_parquet(predictions_file(ws))
    found = run_score(ws)
    assert found.fact("performance.rows").value == 1400
    assert "100 held-out rows" in found.warnings[0].text()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="p.yes"), r"no column 'p\.yes'"),
        (lambda t: t.assign(row=0), "'row' is not a position"),
        (lambda t: t.assign(label="maybe"), "'maybe' is no class"),
        (lambda t: t.assign(**{"p.yes": np.nan}), "no finite number"),
    ],
)
def test_answers_that_do_not_fit_are_one_clear_error(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], message: str
) -> None:
    ws = make(tmp_path)
    change(pd.read_parquet(predictions_file(ws))).to_parquet(predictions_file(ws))
    with pytest.raises(InputError, match=message):
        run_score(ws)


def test_a_subgroup_that_does_not_exist_names_the_columns(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"subgroups: no column 'gender'; use one of x, sex, y"):
        run_score(make(tmp_path, Story(charter=CHARTER.replace('["sex"]', '["gender"]'))))


def test_facts_of_the_scorecard_name_their_source(tmp_path: Path) -> None:
    found = run_score(make(tmp_path))
    assert found.fact("performance.roc_auc").source.path == "evidence/trial.predictions.parquet"
    assert found.fact("latency.p99").source.path == "evidence/trial.json"
    assert found.fact("latency.p99").state == GO
    ids = [f.id for f in found.facts]
    assert len(ids) == len(set(ids))


def test_the_scorecard_reads_in_both_languages(tmp_path: Path) -> None:
    ws = make(tmp_path)
    run_score(ws)
    assert "<td>go</td>" in scorecard(ws)._repr_html_().lower()
    assert "La performance" in scorecard(ws, "fr")._repr_html_()


def test_production_packages_are_those_of_the_base_install() -> None:
    names = {n.lower() for n, _ in production_packages()}
    assert {"numpy", "onnxruntime", "pydantic", "starlette"} <= names
    assert not {"pandas", "scikit-learn", "jupyterlab", "pytest"} & names
