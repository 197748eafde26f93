"""What the benchmark tells, on known figures; speed itself is measured by `make bench` and asserted nowhere."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_nb.core.errors import Refused
from tests import bench, bench_servers
from tests.bench_load import Measured, Open, read_load

KNOWN = [
    Measured("echo", 64, 40000.0, 1.4, 2.44, 24.06, 320000, 0, 0),
    Measured("ours, V2", 64, 24000.0, 2.5, 3.1, 40.0, 192000, 3840, 0),
    Measured("naive", 64, 4000.0, 14.0, 40.0, 250.0, 32000, 0, 0),
    Measured("ours, V2", 1, 3000.0, 0.3, 0.9, 90.0, 24000, 0, 0),  # alone at one connection: nothing to compare with
]


def test_table_gives_figures_and_ratios_within_one_connection_count() -> None:
    lines = bench.table(KNOWN, best_raw=40000.0).splitlines()
    cells = [[c.strip() for c in line.strip("|").split("|")] for line in lines]
    assert cells[2] == ["echo", "64", "40,000", "1.40", "2.44", "24.1", "96%", "0", "1.00", "2.00", "10.00"]
    assert cells[3] == ["ours, V2", "64", "24,000", "2.50", "3.10", "40.0", "96%", "3,840", "0.60", "1.20", "6.00"]
    assert cells[5][-3:] == ["-", "-", "-"]
    assert len({len(line) for line in lines}) == 1, "columns are aligned"


def test_goals_compare_with_the_best_batching_peer_and_say_what_is_not_met() -> None:
    peers = [Measured("LitServe", 64, 1200.0, 0, 0, 0, 0, 0, 0), Measured("MLServer", 64, 3000.0, 0, 0, 0, 0, 0, 0)]
    found = {"small": {"raw": {1: 200_000.0, 64: 4e6}, "measured": [asdict(m) for m in (*KNOWN, *peers)]}}
    goals = {goal: (measured, met) for goal, _, measured, met in bench.goals_of(found)}
    assert goals["small, 64 connections: share of the echo"] == ("60%", True)
    assert goals["small, 64 connections: times naive"] == ("6.0", True)
    assert goals["small, 64 connections: times the best batching peer"] == ("8.0", False)
    assert goals["one connection: p50 added to raw onnxruntime"][1] is True


def test_repeats_become_medians() -> None:
    runs = [asdict(Measured("echo", 1, v, 1.0, 2.0, 3.0, 4, 0, 0)) for v in (10.0, 90.0, 20.0)]
    assert bench.median_of(runs) == [Measured("echo", 1, 20.0, 1.0, 2.0, 3.0, 4, 0, 0)]


def test_result_of_wrk_is_read_and_its_absence_refused() -> None:
    assert read_load('Running\n\nMEASURED {"answers": 3}\n') == {"answers": 3}
    with pytest.raises(Refused, match="wrk: no result: unable to connect"):
        read_load("unable to connect")


def test_refusals_that_did_not_happen_are_a_fault(tmp_path: Path) -> None:
    run = bench.Bench(tmp_path, bench.QUICK, "0", "1")
    bench.refusals(run, Measured("ours", 16, 1.0, 0, 0, 0, 10_000, 200, 0), True)
    assert not run.faults
    bench.refusals(run, Measured("ours", 16, 1.0, 0, 0, 0, 10_000, 100, 0), True)
    bench.refusals(run, Measured("echo", 16, 1.0, 0, 0, 0, 10_000, 0, 3), False)
    assert [f.split(":")[1].split(" ")[1] for f in run.faults] == ["100", "3"]


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

    asyncio.run(bench_servers.echo({"type": "http"}, receive, send))
    assert json.loads(sent[1]["body"]) == {"p": [0.5, 0.5]}


@pytest.mark.parametrize("name", ["small", "mid"])
def test_models_answer_probabilities_that_differ_by_row(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(bench_servers.MODELS[name]())
    (found,) = bench_servers.session_of(tmp_path / "m.onnx").run(["probability"], {"X": bench_servers.matrix(50)})
    assert found.shape == (50, 2)
    assert np.allclose(found.sum(axis=1), 1, atol=1e-5)
    assert found[:, 1].std() > 0.05


def test_open_loop_counts_from_the_intended_moment() -> None:
    # one connection and a server that answers the first request late: those meant for the time in between wait with it
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                for i in range(20):
                    if not connection.recv(65536):
                        return
                    threading.Event().wait(0.3 if i == 0 else 0)
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        server = threading.Thread(target=serve)
        server.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/predict"
        generator = Open(url, [b"{}"], "none", rate=50, seconds=0.2, connections=1)
        generator.run()
        server.join()
    told = generator.told(deadline_s=0.05)
    assert told["accepted"] == len(generator.answers) > 2
    assert told["late"] > 1, "requests that were meant for the time of the stall are late too"


@pytest.mark.slow
@pytest.mark.parametrize("part", ["small"])
def test_a_quick_run_finds_no_fault(part: str, tmp_path: Path) -> None:
    assert bench.main(["--quick", "--part", part, "--out", str(tmp_path)]) == 0
    saved = json.loads((tmp_path / "bench_serving.json").read_text())
    assert saved["faults"] == []
    assert part in saved
    assert "| goal" in (tmp_path / "bench_serving.md").read_text()
