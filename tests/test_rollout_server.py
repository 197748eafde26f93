"Rollouts on the real server with two workers: shadow, canary, rollback by command and by itself, and the faults around them."

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlops_nb.core.files import read_json
from mlops_nb.serving.moves import read_events
from mlops_nb.serving.routing import RouteFile, choose
from mlops_nb.trial.client import Client
from tests.serving_bundle import ENDLESS, NOT_A_NUMBER, POISON, ROW, Running, expected, make_bundle, running
from tests.serving_lab import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("rollout")]

# nobody is slow: a machine that stands still now and then is no fault of the version that was asked
QUICK = {"steps": [0.5, 1.0], "hold_s": 0.5, "detect": 0.5, "false_rollback": 0.2, "slow_ms": 60_000}
PATIENT = QUICK | {"hold_s": 3600}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    "A champion without faults; candidates that are like it, or not."
    folder = tmp_path_factory.mktemp("bundles")
    kinds = {"champion": (0.0, False), "same": (0.0, False), "faulty": (0.0, True), "shifted": (4.0, False)}
    made = {k: make_bundle(folder, k, shift=shift, faults=faults) for k, (shift, faults) in kinds.items()}
    made["corrupt"] = make_bundle(folder, "corrupt", shift=0.5)
    (made["corrupt"] / "model.onnx").write_bytes(b"x" + (made["corrupt"] / "model.onnx").read_bytes()[1:])
    made["wrong"] = make_bundle(folder, "wrong", offset=0.1)
    return made


@pytest.fixture(scope="module")
def shared(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    "Two workers, ready, for all tests that leave them whole."
    with pair(tmp_path_factory.mktemp("shared"), bundles["champion"]) as s:
        yield s


@pytest.fixture
def server(shared: Running, bundles: dict[str, Path]) -> Running:
    "The shared server, everything on the champion and nothing told yet."
    until(
        lambda: post(shared, "promote", bundle=str(bundles["champion"])).status_code == 200
    )  # a move may be under way
    until(lambda: rollout(shared).get("state") != "running")
    (shared.state_dir / "events.jsonl").unlink()
    return shared


@contextlib.contextmanager
def pair(folder: Path, *serving: Path, **settings: Any) -> Iterator[Running]:
    settings = {"serve_model_timeout_ms": 1000, **settings}  # of rows that never end
    with running(folder, *serving, arguments=["--workers", "2"], **settings) as s:
        until(lambda: s.metric("ready_workers") == 2)
        yield s


def version(bundle: Path) -> str:
    return bundle.name[-12:]


def post(server: Running, path: str, **body: Any) -> httpx.Response:
    return server.client.post(f"/admin/{path}", json=body, timeout=180)


def rollout(server: Running) -> dict[str, Any]:
    found: dict[str, Any] = server.client.get("/admin/rollout").json()
    return found


def send(server: Running, units: Sequence[str], row: dict[str, Any] = ROW) -> dict[str, tuple[str, float]]:
    "One request a unit, over many connections; unit to its arm and the probability it was told."

    def one(unit: str) -> tuple[str, tuple[str, float]]:
        client = Client(server.url, timeout_s=60)  # a connection of its own: whichever worker takes it
        reply = client.post("/predict", {"rows": [row], "unit_ids": [unit]})
        client.close()
        assert reply.ok, reply.said()
        assert reply.headers["x-arm"] == reply.body["arm"]
        return unit, (reply.body["arm"], reply.body["predictions"][0]["probability"]["Yes"])

    with ThreadPoolExecutor(8) as pool:
        return dict(pool.map(one, units))


def drive(server: Running, row: dict[str, Any], state: str) -> dict[str, Any]:
    "Send traffic until the rollout has ended, for a few minutes at most."
    end, turn = time.monotonic() + 240, 0
    while rollout(server)["state"] not in (state, "rolled_back", "finished") and time.monotonic() < end:
        send(server, [f"u{turn}-{i}" for i in range(40)], row)
        turn += 1
    return rollout(server)


def test_a_version_like_the_champion_is_promoted(server: Running, bundles: dict[str, Path]) -> None:
    assert post(server, "canary", bundle=str(bundles["same"]), policy=QUICK).status_code == 200
    doc = drive(server, ROW, "finished")
    assert doc["state"] == "finished"
    assert [h["share"] for h in doc["history"]] == [0.5, 1.0, 1.0]
    routes = RouteFile(server.state_dir).read()
    assert routes.previous is not None
    assert (routes.champion.version, routes.previous.version) == (
        version(bundles["same"]),
        version(bundles["champion"]),
    )
    assert {e["event"] for e in read_events(server.state_dir)} == {"rollout.step", "version.moved"}
    assert {a for a, _ in send(server, ["a", "b", "c", "d"]).values()} == {"champion"}


@pytest.mark.parametrize(
    ("kind", "row", "metrics"),
    [
        ("faulty", ROW | {"tenure": POISON}, {"degraded"}),
        ("faulty", ROW | {"tenure": NOT_A_NUMBER}, {"degraded"}),
        ("faulty", ROW | {"tenure": ENDLESS}, {"degraded", "slow"}),
        ("shifted", ROW | {"tenure": 70}, {"drift"}),
    ],
    ids=["raises", "not a number", "hangs", "drifts"],
)
def test_a_worse_version_is_taken_back_before_the_next_step(
    server: Running, bundles: dict[str, Path], kind: str, row: dict[str, Any], metrics: set[str]
) -> None:
    assert post(server, "canary", bundle=str(bundles[kind]), policy=PATIENT | {"drift_margin": 1.5}).status_code == 200
    doc = drive(server, row, "rolled_back")
    assert doc["state"] == "rolled_back"
    assert doc["reason"]["args"]["metric"] in metrics
    assert [h["share"] for h in doc["history"]] == [0.5, 0.0]
    last = read_events(server.state_dir)[-1]
    assert (last["event"], last["actor"]) == ("rollout.rolled_back", "rollout")
    assert last["data"]["text"] == doc["reason"]["text"]
    told = send(server, [f"v{i}" for i in range(20)])
    assert {a for a, _ in told.values()} == {"champion"}
    assert post(server, "canary", bundle=str(bundles["same"]), policy=PATIENT).status_code == 200, "another may follow"


def test_units_stay_with_their_arm_over_workers_steps_and_restarts(bundles: dict[str, Path], tmp_path: Path) -> None:
    units = [f"unit-{i}" for i in range(120)]
    with pair(tmp_path, bundles["champion"]) as server:
        policy = PATIENT | {"steps": [0.3, 1.0]}
        assert post(server, "canary", bundle=str(bundles["shifted"]), policy=policy).status_code == 200
        first = send(server, units)
        assert send(server, units) == first
        assert 20 < sum(a == "challenger" for a, _ in first.values()) < 55
        assert {round(p, 5) for a, p in first.values() if a == "challenger"} == {round(expected(ROW, 4.0), 5)}
        routes = RouteFile(server.state_dir).read()
        assert {u: choose(routes, u).role for u in units} == {u: a for u, (a, _) in first.items()}
        server.stop()
    with pair(tmp_path, bundles["champion"]) as server:
        assert send(server, units) == first
        assert rollout(server)["state"] == "running"
        split = [{"version": version(bundles["shifted"]), "share": 0.6}]
        assert post(server, "split", arms=split).status_code == 200
        wider = send(server, units)
        assert {u for u, (a, _) in first.items() if a == "challenger"} < {
            u for u, (a, _) in wider.items() if a == "challenger"
        }
        until(lambda: rollout(server)["state"] == "stopped")


def test_a_restart_leaves_a_challenger_behind_that_is_gone(bundles: dict[str, Path], tmp_path: Path) -> None:
    gone = make_bundle(tmp_path / "b", "gone", shift=0.1)
    with pair(tmp_path, bundles["champion"]) as server:
        assert post(server, "canary", bundle=str(gone), policy=PATIENT).status_code == 200
        server.stop()
    (gone / "rule.json").unlink()
    with pair(tmp_path, bundles["champion"]) as server:
        assert {a for a, _ in send(server, [f"u{i}" for i in range(20)]).values()} == {"champion"}
        until(lambda: rollout(server)["state"] == "stopped")


def test_rollback_during_a_canary_loses_nobody(server: Running, bundles: dict[str, Path]) -> None:
    assert post(server, "canary", bundle=str(bundles["shifted"]), policy=PATIENT).status_code == 200
    units = [f"u{i}" for i in range(800)]
    before = server.metric('compared_total{side="new",what="requests"}')
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(send, server, units)
        until(lambda: server.metric('compared_total{side="new",what="requests"}') > before + 10)
        done = post(server, "rollback")
        assert done.status_code == 200
        told = under_way.result()
    assert Counter(a for a, _ in told.values())["challenger"] > 10
    assert {a for a, _ in send(server, units).values()} == {"champion"}
    assert done.json()["champion"] == version(bundles["champion"])
    until(lambda: rollout(server)["state"] == "stopped")
    assert rollout(server)["reason"]["args"]["actor"] == "anonymous"


def test_a_bundle_that_is_not_what_it_should_be_leaves_the_old_serving(
    server: Running, bundles: dict[str, Path]
) -> None:
    for kind, why in (("corrupt", "model.onnx"), ("wrong", "golden rows get another answer")):
        for path in ("canary", "shadow", "promote"):
            reply = post(server, path, bundle=str(bundles[kind]))
            assert reply.status_code == 409, reply.text
            assert why in reply.json()["error"]["message"]
    assert {a for a, _ in send(server, ["a", "b", "c", "d"]).values()} == {"champion"}
    assert [a.role for a in RouteFile(server.state_dir).read().arms] == ["champion"]
    assert read_events(server.state_dir) == []


def test_a_policy_that_makes_no_sense_is_refused(server: Running, bundles: dict[str, Path]) -> None:
    for policy, why in (({"steps": [0.5, 0.1]}, "shares must rise"), ({"hold": 3}, "did you mean 'hold_s'")):
        reply = post(server, "canary", bundle=str(bundles["same"]), policy=policy)
        assert reply.status_code == 409
        assert why in reply.json()["error"]["message"]
    assert post(server, "canary", bundle=str(bundles["same"]), policy=PATIENT).status_code == 200
    twice = post(server, "canary", bundle=str(bundles["shifted"]), policy=PATIENT)
    assert "is running; let it end, or roll it back" in twice.json()["error"]["message"]


def test_a_version_that_earns_less_is_taken_back(bundles: dict[str, Path], tmp_path: Path) -> None:
    policy = PATIENT | {"kpi": "revenue", "auc_floor": 0.5}
    with pair(tmp_path, bundles["champion"], serve_log_seal_s=0.3) as server:
        assert post(server, "canary", bundle=str(bundles["same"]), policy=policy).status_code == 200
        client, told = Client(server.url), []
        for i in range(300):
            reply = client.predict([ROW], [f"u{i}"])
            won = 0.0 if reply["arm"] == "challenger" else 20.0
            told.append({"prediction_id": reply["predictions"][0]["id"], "kind": "revenue", "value": won})
        client.outcomes([o | {"time": "2026-11-21T10:00:00Z"} for o in told])
        client.close()
        until(lambda: rollout(server)["state"] == "rolled_back")
        assert rollout(server)["reason"]["args"]["metric"] == "kpi"


def test_a_shadow_that_fails_or_hangs_changes_nothing(server: Running, bundles: dict[str, Path]) -> None:
    assert post(server, "shadow", bundle=str(bundles["faulty"])).status_code == 200
    rows = [ROW, ROW | {"tenure": NOT_A_NUMBER}, ROW | {"tenure": POISON}, ROW | {"tenure": ENDLESS}]
    for turn in range(3):
        for row in rows:
            told = send(server, [f"u{turn}-{i}" for i in range(8)], row)
            assert {a for a, _ in told.values()} == {"champion"}
            assert {round(p, 5) for _, p in told.values()} == {round(expected(row), 5)}
    until(lambda: server.metric('shadow_rows_total{outcome="failed"}') > 0)
    until(lambda: server.metric('shadow_rows_total{outcome="answered"}') > 0)


def pids(server: Running) -> dict[str, int]:
    "Processes of the workers that have acknowledged the routes."
    return {p.stem: read_json(p)["pid"] for p in (server.state_dir / "workers").glob("*.json")}


def test_another_worker_goes_on_when_the_leader_is_killed(server: Running, bundles: dict[str, Path]) -> None:
    assert post(server, "canary", bundle=str(bundles["faulty"]), policy=PATIENT).status_code == 200
    send(server, [f"a{i}" for i in range(60)])
    before = until(lambda: rollout(server).get("judged"))
    for worker, pid in pids(server).items():  # one after the other: whoever of them leads
        os.kill(pid, signal.SIGKILL)
        until(lambda w=worker, p=pid: pids(server)[w] != p)
    doc = drive(server, ROW | {"tenure": NOT_A_NUMBER}, "rolled_back")
    assert doc["state"] == "rolled_back"
    judged = doc["judged"]["metrics"]["error"]
    assert judged["new"] > before["metrics"]["error"]["new"]


def test_a_cache_never_mixes_versions(bundles: dict[str, Path], tmp_path: Path) -> None:
    with pair(tmp_path, bundles["champion"], serve_cache_rows=100) as server:
        assert post(server, "canary", bundle=str(bundles["shifted"]), policy=PATIENT).status_code == 200
        for _ in range(3):
            for arm, p in send(server, [f"u{i}" for i in range(24)]).values():
                assert p == pytest.approx(expected(ROW, 4.0 if arm == "challenger" else 0.0), abs=1e-6)
        units = [f"u{i}" for i in range(24)]
        for path, body, shift in (("promote", {"version": version(bundles["shifted"])}, 4.0), ("rollback", {}, 0.0)):
            assert post(server, path, **body).status_code == 200
            assert {round(p, 5) for _, p in send(server, units).values()} == {round(expected(ROW, shift), 5)}


def test_swaps_under_load_fail_nobody(server: Running, bundles: dict[str, Path]) -> None:
    with ThreadPoolExecutor(1) as pool:
        under_way = pool.submit(send, server, [f"u{i}" for i in range(2000)])
        for kind in ("same", "shifted", "champion"):
            assert post(server, "promote", bundle=str(bundles[kind])).status_code == 200
        assert len(under_way.result()) == 2000
    assert RouteFile(server.state_dir).read().champion.version == version(bundles["champion"])
