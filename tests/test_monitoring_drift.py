"Drift verdicts: the stated false-alarm rate, the three states, and every file a person may hand over."

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.data.values import NULL
from mlops_nb.monitoring import tables
from mlops_nb.monitoring.drift import DriftVerdict, compare, drift_files, drift_table, profile_file
from mlops_nb.monitoring.tables import Field, Fields, find_fields
from mlops_nb.stats.profiles import Encoded, Profile, build_profile
from tests.conftest import Cli

LEVELS = np.array([f"l{i}" for i in range(30)], object)
ZIPF = 1 / np.arange(1, 31)
MIXED = Fields((*(Field(f"x{i}", "number") for i in range(8)), *(Field(f"c{i}", "category") for i in range(4))))


def mixed(rng: np.random.Generator, rows: int) -> dict[str, Encoded]:
    "Correlated columns: normal, skewed, heavy-tailed, discrete, with gaps, and levels of which most are rare."
    z = 0.7 * rng.normal(size=(rows, 1)) + 0.7 * rng.normal(size=(rows, 12))
    shapes: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
        lambda v: v,
        lambda v: np.exp(2 * v),
        lambda v: np.round(v),
        lambda v: np.where(v < 0.8, 0, v),
    )
    found: dict[str, Encoded] = {f"x{i}": shapes[i % 4](z[:, i]).astype(np.float32) for i in range(8)}
    found["x0"] = np.where(rng.random(rows) < 0.1, np.float32("nan"), found["x0"])  # type: ignore[arg-type]
    ends = np.cumsum(ZIPF / ZIPF.sum())
    for i in range(4):
        order = np.argsort(np.argsort(z[:, 8 + i])) / rows
        picked = LEVELS[np.searchsorted(ends, np.clip(order + rng.normal(0, 0.3, rows), 0, 0.999))]
        found[f"c{i}"] = np.where(rng.random(rows) < 0.05 * i, NULL, picked)
    return found


@pytest.mark.parametrize("rows", [50, 400])
def test_the_stated_false_alarm_rate_holds(rows: int) -> None:
    "Twelve columns, one rate over all of them; a reference of its own in each draw."
    rng, draws = np.random.default_rng(rows), 300
    alarms = 0
    for _ in range(draws):
        reference = build_profile(mixed(rng, 1_500), MIXED)
        alarms += compare(reference, mixed(rng, rows), alpha=0.05, floor=1e-6).verdict == "drift"
    assert alarms <= 0.05 * draws + 3 * np.sqrt(0.05 * 0.95 * draws)
    assert alarms > 0, "a rule that never alarms proves nothing"


def test_a_change_is_found_in_its_column_only() -> None:
    rng = np.random.default_rng(3)
    reference, window = build_profile(mixed(rng, 5_000), MIXED), mixed(rng, 500)
    window["x4"] = np.asarray(window["x4"]) + np.float32(0.6)
    window["c1"] = np.where(np.asarray(window["c1"]) == "l0", "new", np.asarray(window["c1"]))
    verdict = compare(reference, window)
    assert verdict.drifted == ("x4", "c1")
    assert {f.name: f.about for f in verdict.features if f.state == "drift"} == {"x4": "median", "c1": "new"} or {
        f.name: f.about for f in verdict.features if f.state == "drift"
    } == {"x4": "median", "c1": "l0"}


def test_merging_windows_decides_as_the_whole_does() -> None:
    from mlops_nb.monitoring.drift import compare_profiles

    rng = np.random.default_rng(4)
    reference = build_profile(mixed(rng, 3_000), MIXED)
    pieces = [mixed(rng, n) for n in (100, 300)]
    whole = {n: np.concatenate([np.asarray(p[n]) for p in pieces]) for n in pieces[0]}
    merged = reference.count(pieces[0]).merge(reference.count(pieces[1]))
    assert compare_profiles(reference, merged).to_dict() == compare(reference, whole).to_dict()


def test_the_verdict_is_plain_json_with_the_agreed_keys() -> None:
    rng = np.random.default_rng(5)
    verdict = compare(build_profile(mixed(rng, 500), MIXED), mixed(rng, 60))
    doc = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert {"verdict", "features", "alpha", "floor", "rows_reference", "rows_current"} <= set(doc)
    agreed = {"name", "kind", "state", "statistic", "effect", "p_value", "p_adjusted", "n_reference", "n_current"}
    assert all(agreed <= set(f) for f in doc["features"])
    assert [f["name"] for f in doc["features"]] == [c.name for c in MIXED.columns]


def test_small_windows_are_inconclusive_and_say_how_many_rows_would_do() -> None:
    rng = np.random.default_rng(6)
    reference = build_profile(mixed(rng, 5_000), MIXED)
    few = compare(reference, mixed(rng, 40))
    assert few.verdict == "inconclusive"
    assert few.n_needed is not None
    assert few.n_needed > 40
    enough = compare(reference, mixed(rng, round(1.2 * few.n_needed)))  # an estimate: gaps and rare levels vary
    assert (enough.verdict, enough.n_needed) == ("stable", None)


def test_a_window_without_rows_is_an_error_and_an_empty_column_is_never_stable() -> None:
    rng = np.random.default_rng(7)
    reference, window = build_profile(mixed(rng, 2_000), MIXED), mixed(rng, 500)
    with pytest.raises(InputError, match="no rows to compare"):
        compare(reference, {n: np.asarray(v)[:0] for n, v in window.items()})
    window["x1"] = np.full(500, np.nan, np.float32)
    assert next(f for f in compare(reference, window).features if f.name == "x1").state == "drift"
    tiny = {n: np.asarray(v)[:1] for n, v in window.items()}
    assert next(f for f in compare(reference, tiny).features if f.name == "x1").state != "stable"


@pytest.mark.parametrize("rules", [{"alpha": 0}, {"alpha": 1.5}, {"floor": -1}, {"visible": 0}])
def test_rates_that_mean_nothing_are_refused(rules: dict[str, Any]) -> None:
    rng = np.random.default_rng(8)
    with pytest.raises(InputError, match="give a number between 0 and 1"):
        compare(build_profile(mixed(rng, 100), MIXED), mixed(rng, 50), **rules)


def test_a_window_older_than_its_reference_is_never_stable() -> None:
    rng = np.random.default_rng(9)
    reference = build_profile(mixed(rng, 3_000), MIXED, np.arange(3_000) + 20_000)
    verdict = compare(reference, mixed(rng, 2_000), days=np.full(2_000, 100))
    assert verdict.verdict != "stable"
    assert [n.key for n in verdict.notes] == ["drift.note.older"]


@pytest.mark.parametrize("lang", LANGUAGES)
def test_a_verdict_speaks_both_languages(lang: str) -> None:
    rng = np.random.default_rng(10)
    window = mixed(rng, 300)
    window["<b>"] = window.pop("x0")
    verdict = compare(build_profile(mixed(rng, 2_000), MIXED), window)
    html, words = drift_table(verdict, lang).html(), verdict.text(lang)
    assert "&lt;b&gt;" in html
    assert "<b>" not in html
    for shown in (html, words):
        assert "drift." not in shown
    assert catalogue(lang)["drift.missing-column"] in words


def frame(rng: np.random.Generator, rows: int, start: str = "2026-01-01") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "id": range(rows),
            "when": pd.date_range(start, periods=rows, freq="h"),
            "price": rng.lognormal(3, 1, rows).round(2),
            "paid": rng.choice(np.array(["card", "cash", None], object), rows),
            "kept": rng.random(rows) < 0.5,
            "note": [f"note {i:04} {'x' * int(k)}" for i, k in enumerate(rng.integers(0, 20, rows))],
        }
    )


@pytest.fixture
def files(tmp_path: Path) -> Path:
    rng = np.random.default_rng(11)
    frame(rng, 3_000).to_parquet(tmp_path / "reference.parquet")
    frame(rng, 900, "2026-06-01").to_csv(tmp_path / "same.csv", index=False)
    other = frame(rng, 900, "2026-06-01")
    other["price"] *= 1.5
    other.to_parquet(tmp_path / "other.parquet")
    return tmp_path


def test_files_of_both_kinds_compare(files: Path) -> None:
    same = drift_files(files / "reference.parquet", files / "same.csv")
    assert same.verdict == "stable"
    assert [f.name for f in same.features] == ["price", "paid", "kept", "note"]
    assert same.period_current is not None
    assert drift_files(files / "reference.parquet", files / "other.parquet").drifted == ("price",)


def test_a_saved_profile_stands_for_its_file(files: Path) -> None:
    profile_file(files / "reference.parquet", files / "p")
    by_file = drift_files(files / "reference.parquet", files / "other.parquet")
    assert drift_files(files / "p", files / "other.parquet").to_dict() == by_file.to_dict()
    with pytest.raises(InputError, match="the folder exists already"):
        profile_file(files / "reference.parquet", files / "p")


def test_a_file_in_pieces_decides_as_the_whole_file_does(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = drift_files(files / "reference.parquet", files / "other.parquet")
    monkeypatch.setattr(tables, "BATCH_ROWS", 700)
    pieces = drift_files(files / "reference.parquet", files / "other.parquet")
    assert pieces.drifted == whole.drifted
    assert (pieces.rows_reference, pieces.rows_current) == (3_000, 900)
    for a, b in zip(pieces.features, whole.features, strict=True):
        assert a.statistic == pytest.approx(b.statistic, abs=0.002)


def test_columns_that_come_and_go_are_drift(files: Path) -> None:
    rng = np.random.default_rng(12)
    frame(rng, 500).drop(columns="kept").assign(extra=1).to_csv(files / "moved.csv", index=False)
    verdict = drift_files(files / "reference.parquet", files / "moved.csv")
    assert {f.name: f.about for f in verdict.features if f.test == "schema"} == {
        "kept": "missing-column",
        "extra": "new-column",
    }
    assert verdict.exit_code == 1


def test_numbers_that_become_text_show_as_gaps(files: Path) -> None:
    rng = np.random.default_rng(13)
    wrong = frame(rng, 500)
    wrong["price"] = wrong["price"].map("{:.2f} EUR".format)
    wrong.to_csv(files / "wrong.csv", index=False)
    found = next(f for f in drift_files(files / "reference.parquet", files / "wrong.csv").features if f.name == "price")
    assert (found.state, found.test, found.after) == ("drift", "nulls", 1.0)


BAD: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "the file is empty"),
    "header.csv": (b"price,paid\n", "the file holds no rows"),
    "latin.csv": ("price,paid\n1,é\n".encode("latin-1"), "not UTF-8 text"),
    "twice.csv": (b"price,price\n1,2\n", "column 'price' stands 2 times"),
    "broken.parquet": (b"PAR1 and then nothing", "not a Parquet file"),
    "none.parquet": (b"", "not a Parquet file"),
    "other.xlsx": (b"PK", "unknown file type"),
    "stranger.csv": (b"a,b\n1,2\n3,4\n", "no column of the reference is there"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_one_line(files: Path, name: str) -> None:
    content, message = BAD[name]
    (files / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        drift_files(files / "reference.parquet", files / name)
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_truncated_parquet_file_is_an_error(files: Path) -> None:
    data = (files / "other.parquet").read_bytes()
    middle = bytearray(data)
    middle[100:2_000] = bytes(1_900)
    (files / "middle.parquet").write_bytes(bytes(middle))
    (files / "tail.parquet").write_bytes(data[:-200])
    for name in ("middle.parquet", "tail.parquet"):
        with pytest.raises(InputError, match=r"\.parquet: not a Parquet file"):
            drift_files(files / "reference.parquet", files / name)


def test_a_parquet_file_without_rows_is_an_error(files: Path) -> None:
    pq.write_table(pq.ParquetFile(files / "other.parquet").read().slice(0, 0), files / "empty.parquet")
    for pair in (("reference.parquet", "empty.parquet"), ("empty.parquet", "other.parquet")):
        with pytest.raises(InputError, match="the file holds no rows"):
            drift_files(files / pair[0], files / pair[1])


def test_an_all_null_column_is_never_stable(files: Path) -> None:
    rng = np.random.default_rng(14)
    gone = frame(rng, 500)
    gone["price"] = None
    gone.to_parquet(files / "gone.parquet")
    assert "price" in drift_files(files / "reference.parquet", files / "gone.parquet").drifted
    assert "price" in drift_files(files / "gone.parquet", files / "other.parquet").drifted
    both = drift_files(files / "gone.parquet", files / "gone.parquet")
    assert "price" not in [f.name for f in both.features]
    assert "drift.note.no_values" in [n.key for n in both.notes]


def test_columns_of_every_arrow_type_are_read() -> None:
    table = pa.table(
        {
            "i8": pa.array([1, None, 3], pa.int8()),
            "u64": pa.array([1, 2, 2], pa.uint64()),
            "dec": pa.array([1, 2, None], pa.decimal128(10, 2)),
            "dict": pa.array(["a", "b", None]).dictionary_encode(),
            "large": pa.array(["a", "b", "c"], pa.large_string()),
            "view": pa.array(["a", "b", "c"], pa.string_view()),
            "date": pa.array([1, 2, 3], pa.date32()),
            "time": pa.array([1, 2, 3], pa.timestamp("ns", tz="Europe/Paris")),
            "list": pa.array([[1], [2], None]),
            "null": pa.nulls(3),
            "bool": pa.array([True, None, False]),
            "half": pa.array(np.array([1, 2, 3], np.float16)),
            "binary": pa.array([b"a", b"b", b"c"]),
            "inf": pa.array([1.0, float("inf"), float("nan")]),
        }
    )
    fields = find_fields(table)
    coded = tables.encode_table(table, {f.name: f.kind for f in fields.columns})
    assert {n.key for n in fields.notes} == {"drift.note.nested", "drift.note.time"}
    profile = build_profile(coded, fields)
    assert profile.columns["inf"].nulls == 2
    assert profile.columns["null"].valued == 0


def test_the_command_line_has_three_answers(files: Path, cli: Cli) -> None:
    rng = np.random.default_rng(15)
    frame(rng, 20).to_csv(files / "few.csv", index=False)
    for name, code, verdict in (
        ("same.csv", 0, "stable"),
        ("other.parquet", 1, "drift"),
        ("few.csv", 3, "inconclusive"),
    ):
        said = cli("drift", "--reference", files / "reference.parquet", "--current", files / name, "--json")
        assert said.returncode == code, said.stderr
        assert json.loads(said.stdout)["verdict"] == verdict
    bad = cli("drift", "--reference", files / "reference.parquet", "--current", files / "no.csv")
    assert bad.returncode == 2
    assert "no such file" in bad.stderr
    assert "Traceback" not in bad.stderr


def test_a_verdict_is_the_same_twice() -> None:
    rng = np.random.default_rng(16)
    reference, window = build_profile(mixed(rng, 1_000), MIXED), mixed(rng, 100)
    first: DriftVerdict = compare(reference, window)
    assert first == compare(reference, window)
    assert isinstance(reference, Profile)
