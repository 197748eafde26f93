from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.core.facts import find
from mlops_nb.core.files import plain
from mlops_nb.core.messages import LANGUAGES, catalogue
from mlops_nb.value.experiments import Arm
from mlops_nb.value.files import RoiResult, missing_notes, result_tables, roi_files
from mlops_nb.value.outcomes import Sides, read_outcomes

COSTS = "month,item,amount,currency,basis\n" + "".join(f"2026-{m:02d},team,1000,EUR,measured\n" for m in range(1, 7))


def files(folder: Path, outcomes: str, costs: str = COSTS) -> tuple[Path, Path]:
    (folder / "o.csv").write_text(outcomes, encoding="utf-8")
    (folder / "c.csv").write_text(costs, encoding="utf-8")
    return folder / "o.csv", folder / "c.csv"


def books(values: list[float]) -> str:
    return "unit,time,value\n" + "".join(f"m{i},2026-{i:02d}-28,{v}\n" for i, v in enumerate(values, 1))


def arms(units: int = 2000, effect: float = 8.0, treated: float = 0.5, seed: int = 0, lose: float = 0.0) -> str:
    rng = np.random.default_rng(seed)
    lines = ["unit,arm,time,metric,value,covariate"]
    for i in range(units):
        side, before = rng.random() < treated, rng.gamma(4, 10)
        value = f"{0.5 * before + rng.normal(20, 10) + effect * side:.3f}" if rng.random() >= lose * side else ""
        lines.append(f"u{i},{'b' if side else 'control'},2026-{1 + i % 6:02d}-10,margin,{value},{before:.3f}")
    return "\n".join(lines) + "\n"


def keys(result: RoiResult) -> set[str]:
    return {n.key for n in result.notes}


def test_monthly_books_and_their_json(tmp_path: Path) -> None:
    result = roi_files(*files(tmp_path, books([3000, 2900, 3100, 3050, 2950, 3000])))
    assert result.roi.decision == "keep"
    assert "roi.note.no_control" in keys(result)
    told = json.loads(json.dumps(plain(result.to_dict())))
    assert told["decision"] == "keep"
    assert {"roi.ratio", "roi.wrong_retire_8", "roi.waiting_gain"} <= {f["id"] for f in told["facts"]}
    assert find(result.facts, "roi.ratio").value == pytest.approx(3.0)


def test_an_experiment_beats_books(tmp_path: Path) -> None:
    result = roi_files(*files(tmp_path, arms()), treated_share=0.5)
    effect = result.effects[0]
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low < 8 < effect.high
    assert result.roi.amounts.months == 6
    assert result.roi.amounts.value == pytest.approx(effect.difference * effect.n_treatment / 6)
    assert "roi.note.no_share" not in keys(result)


def test_parquet_is_read_alike(tmp_path: Path) -> None:
    o, c = files(tmp_path, arms(400))
    pyarrow.parquet.write_table(pyarrow.csv.read_csv(o), tmp_path / "o.parquet")
    assert roi_files(tmp_path / "o.parquet", c).roi.net == pytest.approx(roi_files(o, c).roi.net)


def test_uneven_losses_make_it_unassessable(tmp_path: Path) -> None:
    even = roi_files(*files(tmp_path, arms()))
    assert even.roi.low is not None
    uneven = roi_files(*files(tmp_path, arms(lose=0.3)))
    assert "roi.note.missing_differs" in keys(uneven)
    assert (uneven.roi.decision, uneven.roi.low) == ("extend", None)


def test_even_losses_are_stated(tmp_path: Path) -> None:
    lines = arms().splitlines()
    for i in range(5, len(lines), 40):
        cells = lines[i].split(",")
        cells[4] = ""
        lines[i] = ",".join(cells)
    result = roi_files(*files(tmp_path, "\n".join(lines)))
    assert "roi.note.missing" in keys(result)
    assert result.roi.low is not None


def test_a_sample_ratio_mismatch_stops_the_answer(tmp_path: Path) -> None:
    result = roi_files(*files(tmp_path, arms(treated=0.6)), treated_share=0.5)
    assert "roi.note.srm" in keys(result)
    assert result.roi.decision == "extend"


def test_zero_cost_and_negative_value(tmp_path: Path) -> None:
    free = COSTS.replace(",1000,", ",0,")
    result = roi_files(*files(tmp_path, books([10, 12, 11, 9, 10, 12]), free))
    assert (result.roi.ratio, result.roi.decision) == (None, "keep")
    assert "roi.note.zero_cost" in keys(result)
    losing = roi_files(*files(tmp_path, books([-100, -120, -90, -110, -100, -105])))
    assert losing.roi.decision == "decommission"
    assert losing.roi.ratio is not None
    assert losing.roi.ratio < 0


def test_months_that_do_not_match_are_named(tmp_path: Path) -> None:
    result = roi_files(*files(tmp_path, books([3000, 2900, 3100])))
    assert [m.month for m in result.months] == ["2026-01", "2026-02", "2026-03"]
    assert "roi.note.costs_left_out" in keys(result)
    bare = roi_files(*files(tmp_path, books([3000, 2900, 3100]), COSTS.replace("2026-03", "2026-09")))
    assert "roi.note.no_costs" in keys(bare)


@pytest.mark.parametrize(
    ("missing", "stands"), [((50, 60), True), ((50, 250), False), ((10, 60), False), ((3, 9), True)]
)
def test_arms_that_do_not_miss_alike_are_not_compared(missing: tuple[int, int], stands: bool) -> None:
    control, treatment = (Arm(np.zeros(5000 - m)) for m in missing)
    assert missing_notes(Sides(control, treatment, missing))[1] is stands


def test_missing_rows_of_books_are_stated(tmp_path: Path) -> None:
    result = roi_files(*files(tmp_path, books([3000, 2900]) + "x,2026-02-03,\n"))
    assert "roi.note.missing_as_nothing" in keys(result)


def test_other_metrics_are_told_beside_the_money(tmp_path: Path) -> None:
    calls = "".join(f"u{i},{'b' if i % 2 else 'control'},2026-01-10,calls,{i % 3},\n" for i in range(300))
    money = "".join(f"u{i},{'b' if i % 2 else 'control'},2026-01-10,revenue,{10 + i % 7},\n" for i in range(300))
    o, c = files(tmp_path, "unit,arm,time,metric,value,covariate\n" + calls + money)
    result = roi_files(o, c)
    assert [e.metric for e in result.effects] == ["revenue", "calls"]
    assert roi_files(o, c, metric="calls").metric == "calls"
    with pytest.raises(InputError, match="no metric 'sales'"):
        roi_files(o, c, metric="sales")
    two = o.read_text().replace("revenue", "sales")
    with pytest.raises(InputError, match="which metric is money: calls, sales"):
        roi_files(*files(tmp_path, two))


HEAD = "unit,arm,time,metric,value\n"


@pytest.mark.parametrize(
    ("outcomes", "told"),
    [
        ("", "cannot be read"),
        ("unit,amount\na,1\n", "column 'value' is missing"),
        (HEAD, "holds no outcome"),
        (HEAD + "a,control,2026-01-01,v,1\nb,control,01/02/2026,v,2\n", "line 3: time '01/02/2026' is not an ISO date"),
        (HEAD + "a,control,2026-01-01,v,1\nb,control,,v,2\n", "line 3: time"),
        (HEAD + "a,x,2026-01-01,v,1\nb,y,2026-01-01,v,1\n", "no arm 'control'"),
        (HEAD + "a,control,2026-01-01,v,1\nb,y,2026-01-01,v,1\nc,z,2026-01-01,v,1\n", "3 arms: control, y, z"),
        ("unit,value,basis\na,1,guess\n", "basis 'guess'"),
        ("unit,value,currency\na,1,EUR\nb,1,USD\n", "several currency values: EUR, USD"),
        ("unit,value,currency\na,1,USD\n", "outcomes in USD, costs in EUR"),
        ("unit,value\na,1\nb,2\n", "no time: the values cannot be given to months"),
    ],
)
def test_bad_outcomes_are_named(tmp_path: Path, outcomes: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        roi_files(*files(tmp_path, outcomes))
    assert told in str(caught.value)


def test_an_absent_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_outcomes(tmp_path / "absent.csv")
    (tmp_path / "bad.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        read_outcomes(tmp_path / "bad.parquet")


def test_an_arm_whose_outcomes_are_all_missing(tmp_path: Path) -> None:
    rows = HEAD + "".join(f"u{i},{'b' if i % 2 else 'control'},2026-01-01,v,{'' if i % 2 else 1}\n" for i in range(20))
    with pytest.raises(InputError, match="arm 'b' has 0 units with an outcome"):
        roi_files(*files(tmp_path, rows))


def test_experiments_without_time_are_spread_over_the_months_of_the_costs(tmp_path: Path) -> None:
    rows = "unit,arm,value\n" + "".join(
        f"u{i},{'b' if i % 2 else 'control'},{50 + i % 2 * 5 + i % 9}\n" for i in range(900)
    )
    result = roi_files(*files(tmp_path, rows))
    assert "roi.note.no_time" in keys(result)
    assert result.roi.amounts.months == 6


def test_every_sentence_exists_in_both_languages() -> None:
    source = Path(__file__).parents[1] / "mlops_nb" / "value"
    used = {
        part.split('"')[0]
        for file in source.glob("*.py")
        for mark in ('Message("', 'text("')
        for part in file.read_text().split(mark)[1:]
        if "{" not in part.split('"')[0]
    }
    for lang in LANGUAGES:
        assert not used - set(catalogue(lang)), lang


@pytest.mark.parametrize("lang", LANGUAGES)
def test_tables_are_in_the_reader_s_language(tmp_path: Path, lang: str) -> None:
    result = roi_files(*files(tmp_path, arms(600)))
    html = "".join(t.html() for t in result_tables(result, lang))
    assert ("Décision" in html) == (lang == "fr")
    assert "{" not in html


def test_the_text_is_for_a_terminal_and_the_exit_code_for_a_scheduler(tmp_path: Path) -> None:
    kept = roi_files(*files(tmp_path, arms(4000)))
    assert kept.exit_code == 0
    assert kept.text("fr").startswith("Décision")
    assert "margin: " in kept.text()
    assert roi_files(*files(tmp_path, books([-100, -120, -90, -110, -100, -105]))).exit_code == 1
    assert roi_files(*files(tmp_path, arms(lose=0.3))).exit_code == 3


def test_an_arm_without_units_is_no_history_of_a_single_one(tmp_path: Path) -> None:
    only = arms(60).replace(",b,", ",control,")
    with pytest.raises(InputError, match="only arm 'control' has units"):
        roi_files(*files(tmp_path, only))
    other = arms(60).replace(",control,", ",b,")
    with pytest.raises(InputError, match="only arm 'b' has units"):
        roi_files(*files(tmp_path, other), treated_share=0.5)
    assert roi_files(*files(tmp_path, other)).months


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("u0,control,2026-01-10,margin,1,1", "unit 'u0' stands twice for the same time and metric"),
        ("u0,b,2026-01-11,margin,1,1", "unit 'u0' stands in two arms"),
    ],
)
def test_a_unit_that_stands_twice_is_named(tmp_path: Path, row: str, told: str) -> None:
    lines = "unit,arm,time,metric,value,covariate\nu0,control,2026-01-10,margin,3,1\nu1,b,2026-01-10,margin,4,1\n"
    with pytest.raises(InputError) as caught:
        roi_files(*files(tmp_path, lines + row + "\n"))
    assert told in str(caught.value)


def test_refunds_do_not_make_revenue_judgeable_with_few_payers(tmp_path: Path) -> None:
    rows = "unit,arm,value\n" + "".join(
        f"u{i},{'b' if i % 2 else 'control'},{0 if i % 25 else -20 if i % 75 == 0 else 30}\n" for i in range(2000)
    )
    result = roi_files(*files(tmp_path, rows), treated_share=0.5)
    assert "experiment.too_few_payers" in keys(result)
    assert (result.roi.decision, result.roi.low, result.exit_code) == ("extend", None, 3)
    assert result.roi.reason.key == "experiment.too_few_payers"


def test_costs_in_two_currencies_or_below_zero_are_named(tmp_path: Path) -> None:
    o = books([3000, 2900, 3100])
    with pytest.raises(InputError, match="several currencies: EUR, USD"):
        roi_files(*files(tmp_path, o, COSTS.replace("2026-03,team,1000,EUR", "2026-03,team,1000,USD")))
    with pytest.raises(InputError, match="amount -5 is not at least 0"):
        roi_files(*files(tmp_path, o, COSTS.replace("2026-03,team,1000", "2026-03,team,-5")))
