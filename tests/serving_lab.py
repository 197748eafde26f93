"""Servers for fault tests: shared where a fault leaves them whole, with doubles around them and guards taken out."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

from mlops_nb.core.processes import die_with_parent
from tests.serving_bundle import ROW, Running, make_bundle, running
from tests.serving_patches import CLOCK, MOOD

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Lab:
    "Starts servers and keeps them for the next fault that wants the same."

    folder: Path
    without: Sequence[str] = ()  # guards that are taken out
    _open: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _servers: dict[str, Running] = field(default_factory=dict)
    _running: list[Running] = field(default_factory=list)
    _bundles: dict[str, Path] = field(default_factory=dict)

    def __enter__(self) -> Lab:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server in self._running:
            if server.process.poll() is None:
                server.process.terminate()
        self._open.close()

    def bundle(self, name: str = "churn", **options: Any) -> Path:
        "A bundle, made once."
        key = repr((name, sorted(options.items())))
        if key not in self._bundles:
            self._bundles[key] = make_bundle(self.folder / f"bundles{len(self._bundles)}", name, **options)
        return self._bundles[key]

    def server(
        self,
        *bundles: Path,
        doubles: Sequence[str] = (),
        arguments: Sequence[str] = (),
        preexec: Callable[[], None] = die_with_parent,
        alone: bool = False,  # the fault leaves it in another state
        at_load: dict[str, Any] | None = None,  # mood of the primary while it is timed
        **settings: Any,
    ) -> Running:
        "The real server; one that another fault left whole, if there is one."
        key = repr((bundles, doubles, arguments, preexec, at_load, sorted(settings.items())))
        if alone or key not in self._servers:
            folder = self.folder / f"server{len(list(self.folder.glob('server*')))}"
            folder.mkdir(parents=True)
            patches = " ".join([*doubles, *self.without])
            environ = {
                "CHILD_PATCHES": patches,
                "PYTHONPATH": f"{ROOT / 'tests' / 'child'}{os.pathsep}{ROOT}",
                MOOD: str(folder / "mood.json"),
                CLOCK: str(folder / "clock"),
            }
            if at_load:
                (folder / "mood.json").write_text(json.dumps({"model.onnx": at_load}))
            bundles = bundles or (self.bundle(),)
            started = running(
                folder, *bundles, arguments=arguments, environ=environ if patches else None, preexec=preexec, **settings
            )
            server = self._open.enter_context(started)
            self._running.append(server)
            if alone:
                return server
            self._servers[key] = server
        return self._servers[key]

    def moods(self, *, doubles: Sequence[str] = ("moods",), **settings: Any) -> Running:
        "A server whose graphs have moods."
        return self.server(self.bundle(faults=False, lite=True), doubles=doubles, **settings)


@contextlib.contextmanager
def mood(server: Running, *graphs: str, **what: Any) -> Iterator[None]:
    "Graphs (default: the primary) behave like that, for a while."
    file = server.log_dir.parent / "mood.json"
    aside = file.with_suffix(".new")
    aside.write_text(json.dumps(dict.fromkeys(graphs or ["model.onnx"], what)))
    aside.rename(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def ask(server: Running, *rows: dict[str, Any], headers: dict[str, str] | None = None, **more: Any) -> list[Any]:
    "Predictions for rows."
    reply = server.client.post("/predict", json={"rows": rows or [ROW], **more}, headers=headers)
    assert reply.status_code == 200, reply.text
    found: list[Any] = reply.json()["predictions"]
    return found


patience = {"s": 60.0}  # how long a machine may be busy with something else


def until(condition: Callable[[], Any], timeout_s: float | None = None) -> Any:
    "The first true value of a condition that something else brings about; a worker that is gone may be asked, too."
    end = time.monotonic() + (timeout_s or patience["s"])
    while True:
        with contextlib.suppress(httpx.TransportError):
            if found := condition():
                return found
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def breakers(server: Running) -> dict[str, str]:
    "State of each level of the champion."
    status = server.client.get("/admin/status").json()
    return {level["level"]: level["breaker"] for level in status["versions"][0]["levels"]}


def counts(server: Running, level: str = "primary") -> dict[str, Any]:
    "What a level of the champion has done."
    status = server.client.get("/admin/status").json()
    found: dict[str, Any] = next(lv for lv in status["versions"][0]["levels"] if lv["level"] == level)
    return found


def resident_mib(pid: int) -> float:
    "Memory of a process."
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


class Raw:
    "A connection whose bytes are ours."

    def __init__(self, server: Running, timeout_s: float | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=timeout_s or patience["s"])
        self._read = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        "Send what the other side still takes."
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def more(self) -> bool:
        "Read something; false at the end."
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        self._read += data
        return bool(data)

    def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        "The next answer: status, headers, body; status 0 when the other side hung up."
        while b"\r\n\r\n" not in self._read:
            if not self.more():
                return 0, {}, self._read
        head, self._read = self._read.split(b"\r\n\r\n", 1)
        line, *fields = head.split(b"\r\n")
        headers = {k.lower(): v for k, v in (f.split(b": ", 1) for f in fields)}
        status = int(line.split()[1])
        if status == 100:
            return self.answer()
        size = int(headers.get(b"content-length", b"0"))
        while len(self._read) < size and self.more():
            pass
        body, self._read = self._read[:size], self._read[size:]
        return status, headers, body

    def closed(self) -> bool:
        "Whether the other side hangs up, sending nothing more."
        return not self.more()


def post(body: bytes, path: str = "/predict", *fields: bytes) -> bytes:
    "A request."
    head = [b"POST " + path.encode() + b" HTTP/1.1", b"host: x", *fields]
    if not any(f.lower().startswith((b"content-length", b"transfer-encoding")) for f in fields):
        head.append(b"content-length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


@contextlib.contextmanager
def stopped(server: Running) -> Iterator[None]:
    "What is sent meanwhile is read in one turn of the loop, however slowly it was sent."
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
