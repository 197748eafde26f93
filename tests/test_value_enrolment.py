"An announced experiment from the server's files to a decision, and what bad input does to it."

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from mlops_nb.charter import freeze_file
from mlops_nb.cli.common import guarded
from mlops_nb.cli.main import app
from mlops_nb.core.errors import InputError
from mlops_nb.core.facts import Fact
from mlops_nb.core.workspace import Evidence, Workspace, write_evidence
from mlops_nb.ledger import Ledger
from mlops_nb.serving.parts import write_part
from mlops_nb.value.readout import Readout, read_experiment
from mlops_nb.value.registration import Experiment, load_experiment, register, registered
from mlops_nb.value.stage import run_value
from tests.value_charter import charter

START = datetime(2026, 1, 1, tzinfo=UTC)
STAMP = pa.timestamp("us", "UTC")
PLAN = """
name = "demo-1"
control = "old"
treatment = "new"
metric = "margin"
effect = 2.2
sd = 10.0
daily_units = 10
window_days = 10
covariate = "before"
correlation = 0.5
segments = ["plan"]
[guard_rails.complaints]
margin = 0.1
"""
CHARTER = charter("""[business]
value_per_action = 100.0
uptake = 0.5
uptake_low = 0.4
uptake_high = 0.6
units_per_month = 300
[costs]
items = [{item = "team", amount = 200.0}]
""")


class Story:
    "Ten customers a day for 70 days; the new version brings 5 more a customer. Tables may be bent before they are written."

    def __init__(self, days: int = 70, effect: float = 5.0) -> None:
        rng, n = np.random.default_rng(4), 10 * days
        at = [START + timedelta(days=i // 10, minutes=i % 10) for i in range(n)]
        treated, before = rng.random(n) < 0.5, rng.gamma(4, 5, n)
        margin = 20 + 0.5 * (before - 20) + rng.normal(0, 8, n) + effect * treated
        self.log: dict[str, Any] = {
            "prediction_id": [f"p{i}" for i in range(n)],
            "unit_id": [f"u{i}" for i in range(n)],
            "time": at,
            "version": np.where(treated, "new", "old").tolist(),
            "arm": np.where(treated, "challenger", "champion").tolist(),
            "in.before": before.tolist(),
            "in.plan": rng.choice(["a", "b"], n).tolist(),
        }
        late = [t + timedelta(days=9) for t in at]
        self.outcomes: list[dict[str, Any]] = [
            {"unit_id": f"u{i}", "time": late[i], "kind": "margin", "number": float(margin[i]), "currency": "EUR"}
            for i in range(n)
        ]
        self.outcomes += [
            {"unit_id": f"u{i}", "time": late[i], "kind": "complaints", "number": 1.0, "currency": None}
            for i in range(0, n, 12)
        ]

    def write(self, logs: Path) -> None:
        types = {"time": STAMP, "in.before": pa.float32()}
        log = {k: pa.array(v, types.get(k, pa.string())) for k, v in self.log.items()}
        write_part(logs / "predictions" / "day=2026-01-01" / "part-0-000000.parquet", pa.table(log))
        rows = sorted(self.outcomes, key=lambda o: o.get("received", o["time"]))
        told = {
            "prediction_id": pa.array([o.get("prediction_id") for o in rows], pa.string()),
            "unit_id": pa.array([o.get("unit_id") for o in rows], pa.string()),
            "time": pa.array([o["time"] for o in rows], STAMP),
            "kind": [o["kind"] for o in rows],
            "value": [o.get("value", "" if o["number"] is None else str(o["number"])) for o in rows],
            "number": pa.array([o["number"] for o in rows], pa.float64()),
            "currency": pa.array([o["currency"] for o in rows], pa.string()),
            "received": pa.array([o.get("received", o["time"]) for o in rows], STAMP),
        }
        write_part(logs / "outcomes" / "day=2026-01-01" / "part-0-000000.parquet", pa.table(told))


def workspace(root: Path, plan: str = PLAN, story: Story | None = None) -> Workspace:
    ws = Workspace(root)
    ws.charter_file.write_text(CHARTER)
    freeze_file(ws)
    (root / "experiment.toml").write_text(plan)
    register(ws, load_experiment(root / "experiment.toml"))
    (story or Story()).write(ws.logs)
    return ws


def notes(found: Readout) -> dict[str, dict[str, Any]]:
    return {n.key.rpartition(".")[2]: dict(n.args) for n in found.notes}


def test_from_the_log_to_a_result(tmp_path: Path) -> None:
    found = read_experiment(workspace(tmp_path))
    assert (found.state, found.winner, found.exit_code) == ("assessed", "treatment", 0)
    assert found.effect is not None
    assert found.effect.low is not None
    assert found.effect.high is not None
    assert found.effect.low < 5 < found.effect.high
    assert found.effect.kept < 0.9
    assert {r.effect.metric: r.state for r in found.rails} == {"complaints": "safe"}
    assert [s.metric for s in found.segments] == ["plan = a", "plan = b"]
    assert read_experiment(Workspace(tmp_path)).to_dict() == found.to_dict()
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_before_its_end_it_says_wait(tmp_path: Path) -> None:
    found = read_experiment(workspace(tmp_path, story=Story(effect=0.0)), until=START + timedelta(days=40))
    assert (found.state, found.exit_code) == ("running", 3)
    assert found.reason.key == "experiment.reason.running"


def test_what_was_served_before_the_announcement_is_not_read(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    story = Story(days=70)
    first = Story(days=70)
    first.log = {k: v[:200] for k, v in first.log.items()}
    first.write(ws.logs)
    (tmp_path / "experiment.toml").write_text(PLAN)
    plan = register(ws, load_experiment(tmp_path / "experiment.toml"))
    assert plan.seen_until == story.log["time"][199]
    story.write(ws.logs)
    assert notes(read_experiment(ws))["before"] == {"n": 200}


def bend_currencies(s: Story) -> None:
    s.outcomes[3]["currency"] = "USD"


def bend_word(s: Story) -> None:
    s.outcomes[3] |= {"number": None, "value": "soon"}


def bend_arm(s: Story) -> None:
    s.log["version"] = ["old"] * len(s.log["version"])


def bend_names(s: Story) -> None:
    s.log["unit_id"] = [None] * len(s.log["unit_id"])


def bend_inputs(s: Story) -> None:
    del s.log["in.plan"]


def bend_covariate(s: Story) -> None:
    s.log["in.before"] = [None] * len(s.log["in.before"])


@pytest.mark.parametrize(
    ("bend", "told"),
    [
        (bend_currencies, "several currencies: EUR, USD"),
        (bend_word, "outcome 'margin' says 'soon', which is no number"),
        (bend_arm, "arm 'treatment' (version new) has no rows in the log"),
        (bend_names, "no row of the log names a unit"),
        (bend_inputs, "no input 'plan' in the log"),
    ],
)
def test_what_cannot_be_read_is_one_clear_line_and_a_warning_of_the_stage(
    tmp_path: Path, bend: Callable[[Story], None], told: str
) -> None:
    story = Story(days=20)
    bend(story)
    ws = workspace(tmp_path, story=story)
    with pytest.raises(InputError) as caught:
        read_experiment(ws)
    assert told in str(caught.value)
    assert guarded(app, ["experiment", "read", str(tmp_path)]) == 2
    assert told in str(run_value(ws).warnings[-1])


def test_missing_outcomes_are_zero_or_left_out_as_announced(tmp_path: Path) -> None:
    story = Story()
    story.outcomes = [o for i, o in enumerate(story.outcomes) if o["kind"] != "margin" or i % 9]
    zero = read_experiment(workspace(tmp_path, story=story))
    assert "missing" not in notes(zero)
    (tmp_path / "second").mkdir()
    announced = PLAN.replace("window_days", 'absent = "missing"\nwindow_days')
    left_out = read_experiment(workspace(tmp_path / "second", announced, story))
    assert left_out.state == "assessed"
    assert 70 <= notes(left_out)["missing"]["units"] <= 78
    assert zero.effect is not None
    assert left_out.effect is not None
    assert zero.effect.mean_control < left_out.effect.mean_control - 1


def test_arms_that_miss_unlike_each_other_cannot_be_compared(tmp_path: Path) -> None:
    story = Story()
    new = {u for u, v in zip(story.log["unit_id"], story.log["version"], strict=True) if v == "new"}
    story.outcomes = [o for i, o in enumerate(story.outcomes) if o["unit_id"] not in new or i % 3]
    found = read_experiment(workspace(tmp_path, PLAN.replace("window_days", 'absent = "missing"\nwindow_days'), story))
    assert (found.state, found.reason.key, found.exit_code) == ("not-assessed", "experiment.reason.missing", 3)


def test_arms_that_were_not_filled_as_planned_are_void(tmp_path: Path) -> None:
    found = read_experiment(workspace(tmp_path, PLAN.replace("daily_units", "share = 0.3\ndaily_units")))
    assert (found.state, found.reason.key) == ("not-assessed", "roi.note.srm")


def test_units_in_both_arms_strangers_and_repeats_are_counted(tmp_path: Path) -> None:
    story = Story()
    story.log["unit_id"][5] = story.log["unit_id"][4]
    story.log["version"][4:6] = ["old", "new"]
    story.log["unit_id"][9] = None
    again = [{**o, "received": o["time"] + timedelta(days=1)} for o in story.outcomes[20:23]]
    again[0]["number"] = -3.0  # a correction
    outside = {**story.outcomes[30], "time": START + timedelta(days=60)}
    story.outcomes += [*again, {**story.outcomes[40], "unit_id": "nobody"}, outside]
    told = notes(read_experiment(workspace(tmp_path, story=story)))
    assert told["crossed"] == {"control": 1, "treatment": 0}
    assert told["unnamed"] == {"n": 1}
    assert told["repeated"] == {"n": 3}
    assert told["strangers"]["n"] >= 3  # and those of units 5 and 9, who are nobody now
    assert told["outside"] == {"n": 1}
    assert told["negative"]["n"] >= 1


def test_the_comparison_ends_when_the_winner_is_promoted(tmp_path: Path) -> None:
    story = Story()
    n = len(story.log["version"])
    story.log["version"][600:] = ["new"] * (n - 600)
    found = read_experiment(workspace(tmp_path, story=story))
    assert found.state == "assessed"
    assert found.srm_p > 0.1
    assert n - 600 <= notes(found)["after"]["n"] <= n - 595
    assert sum(found.arrivals) + notes(found)["after"]["n"] == n


def test_a_rail_nobody_reports_is_not_called_safe(tmp_path: Path) -> None:
    story = Story()
    story.outcomes = [o for o in story.outcomes if o["kind"] == "margin"]
    found = read_experiment(workspace(tmp_path, story=story))
    assert found.rails == ()
    assert notes(found)["silent"] == {"metric": "complaints"}
    assert notes(found)["rails_open"] == {"rails": "complaints"}


@pytest.mark.parametrize("kind", ["predictions", "outcomes"])
def test_a_damaged_part_is_one_clear_line(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    ws = workspace(tmp_path)
    next((ws.logs / kind).glob("day=*/part-*")).write_bytes(b"no parquet")
    assert guarded(app, ["experiment", "read", str(tmp_path)]) == 2
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "cannot be read" in told[0]


def test_an_unknown_covariate_changes_nothing(tmp_path: Path) -> None:
    story = Story()
    bend_covariate(story)
    found = read_experiment(workspace(tmp_path, story=story))
    assert found.state == "assessed"
    assert found.effect is not None
    assert found.effect.kept == 1.0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("effect = 2.2", "effect = 0.0"), "effect must not be 0"),
        (('treatment = "new"', 'treatment = "old"'), "control and treatment are the same"),
        (("sd = 10.0", "sd = -1.0"), "'sd' = -1.0"),
        (("[guard_rails.complaints]", "[guard_rails.margin]"), "'margin' cannot be its own guard-rail"),
        (("window_days", "window_dais"), "did you mean 'window_days'?"),
        (('name = "demo-1"', 'name = "Demo 1"'), "'name' = 'Demo 1'"),
    ],
)
def test_a_plan_that_says_nothing_is_refused(tmp_path: Path, change: tuple[str, str], told: str) -> None:
    (tmp_path / "experiment.toml").write_text(PLAN.replace(*change))
    with pytest.raises(InputError) as caught:
        load_experiment(tmp_path / "experiment.toml")
    assert told in str(caught.value)


def test_a_plan_cannot_be_changed_after_it_was_announced(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    first = registered(ws)
    changed = Experiment.model_validate({**first.experiment.model_dump(), "alpha": 0.2})
    with pytest.raises(InputError, match="registered with another plan"):
        register(ws, changed)
    (tmp_path / "experiment.toml").write_text(PLAN.replace("effect = 2.2", "effect = 1.0"))
    assert registered(ws).experiment.effect == 2.2
    assert read_experiment(ws).plan == first
    assert [e.data["sha256"] for e in Ledger(ws.ledger_file).entries("experiment.registered")] == [first.sha256]


def test_the_stage_takes_the_experiment_for_the_projection(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    write_evidence(
        ws, Evidence("score", (Fact("performance.precision", 0.5), Fact("performance.selection_rate", 0.2, n=800)))
    )
    evidence = run_value(ws)
    effect = evidence.fact("experiment.effect")
    monthly = evidence.fact("experiment.units_monthly")
    treated = Story().log["version"].count("new")
    assert isinstance(effect.value, float)
    assert isinstance(monthly.value, float)
    assert evidence.fact("roi.value_monthly").value == pytest.approx(effect.value * monthly.value)
    assert evidence.fact("realised.value_monthly").value < evidence.fact("roi.value_monthly").value
    assert evidence.fact("projection.ratio").basis == "assumed"
    assert evidence.data["decision"] == "keep"
    assert evidence.data["break_even"]["effect"] == pytest.approx(200 / monthly.value)
    assert [w["name"] for w in evidence.data["windows"]] == ["2026-01", "2026-02", "2026-03"]
    assert sum(w["value"] for w in evidence.data["windows"]) == pytest.approx(effect.value * treated)
    assert not [w for w in evidence.warnings if w.key.startswith("value.")]


def test_a_running_experiment_leaves_the_rates_and_says_so(tmp_path: Path) -> None:
    ws = workspace(tmp_path, PLAN.replace("effect = 2.2", "effect = 0.5"), Story(effect=0.0))
    write_evidence(
        ws, Evidence("score", (Fact("performance.precision", 0.5), Fact("performance.selection_rate", 0.2, n=800)))
    )
    evidence = run_value(ws)
    assert evidence.warnings[0].key == "value.experiment_running"
    assert evidence.fact("roi.ratio").basis == "assumed"


def test_the_commands_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(app, ["experiment", "draft", "fraud"]) == 0
    assert 'metric = "net_value"' in capsys.readouterr().out
    ws = Workspace(tmp_path)
    ws.charter_file.write_text(CHARTER)
    (tmp_path / "experiment.toml").write_text(PLAN)
    assert guarded(app, ["experiment", "plan", str(tmp_path / "experiment.toml"), "--json"]) == 0
    sized = json.loads(capsys.readouterr().out)
    assert guarded(app, ["experiment", "read", str(tmp_path)]) == 2
    assert "no experiment is registered" in capsys.readouterr().err
    assert guarded(app, ["experiment", "register", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == sized
    Story().write(ws.logs)
    assert guarded(app, ["experiment", "read", str(tmp_path), "--lang", "fr"]) == 0
    assert "traitement est supérieur" in capsys.readouterr().out
    assert guarded(app, ["experiment", "read", str(tmp_path), "--until", "soon"]) == 2
    assert guarded(app, ["experiment", "read", str(tmp_path), "--until", "2026-01-15", "--json"]) == 3
