"What is judged beside the promise, on a workspace whose stages have left good evidence."

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_nb.bundle.contents import choose_thresholds
from mlops_nb.bundle.parts import Segment, Thresholds
from mlops_nb.charter import Charter, parse_charter
from mlops_nb.core.errors import InputError
from mlops_nb.core.facts import Fact
from mlops_nb.core.files import read_json, write_json
from mlops_nb.core.messages import Message, catalogue
from mlops_nb.core.workspace import Evidence, Workspace, evidence_file, write_evidence
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.poc.case import champion_file, predictions_file
from mlops_nb.poc.operating import Operating
from mlops_nb.poc.scorecard import run_score
from mlops_nb.poc.verdict import CONDITIONAL, CRITERIA, GO, NO_GO, NOT_ASSESSED
from mlops_nb.serving.scoring import thresholds_of
from tests.scored_workspace import CHARTER, NAMES, Story, make

CHAMPION = {"id": "c" * 64, "version": "cccccccccccc", "why": ""}


def states(evidence: Evidence) -> dict[str, str]:
    return {c["id"]: c["state"] for c in evidence.data["criteria"]}


def reason(evidence: Evidence, criterion: str) -> str:
    "Its text in English; every language has one without holes."
    told = next(c for c in evidence.data["criteria"] if c["id"] == criterion)["reason"]
    for lang in ("en", "fr"):
        text = Message.from_dict(told).text(lang)
        assert not {"{", "score."} & set(text.split()), text
    return Message.from_dict(told).text()


def with_champion(ws: Workspace, p: np.ndarray, told: dict[str, str] | None = None) -> None:
    "A champion that gave these probabilities to the held-out rows."
    label = NAMES[(p > 0.5).astype(int)]
    pd.DataFrame({"row": range(len(p)), "label": label, "p.no": 1 - p, "p.yes": p}).to_parquet(champion_file(ws))
    write_evidence(ws, Evidence("probe", (), {"champion": told or CHAMPION}))


def served(ws: Workspace) -> np.ndarray:
    "Probabilities that the candidate gave."
    return pd.read_parquet(predictions_file(ws))["p.yes"].to_numpy()


def sharper(ws: Workspace) -> np.ndarray:
    "Probabilities of a model that knows more than the candidate."
    truth = (pd.read_parquet(ws.split("test"))["y"] == "yes").to_numpy()
    return np.clip(0.6 * served(ws) + 0.4 * truth, 0.001, 0.999)


def test_an_equal_champion_stops_nothing(tmp_path: Path) -> None:
    ws = make(tmp_path)
    with_champion(ws, np.clip(served(ws) + np.random.default_rng(0).normal(0, 0.01, 1500), 0, 1))
    found = run_score(ws)
    assert states(found) == dict.fromkeys(CRITERIA, GO)
    gained = found.fact("champion.gain")
    assert (gained.state, gained.threshold) == (GO, -0.01)
    assert {f.id for f in found.facts if f.key == "fact.champion.gain"} >= {
        "champion.gain/sex=f",
        "champion.gain/sex=m",
    }
    assert found.data["champion"]["state"] == GO
    assert champion_file(ws).name in " ".join(e["path"] for e in found.data["criteria"][0]["evidence"])


def test_a_better_champion_is_a_no_go_on_performance_alone(tmp_path: Path) -> None:
    ws = make(tmp_path)
    with_champion(ws, sharper(ws))
    found = run_score(ws)
    assert states(found) == dict.fromkeys(CRITERIA, GO) | {"performance": NO_GO}
    assert "falls behind the champion" in reason(found, "performance")


def test_a_segment_that_the_champion_serves_better_is_a_condition(tmp_path: Path) -> None:
    ws = make(tmp_path, Story(charter=CHARTER + "[champion]\nmargin = 0.12\n"))
    hit = (pd.read_parquet(ws.split("test"))["sex"] == "f").to_numpy()
    with_champion(ws, np.where(hit, sharper(ws), served(ws)))
    found = run_score(ws)
    assert states(found)["performance"] == CONDITIONAL
    assert '"sex=f"' in reason(found, "performance")


def test_a_champion_that_could_not_answer_is_a_condition_and_the_candidate_is_not_its_own(tmp_path: Path) -> None:
    ws = make(tmp_path)
    with_champion(ws, served(ws), CHAMPION | {"why": "its task is regression, not binary"})
    found = run_score(ws)
    assert states(found)["performance"] == CONDITIONAL
    assert "its task is regression" in reason(found, "performance")
    assert found.fact("champion.gain").state == NOT_ASSESSED
    with_champion(ws, sharper(ws), CHAMPION | {"id": "b" * 64})
    assert states(run_score(ws))["performance"] == GO


def test_a_named_champion_that_nobody_asked_is_a_condition(tmp_path: Path) -> None:
    ws = make(tmp_path, Story(charter=CHARTER + '[champion]\nbundle = "bundles/old"\n'))
    assert "probe has not asked it" in reason(run_score(ws), "performance")


def test_rows_that_were_not_answered_are_left_out_of_the_comparison(tmp_path: Path) -> None:
    ws = make(tmp_path)
    with_champion(ws, np.where(np.arange(1500) < 200, 1 - served(ws), served(ws)))
    pd.read_parquet(predictions_file(ws)).iloc[200:].to_parquet(predictions_file(ws))
    found = run_score(ws)
    assert found.fact("champion.gain").value == 0
    assert found.fact("champion.gain").n == 1300


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.unlink(), r"champion\.predictions\.parquet: not there; run 'mlops-nb probe' again"),
        (lambda f: pd.read_parquet(f).iloc[5:].to_parquet(f), "1495 answers to 1500 test rows"),
        (lambda f: pd.read_parquet(f).drop(columns="p.yes").to_parquet(f), r"no column 'p\.yes'"),
    ],
)
def test_answers_of_a_champion_that_do_not_fit_are_one_clear_error(
    tmp_path: Path, change: Callable[[Path], None], message: str
) -> None:
    ws = make(tmp_path)
    with_champion(ws, served(ws))
    change(champion_file(ws))
    with pytest.raises(InputError, match=message):
        run_score(ws)


# Thresholds


def with_thresholds(ws: Workspace, **doc: Any) -> None:
    folder = ws.bundles / "mini-bbbbbbbbbbbb"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(
        folder / "thresholds.json", {"default": 0.5, "positive": "yes", "segments": [], "method": "f1-valid"} | doc
    )


def test_thresholds_that_the_service_applied_are_told_and_stop_nothing(tmp_path: Path) -> None:
    ws = make(tmp_path)
    with_thresholds(ws)
    found = run_score(ws)
    assert states(found) == dict.fromkeys(CRITERIA, GO)
    assert (found.fact("operating.threshold").value, found.fact("operating.applied").value) == (0.5, 1.0)


def test_a_service_that_cuts_elsewhere_is_found_out(tmp_path: Path) -> None:
    ws = make(tmp_path)
    with_thresholds(ws, segments=[{"column": "sex", "value": "f", "threshold": 0.8}])
    found = run_score(ws)
    assert states(found) == dict.fromkeys(CRITERIA, GO) | {"performance": CONDITIONAL}
    assert "does not cut where it should" in reason(found, "performance")


def test_a_recall_floor_that_the_test_rows_contradict_is_a_condition(tmp_path: Path) -> None:
    ws = make(tmp_path, Story(charter=CHARTER + '[operating_point]\nobjective = "recall"\nrecall = 0.9\n'))
    with_thresholds(ws, segments=[{"column": "sex", "value": "f", "threshold": 0.5}])
    found = run_score(ws)
    assert states(found) == dict.fromkeys(CRITERIA, GO) | {"performance": CONDITIONAL}
    assert found.fact("operating.recall").threshold == 0.9
    assert found.fact("operating.recall/sex=f").state == CONDITIONAL
    assert "the recall does not" in reason(found, "performance")


def test_costs_are_told_in_money(tmp_path: Path) -> None:
    more = '[operating_point]\nobjective = "cost"\nfalse_positive = 1\nfalse_negative = 9\n[costs]\ncurrency = "CHF"\n'
    ws = make(tmp_path, Story(charter=CHARTER + more))
    table = pd.read_parquet(predictions_file(ws))
    table.assign(label=NAMES[(table["p.yes"] >= 0.1).astype(int)]).to_parquet(predictions_file(ws))
    with_thresholds(ws, default=0.1, method="cost-valid")
    found = run_score(ws)
    assert found.fact("operating.saving").low > 0  # type: ignore[operator]
    assert found.fact("operating.cost").unit == "CHF"
    assert found.fact("operating.cost_at_half").value > found.fact("operating.cost").value  # type: ignore[operator]


BINARY = Contract(
    (
        Column("old", "number"),
        Column("since", "datetime"),
        Column("plan", "category", levels=("a", "b"), nullable=True),
        Column("paid", "boolean"),
    ),
    Target("y", "binary", ("no", "yes"), "yes"),
)


def charter(**sections: Any) -> Charter:
    doc = {
        "problem": {"name": "churn"},
        "data": {"file": "t.csv", "target": "y", "task": "binary"},
        "criteria": {"performance": {"threshold": 0.8}},
    }
    return parse_charter(doc | sections, "charter.toml")


def rows(n: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "old": rng.choice([0.0, 1.0, None], n),
        "since": ["2024-05-01"] * n,
        "plan": rng.choice(["a", "b", None], n),
        "paid": rng.random(n) < 0.5,
    }


def chosen(*segments: str) -> tuple[Thresholds, Any]:
    "Thresholds for those segments, and the rows they were chosen on."
    encoded, rng = BINARY.encode(rows(2000)), np.random.default_rng(0)
    p = rng.random(2000)
    truth = (rng.random(2000) < p ** (1 + (encoded["old"] == 1))).astype(np.int64)
    point = {"objective": "cost", "false_positive": 1, "false_negative": 3, "segments": segments}
    given = charter(operating_point=point)
    return choose_thresholds(BINARY, given, truth, np.column_stack([1 - p, p]), encoded), encoded


@pytest.mark.parametrize(
    ("segments", "levels"),
    [
        (["paid"], {"paid=true", "paid=false"}),
        (["plan"], {"plan=a", "plan=b", "plan=__null__"}),
        (["old"], {"old=0", "old=1", "old=nan"}),
        (["plan", "paid"], {"plan=a", "plan=b", "plan=__null__"}),  # nobody is left for the second column
    ],
)
def test_the_service_cuts_where_the_thresholds_were_chosen_and_judged(segments: list[str], levels: set[str]) -> None:
    found, encoded = chosen(*segments)
    assert {f"{s.column}={s.value}" for s in found.segments} == levels
    served = thresholds_of(found, encoded, 2000)
    judged = Operating.from_dict(found.to_dict())
    assert served is not None
    assert judged is not None
    assert (served == judged.at(encoded, 2000)).all()
    assert len(set(served)) >= 2
    assert Thresholds.from_dict(found.to_dict()) == found


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"objective": "cost", "false_positive": 1}, "needs false_positive and false_negative above 0"),
        ({"objective": "recall"}, "needs the least recall"),
        ({"objective": "profit"}, "'auto', 'cost', 'recall' or 'f1'"),
    ],
)
def test_a_charter_that_does_not_say_enough_is_refused(point: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        charter(operating_point=point)


def test_a_segment_of_many_levels_is_refused() -> None:
    n = 300
    encoded = BINARY.encode({**rows(n), "old": np.arange(n, dtype=float)})
    truth, p = (np.arange(n) % 2).astype(np.int64), np.linspace(0, 1, n)
    with pytest.raises(InputError, match="'old' has 300 levels"):
        choose_thresholds(
            BINARY, charter(operating_point={"segments": ["old"]}), truth, np.column_stack([1 - p, p]), encoded
        )


def test_segments_agree_on_every_spelling() -> None:
    thresholds = Thresholds(
        0.5, "yes", (Segment("old", "1", 0.1), Segment("paid", "true", 0.2), Segment("plan", "a", 0.3))
    )
    encoded = BINARY.encode({"old": [1, 0, None, 1], "since": [None] * 4, "plan": ["a", "a", None, "b"], "paid": [True, True, False, False]})  # fmt: skip
    served = thresholds_of(thresholds, encoded, 4)
    judged = Operating.from_dict(thresholds.to_dict())
    assert served is not None
    assert judged is not None
    assert served.tolist() == judged.at(encoded, 4).tolist() == [0.1, 0.2, 0.5, 0.1]


# Rows


def filtered(ws: Workspace) -> None:
    table = pd.read_parquet(ws.split("train"))
    table[table["sex"] == "f"].to_parquet(ws.split("train"))


def dated(ws: Workspace) -> None:
    "The target changes along a date that the charter does not name."
    for split in ("train", "valid", "test"):
        table = pd.read_parquet(ws.split(split))
        later = np.where(table["y"] == "yes", 400, 0) + np.arange(len(table)) % 300
        table.assign(since=pd.Timestamp("2024-01-01") + pd.to_timedelta(later, "D")).to_parquet(ws.split(split))
    doc = read_json(ws.contract_file)
    inputs = (Column("x", "number"), Column("sex", "category", levels=("f", "m")), Column("since", "datetime"))
    Contract(inputs, Target("y", "binary", ("no", "yes"), "yes")).save(ws.contract_file)
    assert read_json(ws.contract_file) != doc


@pytest.mark.parametrize(("change", "told"), [(filtered, "differ though the split is random"), (dated, "leak time")])
def test_rows_that_were_not_dealt_at_random_are_a_condition(
    tmp_path: Path, change: Callable[[Workspace], None], told: str
) -> None:
    ws = make(tmp_path)
    change(ws)
    found = run_score(ws)
    assert states(found) == dict.fromkeys(CRITERIA, GO) | {"data_quality": CONDITIONAL}
    assert told in reason(found, "data_quality")


def test_drift_under_a_split_by_time_is_told_and_stops_nothing(tmp_path: Path) -> None:
    ws = make(tmp_path)
    filtered(ws)
    write_evidence(ws, Evidence("data", _quality(ws), {"split_by": "time"}))
    found = run_score(ws)
    assert states(found)["data_quality"] == GO
    assert any(w.key == "score.shift.time" for w in found.warnings)


def _quality(ws: Workspace) -> tuple[Fact, ...]:
    return tuple(Fact.from_dict(f) for f in read_json(evidence_file(ws, "data"))["facts"])


def test_labels_that_confident_answers_contradict_are_a_warning(tmp_path: Path) -> None:
    ws = make(tmp_path, Story(rows=3000))
    valid = pd.read_parquet(ws.split("valid"))
    turned = np.random.default_rng(0).random(3000) < 0.05
    other = np.where(valid["y"] == "yes", "no", "yes")
    valid.assign(y=np.where(turned, other, valid["y"])).to_parquet(ws.split("valid"))
    found = run_score(ws)
    assert states(found) == dict.fromkeys(CRITERIA, GO)
    assert any(w.key == "score.doubts" for w in found.warnings)
    assert turned[found.data["doubts"]].mean() > 0.5
    assert found.fact("quality.doubts").value > 2 * found.fact("quality.doubts_expected").value  # type: ignore[operator]


def test_the_learning_curve_of_the_probe_stands_beside_the_promise(tmp_path: Path) -> None:
    ws = make(tmp_path)
    told = Message("score.learning.none", {"why": "the training rows are too few to take parts of them"})
    facts = (Fact("learning.doubling", 0.02, low=0.01, high=0.03), Fact("robustness.loss/noise", 0.0))
    write_evidence(ws, Evidence("probe", facts, {"learning": told.to_dict()}))
    found = run_score(ws)
    ids = [f.id for f in found.facts]
    assert len(ids) == len(set(ids))
    assert "learning.doubling" in found.data["criteria"][0]["facts"]
    assert "no learning curve" in " ".join(w.text() for w in found.warnings)


def test_undecided_fairness_says_how_many_rows_would_tell(tmp_path: Path) -> None:
    found = run_score(make(tmp_path, Story(rows=160)))
    assert states(found)["fairness"] == CONDITIONAL
    need = found.fact("fairness.rows_needed/sex")
    assert need.value > need.n  # type: ignore[operator]
    assert any(w.key == "score.fairness.power" for w in found.warnings)


def test_the_seeds_part_is_judged_where_the_parts_were_told(tmp_path: Path) -> None:
    ws = make(tmp_path, Story(seeds=(0.84, 0.70, 0.77)))
    runs = tuple(Fact.from_dict(f) for f in read_json(evidence_file(ws, "poc"))["facts"])
    assert states(run_score(ws))["reproducibility"] == NO_GO
    seed = Fact("stability.seed", 0.004, low=0.0, high=0.015, level=0.9, method="anova-williams", n=3)
    write_evidence(ws, Evidence("poc", (*runs, seed, Fact("stability.residual", 0.07)), {"seeds": []}))
    found = run_score(ws)
    assert states(found)["reproducibility"] == GO
    card = next(c for c in found.data["criteria"] if c["id"] == "reproducibility")
    assert card["facts"][:3] == ["stability.seed", "stability.residual", "reproducibility.spread"]


def test_every_new_figure_has_a_name_in_both_languages() -> None:
    keys = {
        *(f"fact.stability.{k}" for k in ("seed", "rows", "residual")),
        *(f"fact.operating.{k}" for k in ("threshold", "applied", "cost", "cost_at_half", "saving", "recall")),
        *(f"fact.learning.{k}" for k in ("doubling", "next_doubling", "value")),
        *(f"fact.quality.{k}" for k in ("shift", "untimed", "future_rows", "later", "conflicts", "doubts")),
        "fact.champion.gain",
        "fact.fairness.rows_needed",
    }
    for lang in ("en", "fr"):
        assert not keys - set(catalogue(lang))
