"Profiles: what they keep is exact, adds up in any order, and comes back from the disk."

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.core.errors import InputError
from mlops_nb.core.hashing import sha256_folder
from mlops_nb.data.values import NULL, NULL_DAYS
from mlops_nb.stats.profiles import (
    LEVEL_BYTES,
    LEVEL_ROOM,
    NEW_LEVELS,
    LevelProfile,
    NumberProfile,
    Profile,
    build_profile,
    common_design,
    count_levels,
    count_numbers,
    with_segments,
)


@dataclass(frozen=True)
class Column:
    name: str
    kind: str


@dataclass(frozen=True)
class Columns:
    columns: tuple[Column, ...]


SCHEMA = Columns((Column("x", "number"), Column("c", "category"), Column("d", "datetime"), Column("t", "text")))
numbers = st.lists(st.one_of(st.floats(-1e6, 1e6, width=32), st.just(float("nan"))), min_size=1, max_size=60)
levels = st.lists(st.sampled_from(["a", "b", "é", NULL]), min_size=1, max_size=60)


def table(rng: np.random.Generator, rows: int) -> dict[str, np.ndarray]:
    return {
        "x": np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows)).astype(np.float32),
        "c": rng.choice(np.array(["a", "b", NULL], object), rows),
        "d": np.where(rng.random(rows) < 0.1, NULL_DAYS, rng.integers(19_000, 20_000, rows)),
        "t": np.array(["x" * k if k else NULL for k in rng.integers(0, 9, rows)], object),
    }


def same(a: Profile, b: Profile) -> bool:
    if a.rows != b.rows or list(a.columns) != list(b.columns):
        return False
    for name, p in a.columns.items():
        q = b.columns[name]
        if isinstance(p, LevelProfile):
            if (
                not isinstance(q, LevelProfile)
                or dict(p.counts) != dict(q.counts)
                or (p.nulls, p.rest) != (q.nulls, q.rest)
            ):
                return False
        elif not isinstance(q, NumberProfile) or not (
            np.array_equal(p.cuts, q.cuts)
            and np.array_equal(p.upto, q.upto)
            and np.array_equal(p.below, q.below)
            and (p.nulls, p.valued, p.low, p.high) == (q.nulls, q.valued, q.low, q.high)
        ):
            return False
    return True


@given(numbers, numbers)
def test_counts_at_cuts_are_exact(reference: list[float], window: list[float]) -> None:
    r = count_numbers(np.array(reference, np.float32))
    w = count_numbers(np.array(window, np.float32), r)
    kept = np.array([v for v in window if v == v], np.float32)
    assert w.upto.tolist() == [int((kept <= c).sum()) for c in r.cuts]
    assert w.below.tolist() == [int((kept < c).sum()) for c in r.cuts]
    assert w.nulls == len(window) - len(kept)


@given(levels, levels, levels)
def test_levels_add_up(reference: list[str], one: list[str], two: list[str]) -> None:
    schema = Columns((Column("c", "category"),))

    def columns(values: list[str]) -> dict[str, np.ndarray]:
        return {"c": np.array(values, object)}

    r = build_profile(columns(reference), schema)
    apart, whole = r.count(columns(one)).merge(r.count(columns(two))), r.count(columns(one + two))
    assert same(apart, whole)


def test_pieces_add_up_in_any_order() -> None:
    rng = np.random.default_rng(0)
    reference = build_profile(table(rng, 3_000), SCHEMA)
    pieces = [table(rng, n) for n in (1, 50, 700)]
    whole = reference.count({n: np.concatenate([p[n] for p in pieces]) for n in pieces[0]})
    a, b, c = map(reference.count, pieces)
    assert same(a.merge(b).merge(c), whole)
    assert same(c.merge(a.merge(b)), whole)


def test_the_same_rows_in_another_order_are_the_same_profile(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = table(rng, 5_000)
    order = rng.permutation(5_000)
    build_profile(rows, SCHEMA).save(tmp_path / "a")
    build_profile({n: v[order] for n, v in rows.items()}, SCHEMA).save(tmp_path / "b")
    assert sha256_folder(tmp_path / "a") == sha256_folder(tmp_path / "b")


def test_a_profile_comes_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    days = rng.integers(19_000, 19_500, 4_000)
    profile = build_profile(table(rng, 4_000), SCHEMA, days)
    assert same(Profile.load(profile.save(tmp_path / "p")), profile)
    assert Profile.load(tmp_path / "p").period == (int(days.min()), int(days.max()))


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", None])
def test_a_damaged_profile_is_refused(tmp_path: Path, damage: bytes | None) -> None:
    profile = build_profile(table(np.random.default_rng(3), 500), SCHEMA)
    profile.save(tmp_path / "p")
    if damage is None:
        np.save(tmp_path / "p" / "cuts.npy", np.zeros(3, [("cut", "<f4"), ("upto", "<i8"), ("below", "<i8")]))
    else:
        (tmp_path / "p" / "cuts.npy").write_bytes(damage)
    with pytest.raises(InputError, match="not a reference profile"):
        Profile.load(tmp_path / "p")


def test_a_column_takes_at_most_fifty_kilobytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    columns = {
        "x": rng.normal(size=200_000).astype(np.float32),
        "c": np.array([f"a rather long level {i}" for i in rng.integers(0, 50_000, 100_000)], object),
        "s": np.array([f"{i}" for i in rng.integers(0, 50_000, 100_000)], object),
    }
    for name, kind in (("x", "number"), ("c", "category"), ("s", "category")):
        folder = build_profile({name: columns[name]}, Columns((Column(name, kind),))).save(tmp_path / name)
        assert sum(f.stat().st_size for f in folder.iterdir()) <= 50_000


@pytest.mark.parametrize("segments", [2, 12, 40])
def test_segments_share_the_room_of_a_column(tmp_path: Path, segments: int) -> None:
    rng, n = np.random.default_rng(4), 60_000
    columns = {
        "x": rng.normal(size=n).astype(np.float32),
        "age": rng.integers(18, 90, n).astype(np.float32),
        "c": np.array([f"a rather long level {i}" for i in rng.integers(0, 200, n)], object),
        "plan": rng.choice(["basic", "plus"], n).astype(object),
        "by": rng.integers(0, segments, n).astype(str).astype(object),
    }
    schema = Columns(tuple(Column(c, "number" if c in ("x", "age") else "category") for c in columns))
    parts = {f"by={level}": columns["by"] == level for level in sorted(set(columns["by"]))}
    profile = with_segments(build_profile(columns, schema, joint=False), columns, parts)
    folder = profile.save(tmp_path / "p")
    assert sum(f.stat().st_size for f in folder.rglob("*") if f.is_file()) <= 50_000 * len(columns)
    assert Profile.load(folder).segments.keys() == parts.keys()
    kept = {c for p in profile.segments.values() for c in p.columns}
    assert "by" not in kept, "it is one value in each"
    assert {"age", "plan"} <= kept, "few values fit however many segments there are"
    assert ("c" in kept, "x" in kept) == (segments == 2, segments <= 12)


def test_rare_levels_are_pooled_and_new_ones_are_bounded() -> None:
    many = count_levels({f"level {i:06}": 50_000 - i for i in range(20_000)})
    assert many.rest > 0
    assert sum(len(k) + LEVEL_ROOM for k in many.counts) <= LEVEL_BYTES
    known = count_levels(np.array(["a", "b"] * 50, object))
    window = count_levels({f"new {i}": 1 for i in range(5_000)}, known)
    assert len(window.counts) == 2 + NEW_LEVELS
    assert window.valued == 5_000


def test_a_reference_in_pieces_is_counted_exactly() -> None:
    rng = np.random.default_rng(5)
    pieces = [table(rng, n) for n in (4_000, 9_000, 100)]
    design = common_design([build_profile(p, SCHEMA) for p in pieces])
    counted = [design.count(p) for p in pieces]
    whole = counted[0].merge(counted[1]).merge(counted[2])
    direct = design.count({n: np.concatenate([p[n] for p in pieces]) for n in pieces[0]})
    assert same(whole, direct)
    assert whole.rows == 13_100


@pytest.mark.parametrize("kind", ["number", "category", "text", "datetime", "boolean"])
def test_columns_without_a_value_are_profiled(kind: str) -> None:
    empty = {
        "number": np.full(5, np.nan, np.float32),
        "datetime": np.full(5, NULL_DAYS),
    }.get(kind, np.array([NULL] * 5, object))
    profile = build_profile({"x": empty}, Columns((Column("x", kind),)))
    assert (profile.columns["x"].valued, profile.columns["x"].nulls) == (0, 5)
    assert profile.merge(profile.count({"x": empty})).rows == 10


def test_profiles_that_do_not_fit_are_not_added() -> None:
    rng = np.random.default_rng(6)
    a, b = (build_profile(table(rng, 100), SCHEMA) for _ in range(2))
    with pytest.raises(InputError, match="different cut points do not add up"):
        a.merge(b)
    with pytest.raises(InputError, match="columns of different lengths"):
        a.count({"x": np.zeros(2, np.float32), "c": np.array(["a"], object)})


def test_buckets_of_another_number_are_refused(tmp_path: Path) -> None:
    many = build_profile({"c": {f"level {i:06}": 3 for i in range(9_000)}}, Columns((Column("c", "category"),)))
    many.save(tmp_path / "p")
    assert same(Profile.load(tmp_path / "p"), many)
    file = tmp_path / "p" / "profile.json"
    first = " ".join(file.read_text().partition('"buckets": "')[2].split()[:2])
    file.write_text(file.read_text().replace(f'"buckets": "{first}', f'"buckets": "{first.split()[0]}', 1))
    with pytest.raises(InputError, match="not a reference profile: 511 buckets"):
        Profile.load(tmp_path / "p")
