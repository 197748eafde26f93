"The server under trial: it ends with its parent, says why it did not start, and takes its settings along."

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import psutil
import pytest

from mlops_nb.core.errors import InputError, Refused, Unverifiable
from mlops_nb.core.settings import Settings
from mlops_nb.core.workspace import Workspace, stage_evidence
from mlops_nb.trial.client import Client
from mlops_nb.trial.drill import drill
from mlops_nb.trial.server import running, serving, settings_environment, usage
from mlops_nb.trial.stage import read_material
from tests.tried_workspace import tried

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("tried")]  # one workspace for all of them


def bundles(ws: Workspace) -> list[Path]:
    data = stage_evidence(ws, "export").data
    return [ws.root / data[role]["path"] for role in ("candidate", "baseline")]


def test_two_workers_answer_and_roll_back_together(tmp_path: Path) -> None:
    ws = tried()
    rows = read_material(ws).rows[:20]
    with serving(
        bundles(ws), log_dir=tmp_path / "logs", state_dir=tmp_path / "state", settings=Settings(serve_workers=2)
    ) as server:
        assert len(psutil.Process(server.process.pid).children()) == 2
        client = Client(server.url)
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda row: client.predict([row])["version"], rows * 5))
        assert set(answers) == {bundles(ws)[0].name[-12:]}
        done = drill(client, rows)
        assert done.failed == 0
        assert done.seconds < 5
        used = usage(server.process.pid)
        client.close()
        assert server.stop() == 0
    assert used.rss_bytes > usage(os.getpid()).rss_bytes / 10
    assert not psutil.pid_exists(server.process.pid)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_a_killed_trial_leaves_no_server(tmp_path: Path) -> None:
    code = f"""
import time
from mlops_nb.trial.server import serving
with serving({[str(b) for b in bundles(tried())]!r}, log_dir="logs", state_dir="state") as server:
    print(server.process.pid, flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, text=True)
    assert parent.stdout
    server = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    server.wait(timeout=10)
    assert not server.is_running()


def test_a_tampered_bundle_is_refused_in_the_servers_own_words(tmp_path: Path) -> None:
    import shutil

    bundle = tmp_path / bundles(tried())[0].name
    shutil.copytree(bundles(tried())[0], bundle)
    with (bundle / "model.onnx").open("r+b") as f:
        f.seek(100)
        f.write(b"\0\0\0\0")
    with (
        pytest.raises(Refused, match=r"the server ended: error: .*model\.onnx"),
        running([bundle], log_dir=tmp_path / "logs", state_dir=tmp_path / "state"),
    ):
        pass


def test_a_server_that_never_gets_ready_is_stopped(tmp_path: Path) -> None:
    started = time.monotonic()
    with (
        pytest.raises(Refused, match="the server is not ready after 0 s"),
        running(bundles(tried()), log_dir=tmp_path / "l", state_dir=tmp_path / "s", timeout_s=0.1),
    ):
        pass
    assert time.monotonic() - started < 30


def test_only_serving_settings_that_differ_travel() -> None:
    assert settings_environment(Settings(serve_queue_ms=5.0, lang="fr")) == {"MLOPS_NB_SERVE_QUEUE_MS": "5.0"}
    assert settings_environment(Settings()) == {}


class Closing(BaseHTTPRequestHandler):
    "Answers once and closes the connection without saying so."

    protocol_version = "HTTP/1.1"
    headers_seen: list[str | None] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.headers_seen.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
        self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


def test_a_connection_that_was_closed_is_opened_again() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Closing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = Client(f"http://127.0.0.1:{server.server_port}", key="secret")
    assert [client.get("/").status for _ in range(5)] == [200] * 5
    assert Closing.headers_seen == ["Bearer secret"] * 5
    client.close()
    server.shutdown()
    server.server_close()
    with pytest.raises(Unverifiable, match="no answer"):
        client.get("/")


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "https://example.org", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is no address of a server"):
        Client(url)
