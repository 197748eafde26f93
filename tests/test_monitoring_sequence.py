"Hours cut from tables: every kind of column, times with and without a zone, and what cannot be looked at."

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.monitoring.sequence import Bins, bins_of, count_hours, look, sequence_table
from mlops_nb.stats.profiles import Encoded, build_profile
from mlops_nb.stats.sequential import watch

KINDS = {
    "price": "number",
    "plan": "category",
    "active": "boolean",
    "note": "text",
    "empty": "number",
    "same": "number",
}


def columns(n: int, seed: int = 0) -> dict[str, Encoded]:
    rng = np.random.default_rng(seed)
    return {
        "price": np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(3, 1, n)).astype(np.float32),
        "plan": rng.choice(np.array(["a", "b", "c"], object), n),
        "active": rng.choice(np.array(["true", "false"], object), n),
        "note": np.array(["x" * int(k) for k in rng.integers(1, 30, n)], object),
        "empty": np.full(n, np.nan, np.float32),
        "same": np.full(n, 7, np.float32),
    }


def bins(n: int = 5_000) -> list[Bins]:
    schema = SimpleNamespace(columns=[SimpleNamespace(name=k, kind=v) for k, v in KINDS.items()])
    return [bins_of(name, p) for name, p in build_profile(columns(n), schema).columns.items()]


def table(n: int, seed: int = 1, start: str = "2026-03-02", hours: int = 48) -> pa.Table:
    found = columns(n, seed)
    found["active"] = np.array([v == "true" for v in found["active"]])
    seconds = np.sort(np.random.default_rng(seed).integers(0, hours * 3600, n)).astype("timedelta64[s]")
    return pa.table({"time": np.datetime64(start) + seconds, **found})


def test_every_row_is_counted_once_whatever_its_kind() -> None:
    counted = count_hours(table(2_000), bins(), "time")
    assert set(counted.counts) == set(KINDS)
    assert all(c.sum() == 2_000 for c in counted.counts.values())
    assert counted.rows.sum() == 2_000
    assert counted.counts["price"][:, -1].sum() > 100  # nulls
    assert counted.counts["empty"][:, -1].sum() == 2_000


def test_quiet_hours_of_every_kind_raise_nothing() -> None:
    verdict = look(bins(), count_hours(table(3_000), bins(), "time"))
    assert (verdict.state, verdict.design) == ("stable", "rows")
    assert all(f.key in catalogue(lang) for f in verdict.facts() for lang in LANGUAGES)
    assert all(note.text(lang) for note in verdict.notes for lang in LANGUAGES)


def test_a_new_level_and_a_stopped_feed_are_named() -> None:
    changed = table(3_000)
    plan = np.array(changed["plan"].to_pylist(), object)
    plan[2_000:] = np.where(np.arange(1_000) % 3 == 0, "z", plan[2_000:])
    price = changed["price"].to_numpy().copy()
    price[2_500:] = np.nan
    changed = changed.set_column(2, "plan", pa.array(plan).dictionary_encode()).set_column(1, "price", pa.array(price))
    verdict = look(bins(), count_hours(changed, bins(), "time"))
    assert {(a.column, a.asked) for a in verdict.alarms} == {("plan", "…"), ("price", "nulls")}
    assert "2026-03-0" in sequence_table(verdict, "fr").html()


def test_times_with_a_zone_are_the_same_hours() -> None:
    plain = table(500)
    zoned = plain.set_column(0, "time", plain["time"].cast(pa.timestamp("us", "UTC")))
    first, second = (count_hours(t, bins(), "time") for t in (plain, zoned))
    assert first.first == second.first
    assert (first.rows == second.rows).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda t: t.slice(0, 0), "no rows with a time"),
        (lambda t: t.set_column(0, "time", pa.nulls(t.num_rows, pa.timestamp("us"))), "no rows with a time"),
        (lambda t: t.select(["time"]), "no column of the reference is there"),
        (lambda t: pa.concat_tables([t, table(5, start="1999-01-01")]), "years from the first row to the last"),
    ],
)
def test_what_cannot_be_looked_at_says_so(changed, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        count_hours(changed(table(200)), bins(), "time")


def test_few_hours_that_differ_are_inconclusive_and_eight_weeks_decide() -> None:
    n, price = 40_000, columns(40_000)["price"]

    def stream(start: str, hours: int) -> pa.Table:
        t = np.arange(n) * (hours * 3600 / n)
        swing = 1 + 0.5 * np.sin(2 * np.pi * t / 86_400)
        return pa.table({"time": np.datetime64(start) + t.astype("timedelta64[s]"), "price": price * swing})

    own = [b for b in bins() if b.name == "price"]
    current = count_hours(stream("2026-05-04", 100), own, "time")
    short, long = (count_hours(stream("2026-02-02", h), own, "time") for h in (72, 8 * 168))
    assert look(own, current, short).state == "inconclusive"
    assert look(own, current, long).design == "calendar"
    assert look(own, current).state == "inconclusive", "the stream itself shows the rhythm"
    assert watch([own[0].watched], [current.counts["price"]]), "rows alone take the rhythm for a change"
