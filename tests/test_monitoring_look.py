"Looks at a production log that no window was announced to."

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.monitoring.alerts import symptoms_of
from mlops_nb.monitoring.hourly import look_by_hour
from mlops_nb.monitoring.look import look_at, spans, window_name, window_start
from mlops_nb.monitoring.policy import Indicator, LookPlan, Policy
from mlops_nb.monitoring.stage import Setting
from mlops_nb.monitoring.watch import _segment_lines, seen_of
from mlops_nb.stats.profiles import with_segments
from tests.monitored_log import START, draw, leaving_out, log_table, outcomes_table, setting, write, write_day

SETTING = setting()


def at(day: float, hours: float = 6) -> Any:
    return START + timedelta(days=day, hours=hours)


def states(look: Any) -> dict[str, str]:
    return {d["name"]: d["state"] for d in look.documents}


def test_days_are_found_and_judged_without_being_told(tmp_path: Path) -> None:
    for day in range(4):
        write_day(tmp_path, day, 400, factor=1.4 if day == 2 else 1.0)
    look = look_at(tmp_path, SETTING, at(4))
    assert list(states(look)) == ["2026-01-05", "2026-01-06", "2026-01-07", "2026-01-08", "2026-01-09"]
    changed = look.documents[2]
    assert changed["drift"]["drifted"] == ["age", "answer.p.Yes"]
    assert [d["drift"]["drifted"] for d in look.documents[:2]] == [[], []]
    assert {f.basis for f in look.facts} == {"measured"}
    assert changed["layers"]["model"]["labelled"] == 400
    assert look.documents[-1]["rows"] == 0, "the day that has begun"
    json.dumps(look.documents, allow_nan=False)


def test_a_column_that_the_log_leaves_out_is_not_assessed(tmp_path: Path) -> None:
    "Told to leave it out since noon of the third day; never 'missing values drifted', in the hourly looks neither."
    rng = np.random.default_rng(7)
    for day in range(5):
        halves = [log_table(draw(rng, 200), START + timedelta(days=day, hours=h)) for h in (0, 1)]
        for i, half in enumerate(halves):
            hidden = day + i / 2 >= 2.5
            write(tmp_path, "predictions", leaving_out(half, "age") if hidden else half, at(day, 0), f"{i}-000000")
    look = look_at(tmp_path, SETTING, at(5))
    before, changing, after = (look.documents[i] for i in (1, 2, 3))
    for doc in (changing, after):
        assert doc["drift"]["drifted"] == []
        assert doc["diagnosis"] == []
        assert "age" not in [f["name"] for f in doc["drift"]["features"]]
        assert [n["args"]["column"] for n in doc["drift"]["notes"] if n["key"] == "drift.note.withheld"] == ["age"]
        assert next(f["value"] for f in doc["facts"] if f["id"].startswith("window.nulls/")) < 0.1
    assert "age" in [f["name"] for f in before["drift"]["features"]]
    hours = look_by_hour(tmp_path, SETTING.reference, SETTING.bundle.version, at(5), tmp_path / "hours.npz")
    assert hours is not None
    assert hours.alarms == ()


def by_plan() -> Setting:
    "The setting of a bundle whose charter names the plan as a segment."
    drawn = draw(np.random.default_rng(99), 5000)
    inputs = {"age": drawn["age"].astype("f4"), "plan": drawn["plan"], "paperless": drawn["paperless"]}
    inputs["since"] = np.array(drawn["since"], "datetime64[D]").astype(np.int64)
    parts = {f"plan={p}": drawn["plan"] == p for p in ("a", "b")}
    own = with_segments(
        replace(SETTING.reference, columns={n: SETTING.reference.columns[n] for n in inputs}), inputs, parts
    )
    return replace(SETTING, reference=replace(SETTING.reference, segments=own.segments))


def test_each_segment_is_judged_and_a_small_one_unsettles_nobody(tmp_path: Path) -> None:
    "On the third day the plans change places in a column that keeps its shares."
    rng = np.random.default_rng(11)
    for day, rows in enumerate((600, 240, 600)):
        drawn = draw(rng, rows)
        if day == 2:
            swapped = (drawn["plan"] == "b") | (rng.random(rows) < 1 / 6)
            drawn["paperless"] = np.where(swapped, "true", "false")
        write(tmp_path, "predictions", log_table(drawn, at(day, 0)), at(day, 0))
    steady, few, swapped = look_at(tmp_path, by_plan(), at(2, 23.9)).documents
    assert steady["layers"]["data"]["segments"] == {
        "state": "stable",
        "parts": {"plan=a": "stable", "plan=b": "stable"},
    }
    assert (few["layers"]["data"]["segments"]["parts"]["plan=b"], few["drift"]["verdict"]) == ("inconclusive", "stable")
    assert few["layers"]["data"]["state"] == "stable"
    assert (swapped["drift"]["verdict"], swapped["drift"]["drifted"]) == ("drift", [])
    assert swapped["layers"]["data"]["state"] == "drift"
    (found,) = swapped["diagnosis"]
    assert (found["columns"], found["action"]) == (["plan=a: paperless", "plan=b: paperless"], "wait-labels")
    told = symptoms_of(swapped, 0.05)["drift"]
    assert told is not None
    assert told.reasons[0].text() == "changed columns (2): plan=a: paperless, plan=b: paperless"
    (line,) = _segment_lines(few, "en")
    assert line.startswith("  By segment: plan=a stable · plan=b inconclusive (")
    assert not [*_segment_lines(look_at(tmp_path, SETTING, at(0, 23.9)).documents[0], "en")], "an older bundle has none"


def test_a_segment_the_log_leaves_out_is_not_judged(tmp_path: Path) -> None:
    write(
        tmp_path, "predictions", leaving_out(log_table(draw(np.random.default_rng(8), 400), at(0, 0)), "plan"), at(0, 0)
    )
    (doc,) = look_at(tmp_path, by_plan(), at(0, 23.9)).documents
    assert doc["layers"]["data"]["segments"] == {"state": "not-assessed", "parts": {}}
    assert doc["drift"]["verdict"] == "stable"


def test_looking_again_sees_the_same(tmp_path: Path) -> None:
    for day in range(3):
        write_day(tmp_path, day, 200)
    first, second = (look_at(tmp_path, SETTING, at(3, hours)) for hours in (1, 9))
    assert first.complete == second.complete


def test_outcomes_that_come_late_change_an_old_window(tmp_path: Path) -> None:
    table = write_day(tmp_path, 0, 500, told=0.0)
    write_day(tmp_path, 1, 500)
    before = look_at(tmp_path, SETTING, at(2)).documents[0]
    assert before["layers"]["model"]["promise"] == "not-assessed"
    rng = np.random.default_rng(5)
    guesses = rng.choice(["Yes", "No"], 500).tolist()  # nothing the model says is true
    write(
        tmp_path, "outcomes", outcomes_table(table["prediction_id"].to_pylist(), guesses, at(2)), at(2), "late-000000"
    )
    after = look_at(tmp_path, SETTING, at(3)).documents[0]
    assert after["layers"]["model"]["promise"] == "no-go"
    delay = next(f for f in after["facts"] if f["id"].startswith("window.label_delay/"))
    assert 24 < delay["value"] < 60


def test_labels_of_some_rows_only_are_called_selective(tmp_path: Path) -> None:
    table = write_day(tmp_path, 0, 600, told=0.0)
    low = np.asarray(table["p.Yes"]) < 0.85
    ids = [i for i, k in zip(table["prediction_id"].to_pylist(), low, strict=True) if k]
    write(tmp_path, "outcomes", outcomes_table(ids, ["No"] * len(ids), at(1)), at(1))
    facts = look_at(tmp_path, SETTING, at(0, 23.9)).documents[0]["facts"]
    assert next(f for f in facts if f["id"].startswith("window.selective_labels/"))["state"] == "selective"


def test_a_day_without_traffic_is_not_stable(tmp_path: Path) -> None:
    write_day(tmp_path, 0)
    write_day(tmp_path, 2)
    look = look_at(tmp_path, SETTING, at(3))
    assert look.documents[1]["layers"]["data"]["state"] == "empty"
    assert states(look)["2026-01-06"] == "inconclusive"
    seen = seen_of(look, {}, SETTING.policy)
    assert seen[1].symptoms["volume"] is not None


def test_quiet_nights_wake_nobody(tmp_path: Path) -> None:
    for day in (0, 2, 4):
        write_day(tmp_path, day)
    seen = seen_of(look_at(tmp_path, SETTING, at(5)), {}, SETTING.policy)
    assert [s.window for s in seen if not s.symptoms] == ["2026-01-06", "2026-01-08"], "two gaps: nothing unusual"


def test_a_log_that_fell_silent_is_one_alert_not_three(tmp_path: Path) -> None:
    write_day(tmp_path, 0)
    look = look_at(tmp_path, SETTING, at(3))
    seen = seen_of(look, {}, SETTING.policy)
    assert seen[-1].symptoms["silent"] is not None
    assert not [s for s in seen if s.symptoms.get("volume")]
    assert [n.key for n in look.notes] == ["look.silent"]


def test_another_version_and_a_shadow_are_not_judged(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    write(tmp_path, "predictions", log_table(draw(rng, 200), START, version="v0"), START)
    write_day(tmp_path, 1, 300)
    write(tmp_path, "predictions", log_table(draw(rng, 200, 9.0), at(1, 0), arm="shadow"), at(1), "1-000000")
    look = look_at(tmp_path, SETTING, at(2))
    assert [d["rows"] for d in look.documents] == [0, 300, 0]
    assert look.documents[0]["others"] == 200
    assert not [s for s in seen_of(look, {}, SETTING.policy) if s.symptoms.get("volume")]


def test_the_first_day_is_shown_while_it_is_open(tmp_path: Path) -> None:
    write_day(tmp_path, 0, 500, factor=2.0)
    look = look_at(tmp_path, SETTING, START + timedelta(hours=23))
    assert (look.documents[0]["open"], look.verdict) == (True, "drift")
    assert [n.key for n in look.notes] == ["look.only-open"]
    told = set(seen_of(look, {}, SETTING.policy)[0].symptoms)
    assert told <= {"silent", "hourly"}, "an open window tells nobody anything; the hours that are over do"


def test_revenue_that_falls_leaves_its_limits(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    for day in range(9):
        table = write_day(tmp_path, day, 300)
        ids, factor = table["prediction_id"].to_pylist(), 0.5 if day == 8 else 1.0
        paid = outcomes_table(ids, (rng.gamma(2, 10, 300) * factor).tolist(), at(day + 1), "revenue")
        write(tmp_path, "outcomes", paid, at(day + 1), f"r-{day:06d}")
    policy = Policy(kpi=(Indicator(name="revenue", kind="revenue"),), look=LookPlan(windows=20))
    look = look_at(tmp_path, setting(policy), at(9))
    kpis = [d["layers"]["business"]["kpis"][0] for d in look.complete]
    assert [k["state"] for k in kpis[:6]] == ["not-assessed"] * 6
    assert [k["state"] for k in kpis[6:]] == ["in-control", "in-control", "out-of-control"]
    assert abs(kpis[0]["value"] - 20) < 4


def test_no_log_and_a_broken_part_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no prediction was logged"):
        look_at(tmp_path, SETTING, at(1))
    write_day(tmp_path, 0)
    part = next(tmp_path.glob("predictions/*/*.parquet"))
    part.write_bytes(part.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"part-.*cannot be read"):
        look_at(tmp_path, SETTING, at(1))


def test_a_broken_part_between_two_good_days_is_one_line(tmp_path: Path) -> None:
    for day in range(3):
        write_day(tmp_path, day)
    next(tmp_path.glob("predictions/day=2026-01-06/*.parquet")).write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(InputError, match="cannot be read"):
        look_at(tmp_path, SETTING, at(3))


@pytest.mark.parametrize("every", ["hour", "day", "week", "month"])
def test_windows_touch_and_have_their_own_names(every: str) -> None:
    cut = spans(START - timedelta(days=400), at(3), LookPlan.model_validate({"every": every, "windows": 30}))
    assert all(a.end == b.start for a, b in itertools.pairwise(cut))
    assert len({s.name for s in cut}) == len(cut)
    assert all(s.name == window_name(window_start(s.end - timedelta(seconds=1), every), every) for s in cut)
