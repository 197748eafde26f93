"""What the benchmark tells, on known figures; speed itself is measured by `make bench` and asserted nowhere."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mlops_nb.core.errors import Refused
from tests import bench
from tests.bench import Measured

KNOWN = [
    Measured("echo", 64, 40000.0, 1.4, 2.44, 24.06, 320000, 0),
    Measured("ours, V2", 64, 24000.0, 2.5, 3.1, 40.0, 192000, 2),
    Measured("naive", 64, 4000.0, 14.0, 40.0, 250.0, 32000, 0),
    Measured("ours, V2", 1, 3000.0, 0.3, 0.9, 90.0, 24000, 0),  # alone at one connection: nothing to compare with
]


def test_table_gives_figures_and_ratios_within_one_connection_count() -> None:
    lines = bench.table(KNOWN).splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["echo", "64", "40,000", "1.40", "2.44", "24.1", "96%", "0", "1.00", "10.00"]
    assert cells[3] == ["ours, V2", "64", "24,000", "2.50", "3.10", "40.0", "96%", "2", "0.60", "6.00"]
    assert cells[5][-2:] == ["-", "-"]
    assert len({len(line) for line in lines}) == 1, "columns are aligned"


def test_limits_take_the_most_connections_and_the_best_batch() -> None:
    echo = [Measured("echo", 1, 8000.0, 0, 0, 0, 0, 0), *KNOWN]
    found = bench.limits(echo, {1: 10_000.0, 64: 40_000.0, 256: 30_000.0})
    assert found == {"L1": 40_000.0, "L2": 40_000.0, "L3": 20_000.0}


def test_result_of_wrk_is_read_and_its_absence_refused() -> None:
    assert bench.read_load('Running\n\nMEASURED {"answers": 3}\n') == {"answers": 3}
    with pytest.raises(Refused, match="wrk: no result: unable to connect"):
        bench.read_load("unable to connect")


def test_missing_wrk_is_one_line_and_exit_code_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bench.main(["--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "bench: 'wrk' is not on PATH; install the Debian package wrk\n"
    assert not list(tmp_path.iterdir())


def test_echo_reads_the_whole_body_first() -> None:
    parts: list[dict[str, Any]] = [{"more_body": True}, {"more_body": True}, {"more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return parts.pop(0)

    async def send(message: dict[str, Any]) -> None:
        assert not parts
        sent.append(message)

    asyncio.run(bench.echo({"type": "http"}, receive, send))
    assert json.loads(sent[1]["body"]) == {"p": [0.5, 0.5]}
