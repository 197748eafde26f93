"""Twelve proofs of concept made from data, each with one defect, and their clean twins.

Contract, splits, quality, fitting, measuring, scoring and deciding are the real ones; the notebook's run is replaced by a fit in
this process, MLflow is left out, and latencies are drawn, because no test may depend on how busy the machine is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mlops_nb.charter import freeze, load_frozen
from mlops_nb.core.errors import Refused
from mlops_nb.core.facts import Fact
from mlops_nb.core.files import write_json
from mlops_nb.core.workspace import Evidence, Workspace, write_evidence
from mlops_nb.data.stage import run_data
from mlops_nb.lifecycle.stages import record_stage
from mlops_nb.poc import runs
from mlops_nb.poc.case import predictions_file
from mlops_nb.poc.gate import run_gate
from mlops_nb.poc.runs import run_poc
from mlops_nb.poc.scorecard import run_score
from mlops_nb.poc.verdict import CONDITIONAL, CRITERIA, GO, NO_GO
from mlops_nb.trial.load import Load
from mlops_nb.trial.stage import latency_facts
from tests.scored_workspace import CHARTER as SCORED

pytestmark = pytest.mark.slow
TODAY = date(2026, 6, 1)
CHARTER = (
    SCORED.replace("mini", "offers")
    .replace('target = "y"', 'target = "accepted"')
    .replace("[criteria.performance]", 'time = "day"\n[criteria.performance]')
    .replace("[criteria.security]", "[criteria.latency]\np99_ms = 50\n[criteria.security]")
)
INPUTS = ("income", "visits", "age")
Table = pd.DataFrame
Draw = np.random.Generator


def offers(rng: Draw, rows: int = 12_000) -> Table:
    "A table whose target a logistic regression can learn, the same way for everybody."
    numbers = {name: rng.normal(size=rows) for name in INPUTS}
    score = 1.8 * numbers["income"] - 1.2 * numbers["visits"] + 0.3 * numbers["age"]
    accepted = rng.uniform(size=rows) < 1 / (1 + np.exp(-score))
    days = pd.Timestamp(TODAY) - pd.to_timedelta(np.sort(rng.integers(2, 400, rows))[::-1], unit="D")
    sex = rng.choice(["f", "m"], rows)
    return pd.DataFrame({"day": days, **numbers, "sex": sex, "accepted": np.where(accepted, "yes", "no")})


@dataclass(frozen=True)
class Poc:
    "A proof of concept; what is not named is sound."

    table: Callable[[Table, Draw], Table] = lambda table, rng: table
    inputs: Callable[[int], tuple[str, ...]] = lambda seed: INPUTS  # what the run of a seed learns from
    said: Callable[[np.ndarray], np.ndarray] = lambda p: p  # what becomes of its probabilities
    latency_ms: float = 4.0
    code: str = "income = 1"
    left: Callable[[Workspace], None] = lambda ws: None  # what else lies in the workspace


def probabilities(train: Table, rows: Table, inputs: tuple[str, ...], said: Callable[..., np.ndarray]) -> np.ndarray:
    "Fitted on train, asked about rows."
    middle = train[list(inputs)].median()
    fitted = LogisticRegression().fit(train[list(inputs)].fillna(middle), train["accepted"])
    p = said(fitted.predict_proba(rows[list(inputs)].fillna(middle))[:, 1])
    return np.column_stack([1 - p, p])


def fake_run(poc: Poc) -> Callable[[Workspace, int], Path]:
    "What stands for the notebook."

    def run(ws: Workspace, seed: int) -> Path:
        train, valid = (pd.read_parquet(ws.split(name)) for name in ("train", "valid"))
        drawn = train.sample(frac=1.0, replace=True, random_state=seed)
        folder = ws.runs / f"seed-{seed}"
        folder.mkdir(parents=True)
        write_json(folder / "poc.ipynb", {"cells": []})
        model = probabilities(drawn, valid, poc.inputs(seed), poc.said)
        simple = probabilities(drawn, valid, ("visits",), poc.said)
        columns = {
            "p.no": model[:, 0],
            "p.yes": model[:, 1],
            "baseline.p.no": simple[:, 0],
            "baseline.p.yes": simple[:, 1],
        }
        pd.DataFrame(columns).to_parquet(folder / "predictions.parquet")
        return folder

    return run


def trial(ws: Workspace, poc: Poc, rng: Draw) -> None:
    "The candidate's answers to the held-out rows, and the figures of a trial."
    train, test = (pd.read_parquet(ws.split(name)) for name in ("train", "test"))
    p = probabilities(train, test, poc.inputs(0), poc.said)
    answers = {
        "row": np.arange(len(test)),
        "label": np.where(p[:, 1] > 0.5, "yes", "no"),
        "p.no": p[:, 0],
        "p.yes": p[:, 1],
    }
    pd.DataFrame(answers).to_parquet(predictions_file(ws))
    load = Load(tuple(rng.gamma(4, poc.latency_ms / 4, 600)), (), 6.0, 100.0)
    facts = (
        *latency_facts(load, load_frozen(ws).charter),
        Fact("integration.pass_rate", 1.0, n=9),
        Fact("rollback.duration", 0.4, "s", n=2),
    )
    write_evidence(ws, Evidence("export", data={"candidate": {"id": "b" * 64, "path": "bundles/offers-bbbbbbbbbbbb"}}))
    write_evidence(ws, Evidence("trial", facts))


def lived(folder: Path, poc: Poc, seed: int, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    "Everything before the scorecard."
    ws, rng = Workspace(folder), np.random.default_rng(seed)
    for path in (ws.root / "data", ws.notebook.parent):
        path.mkdir(parents=True)
    poc.table(offers(rng), rng).to_csv(ws.root / "data" / "offers.csv", index=False)
    ws.charter_file.write_text(CHARTER)
    ws.approvers_file.write_text("")
    write_json(ws.root / "known.json", {"advisories": []})
    write_json(ws.notebook, {"cells": [{"cell_type": "code", "id": "a", "metadata": {}, "source": [poc.code]}]})
    freeze(ws, "C. Petit")
    record_stage(ws, "charter")
    run_data(ws, TODAY)
    monkeypatch.setattr(runs, "run_notebook", fake_run(poc))
    monkeypatch.setattr(runs, "track_run", lambda *_: "")
    run_poc(ws)
    record_stage(ws, "poc")
    trial(ws, poc, rng)
    poc.left(ws)
    return ws


def states(ws: Workspace) -> dict[str, str]:
    return {c["id"]: c["state"] for c in run_score(ws).data["criteria"]}


# The defects


def leaked_target(table: Table, rng: Draw) -> Table:
    return table.assign(contract_no=np.where(table["accepted"] == "yes", "signed", "none"))


def leaked_time(table: Table, rng: Draw) -> Table:
    return table.assign(closed=table["day"] + pd.to_timedelta(rng.integers(1, 30, len(table)), unit="D"))


def copied_over_the_split(table: Table, rng: Draw) -> Table:
    late, values = np.flatnonzero(np.arange(len(table)) >= 0.76 * len(table)), table.drop(columns="day")
    again = rng.choice(late, len(late) // 5, replace=False)
    copied = table.copy()
    copied.loc[again, values.columns] = values.iloc[rng.integers(0, len(table) // 2, len(again))].to_numpy()
    return copied.infer_objects()


def gaps(table: Table, rng: Draw) -> Table:
    return table.assign(age=table["age"].where(rng.uniform(size=len(table)) > 0.7))


def unfair(table: Table, rng: Draw) -> Table:
    swap = (table["sex"] == "m") & (rng.uniform(size=len(table)) < 0.18)
    return table.assign(accepted=np.where(swap, np.where(table["accepted"] == "yes", "no", "yes"), table["accepted"]))


def old(table: Table, rng: Draw) -> Table:
    return table.assign(day=table["day"] - pd.Timedelta(days=200))


def pickled(ws: Workspace) -> None:
    folder = ws.root / "src" / "offers"
    folder.mkdir(parents=True)
    joblib.dump({"model": 1}, folder / "model.pkl")


SECRET = 'password = "hV7#kQ2!mZ9pLx"'
DEFECTS: dict[str, tuple[str, Poc]] = {
    "leaked target": ("data_quality", Poc(leaked_target)),
    "leaked time": ("data_quality", Poc(leaked_time)),
    "rows over the split": ("data_quality", Poc(copied_over_the_split)),
    "missing data": ("data_quality", Poc(gaps)),
    "stale data": ("data_quality", Poc(old)),
    "unstable training": ("reproducibility", Poc(inputs=lambda seed: INPUTS if seed == 0 else INPUTS[seed % 2 :: 3])),
    "slow model": ("latency", Poc(latency_ms=80.0)),
    "unfair subgroup": ("fairness", Poc(unfair)),
    "miscalibrated": ("performance", Poc(said=lambda p: p**3)),
    "secret in the notebook": ("security", Poc(code=SECRET)),
    "pickle": ("security", Poc(left=pickled)),
}


@pytest.mark.parametrize("name", DEFECTS)
def test_a_defect_in_the_making_changes_its_own_criterion_and_no_other(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    criterion, poc = DEFECTS[name]
    found = states(lived(tmp_path / "poc", poc, list(DEFECTS).index(name), monkeypatch))
    assert found.pop(criterion) in (CONDITIONAL, NO_GO)
    assert set(found.values()) == {GO}, found


@pytest.mark.parametrize("seed", range(12))
def test_a_clean_twin_is_a_go(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = lived(tmp_path / "poc", Poc(), seed, monkeypatch)
    assert states(ws) == dict.fromkeys(CRITERIA, GO)
    assert run_gate(ws, datetime.now(UTC).date()).state == GO


def test_a_charter_changed_afterwards_is_judged_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ws = lived(tmp_path / "poc", Poc(), 11, monkeypatch)
    ws.charter_file.write_text(CHARTER.replace("0.75", "0.70"))
    freeze(ws, "C. Petit")
    record_stage(ws, "charter")
    with pytest.raises(Refused, match=r"performance\.threshold was 0\.75 and is 0\.7"):
        run_score(ws)
