"Bad input ends with code 2 and one line that names the file, the column or key and what to do; nothing is half-written."

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_nb.core.workspace import Workspace
from tests.conftest import Cli
from tests.tables import TARGETS, loans, write_csv

GOOD = "amount,purpose,defaulted\n" + "".join(
    f"{i},{'car' if i % 3 else 'house'},{'yes' if i % 4 else 'no'}\n" for i in range(200)
)
BAD_TABLES = {
    "misspelt target": (GOOD.encode(), "defualted", r"t\.csv: .*defualted.*defaulted"),
    "missing target": (GOOD.encode(), "price", r"t\.csv: .*price"),
    "empty file": (b"", "defaulted", r"t\.csv: .*empty"),
    "header only": (b"amount,purpose,defaulted\n", "defaulted", r"t\.csv: .*(no rows|rows)"),
    "one class": (GOOD.replace(",no\n", ",yes\n").encode(), "defaulted", r"defaulted.*(one class|only one|single)"),
    "duplicate columns": (GOOD.replace("amount,purpose", "amount,amount").encode(), "defaulted", r"t\.csv: .*amount"),
    "not UTF-8": (GOOD.replace("house", "maison privée").encode("latin-1"), "defaulted", r"t\.csv:2: .*UTF-8"),
    "a handful of rows": ("\n".join(GOOD.splitlines()[:8]).encode(), "defaulted", r"\b7\b.*rows"),
    "ragged": (GOOD.replace("5,car,yes", "5,car,yes,again", 1).encode(), "defaulted", r"t\.csv:7: "),
}


def one_line(stderr: str) -> str:
    lines = stderr.strip().splitlines()
    assert len(lines) == 1, stderr
    assert "Traceback" not in stderr
    assert lines[0].startswith("mlops-nb: ")
    return lines[0]


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_table_that_cannot_be_used(cli: Cli, tmp_path: Path, case: str) -> None:
    content, target, says = BAD_TABLES[case]
    (tmp_path / "t.csv").write_bytes(content)
    done = cli("init", tmp_path / "ws", "--data", tmp_path / "t.csv", "--target", target)
    assert done.returncode == 2, done.stdout + done.stderr
    line = one_line(done.stderr)
    assert re.search(says, line), line
    assert ";" in line, f"no remedy: {line}"
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_corrupt_parquet(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"PAR1 this is not a table")
    done = cli("init", tmp_path / "ws", "--data", tmp_path / "t.parquet", "--target", "y")
    assert done.returncode == 2
    assert "t.parquet" in one_line(done.stderr)


@pytest.fixture(scope="module")
def made(cli: Cli, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad")
    assert cli("init", folder / "ws", "--data", write_csv(folder, "wine"), "--target", "target").returncode == 0
    return folder / "ws"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "p99_ms = 200.0",
            "p99 = 200.0",
            r"charter\.toml: unknown key 'criteria\.latency\.p99'; did you mean 'p99_ms'",
        ),
        ("completeness = 0.95", "completeness = 95", r"charter\.toml: 'criteria\.data_quality\.completeness' = 95"),
        ('task = "multiclass"', 'task = "ranking"', r"charter\.toml: 'data\.task' = 'ranking'"),
        ("threshold = ", "threshold = = ", r"charter\.toml: not valid TOML"),
        ('file = "data/wine.csv"', 'file = "data/wein.csv"', r"data/wein\.csv: no such file"),
        ('target = "target"', 'target = "taregt"', r"taregt.*target"),
    ],
)
def test_a_wrong_charter_stops_the_run_before_anything_is_written(
    cli: Cli, made: Path, old: str, new: str, says: str
) -> None:
    ws = Workspace(made)
    text = ws.charter_file.read_text()
    assert old in text
    ws.charter_file.write_text(text.replace(old, new, 1))
    try:
        done = cli("run", made)
        assert done.returncode == 2, done.stdout + done.stderr
        assert re.search(says, one_line(done.stderr)), done.stderr
        assert not ws.evidence.exists() or not list(ws.evidence.iterdir())
        assert not ws.frozen_file.exists()
    finally:
        ws.charter_file.write_text(text)


def test_what_is_not_a_workspace(cli: Cli, tmp_path: Path) -> None:
    for command in (["run", tmp_path], ["score", tmp_path], ["report", "audit", tmp_path], ["run", tmp_path / "none"]):
        done = cli(*command)
        assert done.returncode == 2, command
        assert "mlops-nb init" in one_line(done.stderr)


def test_init_does_not_touch_a_folder_that_is_not_empty(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "ws").mkdir()
    (tmp_path / "ws" / "mine.txt").write_text("mine")
    done = cli("init", tmp_path / "ws", "--data", write_csv(tmp_path, "wine"), "--target", "target")
    assert done.returncode == 2
    assert "not empty" in one_line(done.stderr)
    assert [p.name for p in (tmp_path / "ws").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    "arguments",
    [["init", "ws"], ["init", "ws", "--data", "x.csv"], ["init", "ws", "--example", "chrun"], ["rnu", "ws"], ["run"]],
)
def test_bad_usage_is_code_2(cli: Cli, tmp_path: Path, arguments: list[str]) -> None:
    done = cli(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    one_line(done.stderr)


def test_columns_that_cannot_be_inputs_are_left_out_with_a_warning(cli: Cli, tmp_path: Path) -> None:
    frame = loans(800)
    frame["nothing"] = np.nan
    frame["always"] = "same"
    frame["loan_id"] = [f"L{i:06d}" for i in range(len(frame))]
    frame["mixed"] = ["12" if i % 5 else "unknown" for i in range(len(frame))]
    frame.to_csv(tmp_path / "loans.csv", index=False)
    assert cli("init", tmp_path / "ws", "--data", tmp_path / "loans.csv", "--target", TARGETS["loans"]).returncode == 0
    done = cli("data", tmp_path / "ws")
    assert done.returncode == 0, done.stderr
    evidence = json.loads((tmp_path / "ws" / "evidence" / "data.json").read_text())
    told = json.dumps(evidence["warnings"])
    for column in ("nothing", "always", "loan_id", "mixed"):
        assert column in told, column
    contract = json.loads((tmp_path / "ws" / "contract.json").read_text())
    inputs = {c["name"] for c in contract["columns"]}
    assert inputs.isdisjoint({"nothing", "always", "loan_id"})
    assert "mixed" in inputs


def test_a_parquet_table_works_like_a_csv(cli: Cli, tmp_path: Path) -> None:
    frame: pd.DataFrame = loans(400)
    frame.to_parquet(tmp_path / "loans.parquet")
    assert cli("init", tmp_path / "ws", "--data", tmp_path / "loans.parquet", "--target", "defaulted").returncode == 0
    assert cli("data", tmp_path / "ws").returncode == 0


def test_a_place_that_cannot_be_written_is_named_and_is_no_fault_of_ours(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(GOOD)
    for place, *arguments in (
        (tmp_path / "t.csv" / "ws", "init", tmp_path / "t.csv" / "ws", "--example", "churn"),
        (tmp_path / "t.csv" / "k.toml", "kpi", "write", "churn", tmp_path / "t.csv" / "k.toml"),
        (tmp_path / "t.csv" / "logs", "serve", "bundle", "--log-dir", tmp_path / "t.csv" / "logs"),
    ):
        done = cli(*arguments)
        assert done.returncode == 2, done.stdout + done.stderr
        assert str(place.parent) in one_line(done.stderr)
    assert (tmp_path / "t.csv").read_text() == GOOD
