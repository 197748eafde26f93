from __future__ import annotations

from pathlib import Path

import pytest

from mlops_nb.charter import CostItem, Costs
from mlops_nb.core.errors import InputError
from mlops_nb.value.costs import (
    Cost,
    CostTable,
    Usage,
    by_item,
    by_month,
    cost_per_1000,
    cost_table,
    plan,
    read_costs,
)

HEAD = "month,item,amount,currency,basis\n"


def written(folder: Path, text: str) -> Path:
    file = folder / "costs.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ("2026-13,cloud,1,EUR,measured\n", "line 2: month '2026-13'"),
        ("2026-01,cloud,ten,EUR,measured\n", "line 2: amount 'ten' is not a number"),
        ("2026-01,cloud,-1,EUR,measured\n", "line 2: amount -1 is not at least 0"),
        ("2026-01,cloud,inf,EUR,measured\n", "line 2: amount inf"),
        ("2026-01,cloud,nan,EUR,measured\n", "line 2: amount nan"),
        ("2026-01,cloud,1,euro,measured\n", "line 2: currency 'euro'"),
        ("2026-01,cloud,1,EUR,guessed\n", "line 2: basis 'guessed'"),
        ("2026-01,a,1,EUR,\n2026-01,b,1,USD,\n", "several currencies: EUR, USD"),
        ("", "holds no cost line"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, rows: str, told: str) -> None:
    with pytest.raises(InputError) as caught:
        read_costs(written(tmp_path, HEAD + rows))
    assert told in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        read_costs(tmp_path / "absent.csv")
    with pytest.raises(InputError, match="column 'amount' is missing"):
        read_costs(written(tmp_path, "month,item,currency\n2026-01,a,EUR\n"))
    (tmp_path / "latin.csv").write_bytes("month,item,amount,currency\n2026-01,coût,1,EUR\n".encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_costs(tmp_path / "latin.csv")


def test_a_rate_for_every_other_currency_is_needed(tmp_path: Path) -> None:
    file = written(tmp_path, HEAD + "2026-01,a,1,EUR,\n2026-01,b,10,USD,\n2026-01,c,10,GBP,\n")
    assert by_month(read_costs(file, {"USD": 0.9, "GBP": 1.2}, "EUR")) == {"2026-01": pytest.approx(22.0)}
    with pytest.raises(InputError, match="several currencies"):
        read_costs(file, {"USD": 0.9}, "EUR")


def test_one_off_costs_are_spread_and_never_lost(tmp_path: Path) -> None:
    table = read_costs(written(tmp_path, HEAD + "once,setup,600,EUR,\n,licence,60,EUR,\n2026-01-31,team,100,EUR,\n"))
    months = [f"2026-{m:02d}" for m in range(1, 7)]
    spread = by_month(table, months)
    assert sum(spread.values()) == pytest.approx(sum(by_item(table).values()))
    assert spread["2026-02"] == pytest.approx(110)
    with pytest.raises(InputError, match="only one-off costs"):
        by_month(CostTable("EUR", (Cost("once", "setup", 1.0, "EUR"),)))


def test_serving_has_no_price_without_a_measurement() -> None:
    with pytest.raises(InputError, match="no prediction was measured"):
        cost_per_1000(Usage(0, 1.0, 1.0, 0.1), 0.05, 0.005)


def test_a_plan_keeps_the_basis_of_each_line() -> None:
    costs = Costs(
        items=(CostItem(item="team", amount=10, basis="measured"), CostItem(item="setup", amount=60, period="once"))
    )
    table = plan(costs, ["2026-01", "2026-02"], 1000, 0.5)
    assert {c.item: c.basis for c in table.lines} == {"team": "measured", "setup": "assumed", "serving": "measured"}
    assert table.basis == "assumed"


def test_a_cell_of_the_table_cannot_carry_markup() -> None:
    table = CostTable("EUR", (Cost("2026-01", "<script>alert(1)</script>", 1.0, "EUR"),))
    assert "<script>" not in cost_table(table).html()
