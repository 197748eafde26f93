"Advice rests on measurements: each figure against a count by hand, and silence where nothing was measured."

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_nb.charter import Charter, parse_charter, write_frozen
from mlops_nb.core.errors import InputError
from mlops_nb.core.facts import Fact
from mlops_nb.core.messages import LANGUAGES
from mlops_nb.core.settings import Settings
from mlops_nb.core.workspace import Evidence, Workspace, write_evidence
from mlops_nb.reporting import roi
from mlops_nb.reporting.material import open_material
from mlops_nb.value.savings import Machine, Used, idle_hours, machine_of, repeats, savings, used

START = datetime(2026, 11, 2, tzinfo=UTC)
MACHINE = Machine(0.001, 0.2, 5000.0, 1.5, 2.0, 0.003, 800, 600)


def charter(**more: object) -> Charter:
    doc = {
        "problem": {"name": "demo"},
        "data": {"file": "d.csv", "target": "y", "task": "binary"},
        "criteria": {"performance": {"threshold": 0.5}},
        "business": {"units_per_month": 3_600_000, "basis": "measured"},
        "costs": {"price_cpu_hour": 0.1, "price_gb_hour": 0.01},
    }
    return parse_charter({**doc, **more}, "demo")


def part(folder: Path, day: int, seconds: list[float], rows: list[tuple[float | None, str]], name: str = "0") -> Path:
    times = [START + timedelta(days=day, seconds=s) for s in seconds]
    columns = {"in.x": [r[0] for r in rows], "in.c": [r[1] for r in rows]}
    table = pa.table({"time": pa.array(times, pa.timestamp("us", "UTC")), **columns})
    place = folder / "predictions" / f"day={times[0].date()}" / f"part-{name}.parquet"
    place.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, place)
    return place


def test_idle_hours_are_those_of_whole_days_nights_and_empty_days_included(tmp_path: Path) -> None:
    for day, hours in {0: [0, 12], 1: [9, 10], 3: [0, 23], 4: [1]}.items():
        for n, hour in enumerate(hours):
            part(tmp_path, day, [3600.0 * hour + 5], [(1.0, "a")], str(n))
    assert idle_hours(tmp_path / "predictions") == (72, 72 - 4)  # days 1 to 3; nobody asked on day 2
    assert idle_hours(tmp_path / "nothing") == (0, 0)


def test_a_cache_keeps_from_when_it_was_kept(tmp_path: Path) -> None:
    same = (1.0, "a")
    part(tmp_path, 0, [0, 40, 70, 75], [same, same, same, (None, "a")])
    part(tmp_path, 0, [80, 90, 140], [(None, "a"), (2.0, "a"), same], "1")
    # 40 s is in time; at 70 s the row is kept anew; the row with a gap comes again; 140 s is 70 s later
    assert repeats(tmp_path / "predictions", 60) == (7, 2)
    assert repeats(tmp_path / "predictions", 71) == (7, 3)
    assert used(tmp_path, Settings(serve_cache_rows=10)).repeat_share is None


def test_a_part_that_is_damaged_is_named(tmp_path: Path) -> None:
    broken = part(tmp_path, 0, [0.0], [(1.0, "a")])
    broken.write_bytes(broken.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"part-0\.parquet: cannot be read"):
        repeats(tmp_path / "predictions", 60)


def test_each_figure_is_what_a_hand_computes() -> None:
    told = savings(charter(), MACHINE, Used(240, 60, 1000, 250), 200.0, Settings(serve_workers=2))
    standing, computing = 730 * (2 * 0.1 + 0.2 * 0.01), 3_600_000 * 0.001 / 3600 * 0.1
    amounts = {s.name: s.monthly for s in told.found}
    batch_hours = 3_600_000 / 5000 / 3600
    assert amounts["idle"] == pytest.approx(0.25 * standing)
    assert amounts["batch"] == pytest.approx(standing * (1 - batch_hours / 730))
    assert amounts["lite"] == pytest.approx(computing / 2)
    assert amounts["cache"] == pytest.approx(computing / 4)
    assert [s.name for s in told.found] == ["batch", "idle", "lite", "cache"]
    assert [s.name for s in told.found if s.worth] == ["batch", "idle"]
    assert {f.id for f in told.facts} == {"saving.standing", *(f"saving.{n}" for n in amounts)}


def test_what_was_not_measured_is_said_and_not_guessed() -> None:
    nothing = savings(charter(business={}), Machine(), Used(), 0.0, Settings())
    assert nothing.found == ()
    assert {m.key for m in nothing.unknown} == {f"saving.unknown.{k}" for k in ("idle", "batch", "lite", "cache")}
    slow = savings(charter(), Machine(0.001, lite_speed=0.9), Used(rows=10), 100.0, Settings())
    assert not {"lite", "cache"} & {s.name for s in slow.found}
    for lang in LANGUAGES:
        full = savings(charter(), MACHINE, Used(240, 60, 1000, 250), 200.0, Settings())
        assert not [s for s in full.found if "saving." in s.price.text(lang)]
        assert not [m for m in nothing.unknown if "saving." in m.text(lang)]


def test_no_batch_where_an_answer_is_wanted_at_once() -> None:
    hurried = charter(deployment={"answer_within_s": 2.0})
    assert "batch" not in {s.name for s in savings(hurried, MACHINE, Used(), 100.0, Settings()).found}
    patient = charter(deployment={"answer_within_s": 86_400.0})
    assert "batch" in {s.name for s in savings(patient, MACHINE, Used(), 100.0, Settings()).found}


def test_the_machine_is_read_from_trial_and_export() -> None:
    trial = [("trial.rows", 600), ("trial.cpu_s", 0.6), ("trial.rss_mib", 512.0), ("trial.rows_per_s", 7000.0)]
    export = (Fact("export.lite_speed", 1.5, "x"), Fact("export.lite_loss", 0.002, n=900))
    found = machine_of(Evidence("trial", tuple(Fact(k, v) for k, v in trial)), Evidence("export", export))
    assert found == Machine(0.001, 0.5, 7000.0, None, 1.5, 0.002, 900, 600)
    assert machine_of(None, None) == Machine()


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_page_shows_each_figure_once_with_what_it_costs_in_return(tmp_path: Path, lang: str) -> None:
    ws, told = Workspace(tmp_path), savings(charter(), MACHINE, Used(240, 60), 200.0, Settings())
    write_frozen(ws, charter())
    write_evidence(ws, Evidence("value", told.facts, {"currency": "EUR", "savings": told.to_dict()}))
    piece = roi.savings_section(open_material(tmp_path, "roi", lang))
    assert {f.id for f in told.facts} <= {f.id for f in piece.facts}
    assert piece.html.count("<tr>") == 1 + len(told.found)
    assert piece.html.count("<li>") == len(told.unknown)
    assert not re.search(r"\bsavings?\.", re.sub(r"<[^>]*>", " ", piece.html))
    write_evidence(ws, Evidence("value", (), {}))
    assert "<table" not in roi.savings_section(open_material(tmp_path, "roi", lang)).html
