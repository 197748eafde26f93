"Drift verdicts: the stated false-alarm rate, the three states, and every file a person may hand over."

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
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
from mlops_nb.monitoring import files as monitored
from mlops_nb.monitoring import tables
from mlops_nb.monitoring.drift import DriftVerdict, compare, compare_profiles, drift_table
from mlops_nb.monitoring.files import drift_files, profile_file
from mlops_nb.monitoring.persistence import Persistence, persist
from mlops_nb.monitoring.tables import Field, Fields, find_fields
from mlops_nb.stats.profiles import Encoded, Profile, build_profile
from tests.conftest import Cli
from tests.monitored_log import bundle, draw
from tests.small_bundle import CONTRACT

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
    rng, draws = np.random.default_rng(rows), 200
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
    monkeypatch.setattr(monitored, "IN_ONE", 5_000)
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


def pair(rng: np.random.Generator, rows: int, tied: float, columns: int = 2) -> dict[str, Encoded]:
    "Normal columns that share a part of their variance."
    z = np.sqrt(tied) * rng.normal(size=(rows, 1)) + np.sqrt(1 - tied) * rng.normal(size=(rows, columns))
    return {f"x{i}": z[:, i].astype(np.float32) for i in range(columns)}


def numbers(columns: int) -> Fields:
    return Fields(tuple(Field(f"x{i}", "number") for i in range(columns)))


@pytest.mark.parametrize("columns", [2, 12])
def test_a_relation_that_breaks_is_seen_though_no_column_shows_it(columns: int) -> None:
    rng = np.random.default_rng(20)
    reference = build_profile(pair(rng, 4_000, 0.8, columns), numbers(columns))
    broken = compare(reference, pair(rng, 800, 0.0, columns))
    assert broken.verdict == "drift"
    assert broken.drifted == ()
    assert "drift.note.joint" in [n.key for n in broken.notes]
    assert broken.to_dict()["joint"][0]["test"] == "joint"
    assert compare(reference, pair(rng, 800, 0.8, columns)).verdict == "stable"


def test_directions_are_counted_on_rows_they_were_not_fitted_on() -> None:
    "Fitted and counted on the same rows, the narrowest directions would reject nearly always here."
    rng, low = np.random.default_rng(21), []
    for _ in range(60):
        verdict = compare(build_profile(pair(rng, 400, 0.0, 40), numbers(40)), pair(rng, 300, 0.0, 40))
        low.append(min(f.p_value for f in verdict.joint if f.p_value is not None) * len(verdict.joint) <= 0.05)
    assert np.mean(low) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)


def test_joint_profiles_add_up_and_come_back(tmp_path: Path) -> None:
    rng = np.random.default_rng(22)
    reference = build_profile(pair(rng, 3_000, 0.8), numbers(2))
    pieces = [pair(rng, n, 0.1) for n in (100, 500)]
    whole = {n: np.concatenate([np.asarray(p[n]) for p in pieces]) for n in pieces[0]}
    merged = reference.count(pieces[0]).merge(reference.count(pieces[1]))
    assert compare_profiles(reference, merged).to_dict() == compare(reference, whole).to_dict()
    back = Profile.load(reference.save(tmp_path / "p"))
    assert compare(back, whole).to_dict() == compare(reference, whole).to_dict()
    assert sum(f.stat().st_size for f in (tmp_path / "p").iterdir()) <= 2 * 50_000
    np.save(tmp_path / "p" / "joint.npy", np.zeros((3, 5), np.float32))
    with pytest.raises(InputError, match="not a reference profile"):
        Profile.load(tmp_path / "p")


def test_more_levels_than_fit_raise_no_false_alarm() -> None:
    "The kept levels are those the reference happens to hold most of; only buckets by spelling are compared."
    rng, fields, alarms = np.random.default_rng(23), Fields((Field("code", "category"),)), 0
    for _ in range(40):
        draws = [rng.integers(0, 5_000, n) for n in (20_000, 2_000)]
        counts = [dict(zip(*(v.tolist() for v in np.unique(d, return_counts=True)), strict=True)) for d in draws]
        named = [{f"product number {k}": c for k, c in both.items()} for both in counts]
        verdict = compare(build_profile({"code": named[0]}, fields), {"code": named[1]}, floor=1e-6)
        alarms += verdict.verdict == "drift"
    assert alarms <= 6
    moved = {k: c * (3 if k.endswith("7") else 1) for k, c in named[1].items()}
    assert compare(build_profile({"code": named[0]}, fields), {"code": moved}).verdict == "drift"


def test_columns_the_log_leaves_out_are_no_drift() -> None:
    rng = np.random.default_rng(24)
    reference, window = build_profile(mixed(rng, 3_000), MIXED), mixed(rng, 900)
    window["x2"] = np.full(900, np.nan, np.float32)
    assert "x2" in compare(reference, window).drifted
    told = compare(reference, window, withheld=["x2"])
    assert told.verdict == "stable"
    assert "x2" not in [f.name for f in told.features]
    assert [n.args["column"] for n in told.notes if n.key == "drift.note.withheld"] == ["x2"]


def regions(rng: np.random.Generator, rows: int, rise: float = 1.0) -> pd.DataFrame:
    region = rng.choice(np.array(["north", "south", "west"], object), rows, p=[0.2, 0.4, 0.4])
    price = rng.lognormal(3, 0.5, rows) * np.where(region == "north", rise, 1)
    return pd.DataFrame({"price": price, "kept": rng.random(rows) < 0.5, "region": region})


def test_a_segment_drifts_by_itself_and_shares_alpha(tmp_path: Path) -> None:
    rng = np.random.default_rng(25)
    base, window = regions(rng, 5_000), regions(rng, 1_500, rise=1.25)
    profile_file(base, tmp_path / "p", segment="region")
    told = drift_files(tmp_path / "p", window)
    assert told.verdict == "drift"
    assert {n: v.verdict for n, v in told.segments.items()} == {
        "region=south": "stable",
        "region=west": "stable",
        "region=north": "drift",
    }
    assert drift_files(base, window, segment="region").to_dict() == told.to_dict()
    alone = drift_files(base, window).features
    price = next(f for f in told.features if f.name == "price")
    assert price.p_adjusted >= next(f.p_adjusted for f in alone if f.name == "price")
    gone = drift_files(tmp_path / "p", window[window["region"] != "west"])
    assert gone.segments["region=west"].verdict == "inconclusive"
    whole = Profile.load(tmp_path / "p")
    counted = replace(whole, segments={n: s.count({}) for n, s in whole.segments.items()})
    assert compare_profiles(whole, counted).verdict == "inconclusive"
    assert compare_profiles(whole, counted, strict=False).verdict == "stable", (
        "a bundle's segments: nobody asked for them"
    )
    with pytest.raises(InputError, match="no column 'city'"):
        profile_file(base, segment="city")
    with pytest.raises(InputError, match="segments are chosen when the profile is made"):
        drift_files(tmp_path / "p", window, segment="kept")


def test_a_table_with_labels_against_a_bundle_that_has_none() -> None:
    drawn = draw(np.random.default_rng(8), 400)
    table = pd.DataFrame({n: drawn[n] for n in ("age", "plan", "since", "paperless")})
    labelled = table.assign(**{CONTRACT.target.name: drawn["truth"]})
    assert [f.name for f in drift_files(bundle().path, labelled).features] == [*table.columns]
    assert drift_files(bundle().path, labelled.assign(loyalty=1)).drifted == ("loyalty",)


def test_a_change_that_lasts_and_one_that_does_not() -> None:
    rng = np.random.default_rng(37)
    reference = build_profile(pair(rng, 5_000, 0.0), numbers(2))

    def moved(by: float, rows: int = 800) -> DriftVerdict:
        window = pair(rng, rows, 0.0)
        return compare(reference, window | {"x1": np.asarray(window["x1"]) + np.float32(by)})

    rule = Persistence(2, 3)
    assert persist([moved(0.5), moved(0), moved(0)], rule).verdict == "stable"
    assert persist([moved(0), moved(0.5), moved(0.5)], rule).columns == ("x1",)
    assert persist([moved(0.5), moved(0), moved(0, rows=20)], rule).verdict == "inconclusive"
    assert persist([moved(0.5)], rule).verdict == "inconclusive"
    assert rule.rate(0.05) == pytest.approx(0.075)
    with pytest.raises(InputError, match="no window"):
        persist([], rule)


def test_a_log_is_read_as_its_inputs(tmp_path: Path) -> None:
    rng = np.random.default_rng(27)
    base = regions(rng, 3_000)
    part = tmp_path / "logs" / "predictions" / "day=2026-11-01" / "part-0-0.parquet"
    part.parent.mkdir(parents=True)
    window = regions(rng, 1_000).rename(columns=lambda n: f"in.{n}")
    window = window.assign(time=pd.Timestamp("2026-11-01", tz="UTC"), status="ok")
    window.to_parquet(part)
    for folder in (tmp_path / "logs", tmp_path / "logs" / "predictions"):
        assert drift_files(base, folder).verdict == "stable"
    window.assign(**{"in.price": None}).to_parquet(part)
    assert drift_files(base, tmp_path / "logs").drifted == ("price",)
    assert drift_files(base, tmp_path / "logs", withheld=["price"]).verdict == "stable"
    window.assign(**{"in.price": None, "withheld": [["price"]] * 1_000}).to_parquet(part)
    told = drift_files(base, tmp_path / "logs")
    assert (told.verdict, [n.args["column"] for n in told.notes]) == ("stable", ["price"]), "the log says so itself"
    assert "price" not in profile_file(tmp_path / "logs").columns
    with pytest.raises(InputError, match="no column 'prize'"):
        drift_files(base, tmp_path / "logs", withheld=["prize"])
    part.unlink()
    with pytest.raises(InputError, match=r"no rows|no column of the reference"):
        drift_files(base, tmp_path / "logs")


def test_data_frames_are_tables() -> None:
    rng = np.random.default_rng(28)
    base = regions(rng, 3_000)
    assert drift_files(base, regions(rng, 1_000)).verdict == "stable"
    odd = regions(rng, 1_000)
    odd["price"] = odd["price"].astype(object)
    odd.loc[:400, "price"] = "many"
    assert drift_files(base, odd).drifted == ("price",)
    with pytest.raises(InputError, match="stands 2 times"):
        drift_files(base, pd.concat([base, base], axis=1))


def test_several_windows_need_a_rule(files: Path, cli: Cli) -> None:
    currents = [w for name in ("same.csv", "other.parquet", "other.parquet") for w in ("--current", files / name)]
    said = cli("drift", "--reference", files / "reference.parquet", *currents, "--persist", "2/3", "--json")
    assert said.returncode == 1, said.stderr
    told = json.loads(said.stdout)
    assert (told["verdict"], told["columns"], len(told["windows"])) == ("drift", ["price"], 3)
    bare = cli("drift", "--reference", files / "reference.parquet", *currents)
    assert bare.returncode == 2
    assert "add --persist" in bare.stderr


def test_parquet_needs_no_pandas(files: Path) -> None:
    "Its import takes as long as 200,000 rows."
    import subprocess
    import sys

    profile_file(files / "reference.parquet", files / "p")
    code = (
        "import sys; from mlops_nb.monitoring.files import drift_files as d;"
        f"d({str(files / 'p')!r}, {str(files / 'other.parquet')!r});"
        "assert not {'pandas', 'scipy', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_evidently_stands_in_an_annex(files: Path, cli: Cli) -> None:
    annex = files / "annexes" / "w1"
    both = ("--reference", files / "reference.parquet", "--current", files / "other.parquet")
    said = cli("drift", *both, "--annex", annex)
    assert said.returncode == 1, said.stderr
    assert "root_metric_" in (annex / "evidently.html").read_text()
    profile_file(files / "reference.parquet", files / "p")
    refused = cli("drift", "--reference", files / "p", "--current", files / "other.parquet", "--annex", annex)
    assert refused.returncode == 2
    assert "evidently needs the rows" in refused.stderr


STRANGE: dict[str, pa.Array] = {
    "lists": pa.array([[1], None] * 300),
    "bytes": pa.array([b"\xff\xfe", b"a"] * 300),
    "days of time": pa.array([1, 2] * 300, pa.time32("s")),
    "spans": pa.array([1, 2] * 300, pa.duration("ns")),
    "fine times": pa.array([1, 2] * 300, pa.timestamp("ns")),
    "far dates": pa.array([2**60, 5] * 300, pa.timestamp("s")),
    "structs": pa.array([{"a": 1}, None] * 300),
    "nothing": pa.nulls(600),
}


@pytest.mark.parametrize("kind", STRANGE)
def test_a_column_of_any_type_gets_a_state(files: Path, kind: str) -> None:
    "A window whose column turned into something else, and a reference that was strange from the start."
    rng = np.random.default_rng(30)
    for column in ("price", "paid", "kept", "note", "when"):
        window = pa.Table.from_pandas(frame(rng, 600), preserve_index=False)
        place = window.column_names.index(column)
        window = window.set_column(place, column, STRANGE[kind])
        told = drift_files(files / "reference.parquet", window)
        if column != "when":
            assert column in told.drifted
        assert drift_files(window, frame(rng, 600)).verdict in ("stable", "drift", "inconclusive")
