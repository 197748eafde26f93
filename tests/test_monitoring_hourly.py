"The server's log by the hour: read once a day, whatever is kept or damaged."

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.data.columns import Column
from mlops_nb.data.contract import Contract, Target
from mlops_nb.monitoring import hourly
from mlops_nb.monitoring.hourly import hours_of_log, join_hours, look_by_hour, part_of, recent_alarms
from mlops_nb.monitoring.sequence import bins_of
from mlops_nb.stats.profiles import build_profile

COLUMNS = (Column("age", "number"), Column("plan", "category"), Column("name", "category", private=True))
CONTRACT = Contract(COLUMNS, Target("y", "regression"))


def values(n: int, seed: int, mean: float = 40.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    plan = rng.choice(np.array(["a", "b"], object), n)
    return {"age": rng.normal(mean, 10, n).astype("f4"), "plan": plan, "name": np.full(n, "Ann", object)}


PROFILE = build_profile(values(20_000, 0), CONTRACT)
BINS = [bins_of(n, p) for n, p in PROFILE.columns.items() if n != "name"]


def write_day(folder: Path, day: str, n: int = 480, version: str = "v1", mean: float = 40.0, part: str = "0") -> Path:
    own, rng = values(n, int(day[-2:]), mean), np.random.default_rng(int(day[-2:]))
    times = np.datetime64(day) + np.sort(rng.integers(0, 86_400, n)).astype("timedelta64[s]")
    rows = {"time": pa.array(times, pa.timestamp("us", "UTC")), "version": [version] * n, "arm": ["champion"] * n}
    table = pa.table(rows | {"in.age": own["age"], "in.plan": own["plan"], "in.name": pa.nulls(n, pa.string())})
    target = folder / "predictions" / f"day={day}" / f"part-{part}-0.parquet"
    target.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, target)
    return target


def test_days_that_are_over_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in ("2026-03-02", "2026-03-03", "2026-03-05"):
        write_day(tmp_path, day)
    read: list[str] = []
    whole = hourly.read_log
    monkeypatch.setattr(hourly, "read_log", lambda f, **k: read.append(str(k["since"])) or whole(f, **k))
    keep = tmp_path / "hours.npz"
    first = hours_of_log(tmp_path, BINS, "v1", datetime(2026, 3, 5, 18, tzinfo=UTC), keep)
    assert read == ["2026-03-02", "2026-03-03", "2026-03-05"]
    read.clear()
    again = hours_of_log(tmp_path, BINS, "v1", datetime(2026, 3, 5, 18, tzinfo=UTC), keep)
    assert read == ["2026-03-05"]
    assert first is not None
    assert again is not None
    assert all((first.counts[n] == again.counts[n]).all() for n in first.counts)
    assert len(again) == 3 * 24 + 18 - int(np.argmax(again.rows > 0))
    assert not again.rows[48:72].any(), "the day without a log is there, and empty"
    read.clear()
    hours_of_log(tmp_path, BINS, "v2", datetime(2026, 3, 5, 18, tzinfo=UTC), keep)
    assert read[:2] == ["2026-03-02", "2026-03-03"], "another version is counted anew"


def test_a_day_is_not_kept_before_its_last_part_is_there(tmp_path: Path) -> None:
    write_day(tmp_path, "2026-03-02")
    keep = tmp_path / "hours.npz"
    hours_of_log(tmp_path, BINS, "v1", datetime(2026, 3, 3, 1, tzinfo=UTC), keep)
    assert not keep.exists()
    write_day(tmp_path, "2026-03-02", n=100, part="1")
    late = hours_of_log(tmp_path, BINS, "v1", datetime(2026, 3, 3, 3, tzinfo=UTC), keep)
    assert late is not None
    assert late.rows.sum() == 580


def test_a_change_is_told_for_a_week_and_no_longer(tmp_path: Path) -> None:
    for k in range(1, 15):
        write_day(tmp_path, f"2026-03-{k:02d}", mean=48.0 if k > 3 else 40.0)
    fresh, old = (
        look_by_hour(tmp_path, PROFILE, "v1", datetime(2026, 3, d, 23, tzinfo=UTC), tmp_path / "k.npz", ["name"])
        for d in (5, 14)
    )
    assert fresh is not None
    assert old is not None
    assert [a.column for a in fresh.alarms] == ["age"]
    assert old.alarms == fresh.alarms
    told = recent_alarms(fresh)
    assert told is not None
    assert "age" in told.text("fr")
    assert recent_alarms(old) is None


def test_a_part_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    write_day(tmp_path, "2026-03-02").write_bytes(b"PAR1 broken")
    with pytest.raises(InputError, match="day=2026-03-02"):
        hours_of_log(tmp_path, BINS, "v1", datetime(2026, 3, 3, 12, tzinfo=UTC), tmp_path / "k.npz")


def test_nothing_to_look_at_is_no_verdict(tmp_path: Path) -> None:
    assert look_by_hour(tmp_path, PROFILE, "v1", datetime(2026, 3, 3, tzinfo=UTC), tmp_path / "k.npz") is None
    write_day(tmp_path, "2026-03-02")
    hours = hours_of_log(tmp_path, BINS, "v1", datetime(2026, 3, 2, 12, tzinfo=UTC), tmp_path / "k.npz")
    assert hours is not None
    assert part_of(hours, 0, 5) is None
    twice = join_hours([hours, hours])
    assert (twice.counts["age"] == 2 * hours.counts["age"]).all()
