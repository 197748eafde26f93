"Running the server: who may ask, TLS, spans, the cache, what a host application sees, and how it stops."

from __future__ import annotations

import asyncio
import contextlib
import gzip
import ipaddress
import json
import os
import signal
import ssl
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import jwt
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fastapi import FastAPI
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from mlops_nb.core.errors import MissingExtra
from mlops_nb.core.settings import Settings
from mlops_nb.serving import server as server_module
from mlops_nb.serving.app import create_app
from mlops_nb.serving.identity import new_key, revoke_key
from mlops_nb.serving.log import read_log
from tests.conftest import Cli
from tests.serving_bundle import CONTRACT, NOT_A_NUMBER, PATIENT, ROW, Running, expected, make_bundle, running
from tests.serving_lab import until


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"))


def ask(server: Running, *rows: dict[str, Any], key: str = "", **more: Any) -> httpx.Response:
    "A request with rows."
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return server.client.post("/predict", json={"rows": rows or [ROW], **more}, headers=headers)


# Who may ask


def pem(private: Any) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return str(private.public_key().public_bytes(serialization.Encoding.PEM, form).decode())


def token(private: Any, algorithm: str, **claims: Any) -> str:
    said = {"sub": "batch", "roles": ["predict"], "exp": time.time() + 600, "aud": "scoring", **claims}
    kid = claims.pop("kid", None)
    said.pop("kid", None)
    return jwt.encode(said, private, algorithm, headers={"kid": kid} if kid else None)


def test_keys_and_tokens_change_while_the_server_runs(bundle: Path, tmp_path: Path) -> None:
    "Made, revoked, rotated: over a real socket, without a restart, and never by one worker's memory of yesterday."
    keys, tokens = tmp_path / "keys.json", tmp_path / "tokens.pem"
    first = new_key(keys, "crm")
    old, new, foreign = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
    tokens.write_text(pem(old))
    settings = {"serve_keys_file": keys, "serve_jwt_key_file": tokens, "serve_jwt_audience": "scoring"}
    with running(tmp_path / "run", bundle, **settings) as server:
        good = token(old, "ES256")
        assert [ask(server, key=k).status_code for k in (first, good, "", "crm.x", token(foreign, "ES256"))] == [
            *(200, 200, 401, 401, 401)
        ]
        assert ask(server, key=token(old, "ES256", aud="elsewhere")).status_code == 401
        headers = {"authorization": f"bearer {first}"}
        assert server.client.post("/predict", json={"rows": [ROW]}, headers=headers).status_code == 200
        assert ask(server, key=token(old, "ES256", exp=time.time() - 1)).status_code == 401
        assert ask(server, key=token(old, "ES256", nbf=time.time() + 60)).status_code == 401
        assert ask(server, key=token(old, "ES256", roles=["outcomes"])).status_code == 403
        second = new_key(keys, "erp")
        until(lambda: ask(server, key=second).status_code == 200)
        revoke_key(keys, "crm")
        until(lambda: ask(server, key=first).status_code == 401)
        assert ask(server, key=token(new, "ES256")).status_code == 401
        tokens.write_text(pem(old) + pem(new))
        until(lambda: ask(server, key=token(new, "ES256")).status_code == 200)
        assert ask(server, key=good).status_code == 200, "both keys hold while they are rotated"
        tokens.write_text(pem(new))
        until(lambda: ask(server, key=good).status_code == 401)
        for torn, data in ((tokens, b"\xff"), (keys, b"{")):
            torn.write_bytes(data)
            until(lambda t=torn: any(t.name in e.get("problem", "") for e in server.events()))
        assert ask(server, key=second).status_code == 200, "a broken file changes nothing"
        said = server.errors.read_text()
    assert not any(secret.partition(".")[2] in said for secret in (first, second))
    assert good not in said


def jwks(**keys: Any) -> str:
    "Public keys as a JWKS document."
    kinds = {rsa.RSAPrivateKey: ("RSAAlgorithm", "RS256"), ed25519.Ed25519PrivateKey: ("OKPAlgorithm", "EdDSA")}
    found = []
    for kid, private in keys.items():
        name, alg = next(v for k, v in kinds.items() if isinstance(private, k))
        found.append(
            {**getattr(jwt.algorithms, name).to_jwk(private.public_key(), as_dict=True), "kid": kid, "alg": alg}
        )
    return json.dumps({"keys": found})


def test_a_jwks_document_names_its_keys(tmp_path: Path) -> None:
    from mlops_nb.serving.identity import token_verifier

    a, b = rsa.generate_private_key(65537, 2048), ed25519.Ed25519PrivateKey.generate()
    file = tmp_path / "jwks.json"
    file.write_text(jwks(a=a, b=b))
    verify = token_verifier(Settings(serve_jwt_key_file=str(file)))
    assert verify is not None
    for private, algorithm, kid, accepted in (
        (a, "RS256", "a", True),
        (b, "EdDSA", "b", True),
        (a, "RS256", None, True),
        (a, "RS256", "b", False),
        (a, "RS256", "c", False),
    ):
        assert (verify(token(private, algorithm, kid=kid)) is not None) is accepted, (algorithm, kid)
    shared = "a secret of more than thirty-two bytes, shared"
    (tmp_path / "secret").write_text(shared + "\n")
    verify = token_verifier(Settings(serve_jwt_key_file=str(tmp_path / "secret"), serve_jwt_algorithms="HS256"))
    assert verify is not None
    assert verify(token(shared, "HS256")) is not None
    assert verify(token(shared + "x", "HS256")) is None


def test_keys_from_the_command_line(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    made = cli("keys", "make", file, "crm", "--role", "predict", "--role", "outcomes")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("crm.")
    assert "shown once" in made.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    assert made.stdout.strip().partition(".")[2] not in file.read_text()
    shown = cli("keys", "list", file)
    assert ("crm" in shown.stdout, "predict, outcomes" in shown.stdout) == (True, True)
    assert cli("keys", "revoke", file, "nobody").returncode == 2
    assert cli("keys", "revoke", file, "crm").returncode == 0
    assert "no keys" in cli("keys", "list", file).stdout


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    "A certificate for this machine, and its key."
    folder = tmp_path_factory.mktemp("tls")
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
    made = (
        made.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1)).add_extension(here, False)
    )
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key.write_bytes(private.private_bytes(*form))
    return cert, key


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_tls_on_a_real_socket(bundle: Path, certificate: tuple[Path, Path], tmp_path: Path, workers: int) -> None:
    cert, key = certificate
    trusting = ssl.create_default_context(cafile=str(cert))
    settings = {"serve_tls_cert": cert, "serve_tls_key": key, "serve_workers": workers}
    with running(tmp_path, bundle, scheme="https", verify=trusting, **settings) as server:
        assert ask(server).json()["predictions"][0]["probability"]["Yes"] == pytest.approx(expected(ROW), abs=1e-6)
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{server.port}/v2/health/live", trust_env=False)
        assert server.stop() == 0


# Configuration


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"SERVE_HOST": "0.0.0.0"}, "there is no authentication"),
        ({"SERVE_HOST": "no.such.host.invalid"}, "there is no authentication"),
        ({"SERVE_WORKERS": "0"}, "'serve_workers' = '0'"),
        ({"SERVE_KEYS_FILE": "{here}/nothing.json"}, "no such file"),
        ({"SERVE_KEYS_FILE": "{here}/broken.json"}, "not a keys file"),
        ({"SERVE_JWT_KEY_FILE": "{here}/short"}, "at least 32 bytes"),
        ({"SERVE_JWT_KEY_FILE": "{here}/binary"}, "this is no text"),
        ({"SERVE_JWT_KEY_FILE": "{here}/long"}, "cannot verify RS256 or ES256 or EdDSA"),
        ({"SERVE_JWT_KEY_FILE": "{here}/long", "SERVE_JWT_ALGORITHMS": "HS257"}, "unknown algorithm 'HS257'"),
        ({"SERVE_TLS_CERT": "{here}/long"}, "TLS needs a certificate and a key"),
        ({"SERVE_TLS_CERT": "{here}/long", "SERVE_TLS_KEY": "{here}/nothing"}, "no such file"),
        ({"SERVE_TLS_CERT": "{here}/long", "SERVE_TLS_KEY": "{here}/long"}, "not a certificate and its key"),
        ({"SERVE_OTEL_ENDPOINT": "collector:4318"}, "is no address"),
        ({"SERVE_LOG_REDACT": "tenure, salary"}, "no column 'salary'"),
        ({"SERVE_PROVIDERS": "MagicExecutionProvider"}, "MagicExecutionProvider"),
        ({"SERVE_CACHE_TTL_S": "0"}, "serve_cache_ttl_s"),
        ({"SERVE_QUEUE": "1"}, "did you mean"),
    ],
)
def test_a_wrong_setting_is_one_line_and_no_port(
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
    message: str,
) -> None:
    (tmp_path / "broken.json").write_text('{"keys": [{"name": 1}]}')
    (tmp_path / "short").write_text("secret")
    (tmp_path / "binary").write_bytes(b"\xff" * 40)
    (tmp_path / "long").write_text("a secret of more than thirty-two bytes")
    for name, value in environ.items():
        monkeypatch.setenv(f"MLOPS_NB_{name}", value.format(here=tmp_path))
    monkeypatch.setattr(server_module, "bind", lambda settings: pytest.fail("the port was opened"))
    assert server_module.main([str(bundle), "--port", "0"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert message in said[0]


def test_spans_without_their_packages_say_which_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mlops_nb\[otel\]'"):
        server_module.check_settings(Settings(serve_otel_endpoint="http://127.0.0.1:4318/v1/traces"))


def plain() -> dict[str, str]:
    "The environment without coverage of child processes, which is slow."
    return {k: v for k, v in os.environ.items() if not k.startswith("COVERAGE")}


# Spans


class Collector(ThreadingHTTPServer):
    "An OTLP receiver that keeps what it gets."

    def __init__(self, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _Receive)
        self.spans: list[Any] = []
        self.status = status
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/traces"


class _Receive(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            data = gzip.decompress(data)
        for r in ExportTraceServiceRequest.FromString(data).resource_spans:
            for s in r.scope_spans:
                self.server.spans += s.spans
        self.send_response(self.server.status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def collecting(status: int = 200) -> Iterator[Collector]:
    collector = Collector(status)
    try:
        yield collector
    finally:
        collector.shutdown()
        collector.server_close()


TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"


def test_a_request_continues_its_callers_trace_and_its_batch_is_linked(bundle: Path, tmp_path: Path) -> None:
    with collecting() as collector:
        with running(tmp_path, bundle, serve_otel_endpoint=collector.url, serve_otel_ratio=0) as server:
            headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
            reply = server.client.post("/predict", json={"rows": [ROW, ROW]}, headers=headers)
            told = reply.headers["traceparent"].split("-")
            refused = server.client.post("/predict", json={"rows": []}, headers=headers)
            assert refused.status_code == 422
            ask(server)
            server.client.post("/predict", json={"rows": [ROW]}, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
            assert server.stop() == 0, "what is left is sent before it ends"
        spans = collector.spans
    requests = [s for s in spans if s.name == "POST /predict"]
    batches = [s for s in spans if s.name == "batch"]
    assert [len(requests), len(batches)] == [2, 1], "ratio 0: only those whose caller keeps the trace"
    assert {s.trace_id.hex() for s in requests} == {TRACE}
    assert {s.parent_span_id.hex() for s in requests} == {PARENT}
    assert told[1:3] == [TRACE, requests[0].span_id.hex()]
    assert [link.span_id for link in batches[0].links] == [requests[0].span_id]
    about = {a.key: a.value for s in requests for a in s.attributes}
    assert about["http.response.status_code"].int_value == 422
    assert not any("pro" in str(a.value) for s in spans for a in s.attributes), "no value of a row"


@pytest.mark.parametrize("kind", ["refused", pytest.param("failing", marks=pytest.mark.slow)])
def test_a_collector_that_is_down_disturbs_nobody(bundle: Path, tmp_path: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        url = "http://127.0.0.1:9/v1/traces" if kind == "refused" else stack.enter_context(collecting(503)).url
        with running(tmp_path, bundle, serve_otel_endpoint=url, serve_otel_ratio=1) as server:
            replies = [ask(server) for _ in range(50)]
            assert {r.status_code for r in replies} == {200}
            assert statistics.median(r.elapsed.total_seconds() for r in replies) < 1.0, "nobody waits for it"
            assert server.stop() == 0
    assert read_log(tmp_path / "logs").num_rows == 50
    assert all(line.startswith("{") for line in server.errors.read_text().splitlines()), "no traceback, only events"


# The cache


def test_a_cached_answer_is_the_versions_own(tmp_path: Path) -> None:
    old, new = make_bundle(tmp_path / "a"), make_bundle(tmp_path / "b", "base", shift=1.0)
    with running(tmp_path / "run", old, new, serve_cache_rows=100) as server:
        rows = [ROW, ROW | {"tenure": 9}, ROW, ROW | {"tenure": NOT_A_NUMBER}]
        first, second = (ask(server, *rows).json()["predictions"] for _ in range(2))
        for a, b in zip(first, second, strict=True):
            assert {**a, "id": 0} == {**b, "id": 0}
            assert a["id"] != b["id"]
        assert [p["degraded"] for p in second] == [False, False, False, True]
        # the third row joins the first; of the second request only the row without an answer is computed again
        until(lambda: server.metric('cache_rows_total{outcome="hit"}') == 3)
        assert server.metric('cache_rows_total{outcome="joined"}') == 1
        assert server.metric('cache_rows_total{outcome="miss"}') == 4
        server.client.post("/admin/rollback").raise_for_status()
        assert ask(server).json()["predictions"][0]["probability"]["Yes"] == pytest.approx(expected(ROW, 1.0), abs=1e-6)
        assert server.stop() == 0
    log = {r["prediction_id"]: r for r in read_log(tmp_path / "run" / "logs").to_pylist()}
    kept = [log[p["id"]] for p in first + second]
    assert [r["level"] for r in kept] == ["primary", "primary", "primary", "rule"] * 2
    assert [r["in.tenure"] for r in kept] == [3.0, 9.0, 3.0, float(NOT_A_NUMBER)] * 2


def test_equal_rows_of_a_batch_are_computed_once(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    with running(tmp_path / "run", bundle, serve_dedup="on") as server:
        rows = [ROW | {"tenure": t % 3} for t in range(30)]
        found = [p["probability"]["Yes"] for p in ask(server, *rows).json()["predictions"]]
        assert found == pytest.approx([expected(r) for r in rows], abs=1e-6)
        until(lambda: server.metric("duplicate_rows_total") == 27)


# The documentation


def test_every_route_of_the_document_answers_its_example_as_it_says(bundle: Path, tmp_path: Path) -> None:
    with running(tmp_path, bundle, bundle) as server:
        doc = server.client.get("/openapi.json").json()
        wanted = {"/predict", "/outcomes", "/metrics", "/v2", "/admin/status", "/admin/rollback", "/admin/promote"}
        assert wanted | {"/v2/health/live", "/v2/health/ready", "/v2/models/{model}/infer"} <= set(doc["paths"])
        for path, methods in doc["paths"].items():
            for method, operation in methods.items():
                media = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
                at = path.replace("{model}", "churn").replace("{version}", bundle.name[-12:])
                reply = server.client.request(method, at, json=media.get("example", {}) if media else None)
                assert str(reply.status_code) in operation["responses"], (path, reply.status_code, reply.text)
                assert "example" not in media or reply.status_code == 200, (path, reply.text)
        page = server.client.get("/docs").text
        assert "fetch(" in page
        assert "http://" not in page
        assert "https://" not in page


def test_the_document_says_who_may_ask(bundle: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "keys.json", "crm")
    app = create_app([bundle], Settings(serve_keys_file=str(tmp_path / "keys.json")))

    async def story() -> dict[str, Any]:
        async with app.lifespan(), httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            found: dict[str, Any] = (await client.get("/openapi.json")).json()
            return found

    doc = asyncio.run(story())
    asked = {p: any("security" in o for o in methods.values()) for p, methods in doc["paths"].items()}
    assert {p for p, s in asked.items() if not s} == {
        p for p in asked if "infer" not in p and p.startswith(("/v2", "/metrics"))
    }


# Files


@pytest.mark.slow
def test_a_file_of_any_form_gets_the_servers_answers(bundle: Path, tmp_path: Path, cli: Cli) -> None:
    rows = [ROW | {"tenure": t % 60, "plan": None if t % 7 == 0 else "pro"} for t in range(3000)]
    names, table = list(ROW), pa.Table.from_pylist(rows)
    pq.write_table(table, tmp_path / "in.parquet")
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    lines = [",".join("" if r[n] is None else str(r[n]) for n in names) for r in rows]
    (tmp_path / "in.csv").write_text("\n".join([",".join(names), *lines]) + "\n")
    with running(tmp_path / "run", bundle) as server:
        there = [p["probability"]["Yes"] for i in range(0, 3000, 500) for p in _asked(server, rows[i : i + 500])]
    for form in ("parquet", "jsonl", "csv"):
        out = tmp_path / f"out-{form}.jsonl"
        done = cli("predict", bundle, "--input", tmp_path / f"in.{form}", "--output", out)
        assert (done.returncode, done.stdout) == (0, f"{out}: 3000 rows\n"), done.stderr
        found = [json.loads(line) for line in out.read_text().splitlines()]
        assert [f["p.Yes"] for f in found] == there, form
    (tmp_path / "torn.jsonl").write_text('{"tenure": 3}\n{"tenure"')
    done = cli("predict", bundle, "--input", tmp_path / "torn.jsonl", "--output", tmp_path / "torn-out.csv")
    assert (done.returncode, "torn.jsonl, line 2: not a JSON object" in done.stderr) == (2, True)
    assert not list(tmp_path.glob("*torn-out*"))


def _asked(server: Running, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(server, *rows).json()["predictions"]
    return found


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(bundle: Path, tmp_path: Path) -> None:
    "Twenty times the rows, one row group, and no more memory than a few buffers."
    code = """
import re, sys
from mlops_nb.serving.batch import predict_file
predict_file(*sys.argv[1:])
print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
    peaks = []
    for n in (20_000, 400_000):
        table = pa.Table.from_pylist([ROW | {"tenure": t % 60} for t in range(1000)] * (n // 1000))
        pq.write_table(table, tmp_path / f"{n}.parquet", row_group_size=n, use_dictionary=False)
        command = [sys.executable, "-c", code, str(bundle), str(tmp_path / f"{n}.parquet"), str(tmp_path / f"{n}.csv")]
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=plain(), timeout=300)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 40, f"{peaks} MiB"


# In somebody else's application


def test_two_bundles_in_two_mounts_of_one_application(tmp_path: Path) -> None:
    one, two = make_bundle(tmp_path), make_bundle(tmp_path, "other", shift=2.0)
    apps = [create_app([b], Settings(), log_dir=tmp_path / b.name) for b in (one, two)]

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with apps[0].lifespan(), apps[1].lifespan():
            yield

    mine = FastAPI(lifespan=lifespan)
    mine.mount("/a", apps[0])
    mine.mount("/b", apps[1])

    async def story() -> list[Any]:
        transport = httpx.ASGITransport(mine)
        async with mine.router.lifespan_context(mine), httpx.AsyncClient(transport=transport, base_url="http://x") as c:
            found = [(await c.post(f"/{p}/predict", json={"rows": [ROW]})).json() for p in "ab"]
            doc = (await c.get("/b/openapi.json")).json()
            page = await c.get("/b/docs")
            lines = [(await c.get(f"/{p}/metrics")).text for p in "ab"]
        return [found, doc, page, lines]

    found, doc, page, lines = asyncio.run(story())
    assert [f["model"] for f in found] == ["churn", "other"]
    answers = [f["predictions"][0]["probability"]["Yes"] for f in found]
    assert answers == pytest.approx([expected(ROW), expected(ROW, 2.0)], abs=1e-6)
    assert (page.status_code, "/predict" in doc["paths"]) == (200, True)
    assert all('requests_total{route="predict",status="200"} 1.0' in text for text in lines)
    assert [read_log(tmp_path / b.name).num_rows for b in (one, two)] == [1, 1], "the host's end is ours"
    assert not [t.name for t in threading.enumerate() if t.name in ("log", "primary", "watchdog")]


def test_a_mounted_application_that_cannot_start_says_so(tmp_path: Path) -> None:
    app = create_app([make_bundle(tmp_path, offset=0.1)])

    async def story() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            return await client.post("/predict", json={"rows": [ROW]})

    reply = asyncio.run(story())
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "not_ready")
    assert "golden rows" in reply.json()["error"]["message"]


# Stopping


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_was_accepted_is_answered_when_it_stops(bundle: Path, tmp_path: Path, workers: int) -> None:
    "Kept-alive connections under load, and Ctrl-C to the whole terminal, as a person sends it."
    answered: list[str] = []
    lost: list[str] = []
    with running(tmp_path, bundle, serve_workers=workers, serve_drain_s=0.3) as server:
        until(lambda: server.metric("ready_workers") == workers)

        def client() -> None:
            with httpx.Client(base_url=server.url, trust_env=False, timeout=60) as c:
                while True:
                    try:
                        reply = c.post("/predict", json={"rows": [ROW]})
                    except httpx.ConnectError:
                        return  # the port is closed: nothing was accepted
                    except httpx.TransportError as e:
                        return lost.append(repr(e))
                    answered.append(f"{reply.status_code} {reply.headers.get('connection', '')}")

        threads = [threading.Thread(target=client) for _ in range(6)]
        for t in threads:
            t.start()
        until(lambda: len(answered) > 50)
        family = [server.process.pid, *(p.pid for p in psutil.Process(server.process.pid).children())]
        for pid in {pid for pid in family if os.getpgid(pid) == os.getpgid(server.process.pid)}:
            os.kill(pid, signal.SIGINT)
        for t in threads:
            t.join(timeout=120)
        assert server.process.wait(timeout=120) == 0
    assert not lost
    assert {a.split()[0] for a in answered} == {"200"}
    assert any("close" in a for a in answered), "who is answered last is told to go elsewhere"
    assert read_log(tmp_path / "logs").num_rows == len(answered)
    said = [e["event"] for e in server.events()]
    assert said.count("draining") == said.count("served") == workers


# What it counts


@pytest.mark.slow
def test_every_metric_is_listed_and_nothing_grows_with_traffic(bundle: Path, tmp_path: Path) -> None:
    with running(tmp_path, bundle, serve_workers=2, serve_price_cpu_hour=0.05, serve_cache_rows=10) as server:
        until(lambda: server.metric("ready_workers") == 2)
        before = server.client.get("/metrics").text
        for i in range(40):
            with httpx.Client(base_url=server.url, trust_env=False) as other:  # a connection each: both workers answer
                other.post("/predict", json={"rows": [ROW | {"plan": f"p{i}"}]}, headers={"x-request-id": f"r{i}"})
                other.post(f"/nowhere/{i}")
        until(lambda: server.metric('requests_total{route="predict",status="200"}') == 40)
        after = server.client.get("/metrics").text
        assert len(before.splitlines()) == len(after.splitlines()), "labels are fixed"
        assert server.metric('request_seconds_count{route="predict"}') == 40
        layers = [server.metric(f'layer_seconds_sum{{layer="{x}"}}') for x in ("intake", "cascade", "record")]
        assert server.metric('layer_seconds_count{layer="cascade"}') == 40
        assert 0 < sum(layers) <= server.metric('request_seconds_sum{route="predict"}')
        assert server.metric('batch_rows_sum{level="primary"}') == 40
        assert server.metric("confidence_count") == 40
        assert server.metric('rows_total{arm="champion",level="primary"}') == 40
        until(lambda: server.metric('cache_rows_total{outcome="miss"}') == 40)
        assert 0 < server.metric("cost_per_1000_predictions") < 1
        assert server.metric("backlog_seconds") == 0
        assert 20 * 2**20 < server.metric("resident_bytes") / 2 <= 200 * 2**20
        assert server.stop() == 0


# The log


def test_hidden_columns_are_in_no_file_and_old_days_go(tmp_path: Path) -> None:
    "By contract and by setting, in answers, refusals and write-ahead files; beside a day that is too old."
    contract = replace(CONTRACT, columns=tuple(replace(c, private=c.name == "plan") for c in CONTRACT.columns))
    bundle = make_bundle(tmp_path, contract=contract)
    old = tmp_path / "run" / "logs" / "predictions" / "day=2001-01-01"
    old.mkdir(parents=True)
    (old / "part-0-000000.parquet").write_bytes(b"")
    settings = {"serve_log": "audit", "serve_log_redact": "charges", "serve_log_keep_days": 30}
    with running(tmp_path / "run", bundle, serve_log_seal_s=0.2, **settings) as server:
        ask(server, ROW | {"plan": "secretplan", "charges": 77.125})
        assert ask(server, ROW | {"plan": "secretplan", "charges": 77.125, "tenure": "x"}).status_code == 422
        files = [p for p in (tmp_path / "run" / "logs").rglob("*") if p.is_file()]
        assert files
        assert not any(b"secretplan" in p.read_bytes() for p in files)
        until(lambda: not old.exists())
        assert server.stop() == 0
    log = read_log(tmp_path / "run" / "logs").to_pylist()
    assert [(r["in.plan"], r["in.charges"], r["status"]) for r in log] == [(None, None, "ok"), (None, None, "rejected")]
    assert log[0]["in.tenure"] == 3.0
    assert {*log[0]["withheld"]} == {*log[1]["withheld"]} == {"plan", "charges"}
    assert "secretplan" not in server.errors.read_text()


@pytest.mark.slow
def test_outside_tools_read_the_log_while_it_is_written(bundle: Path, tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    with running(tmp_path, bundle, serve_log_seal_s=0.2) as server:
        parts = str(server.log_dir / "predictions")
        for i in range(30):
            ask(server, ROW, ROW | {"charges": None}, unit_ids=[f"a{i}", None])
        until(lambda: list(Path(parts).rglob("part-*.parquet")))
        frame = pd.read_parquet(parts)
        assert {"prediction_id", "in.tenure", "p.Yes", "day"} <= set(frame.columns)
        assert len(frame) % 2 == 0, "whole requests"
        seen = len(frame)
        until(lambda: len(pd.read_parquet(parts)) == 60)
        assert seen <= 60
        with contextlib.suppress(ImportError):
            import duckdb

            assert duckdb.sql(f"select count(*) from read_parquet('{parts}/**/*.parquet')").fetchone() == (60,)


# A short soak


@pytest.mark.slow
def test_a_short_soak_leaves_nothing_behind(tmp_path: Path) -> None:
    from tests.soak import BADNESS, run

    told = run(0.25, tmp_path, capacity_s=1.0, **PATIENT)
    assert [p for p in told.problems if not p.startswith("memory grows")] == []  # a quarter of a minute has no slope
    assert set(told.bad_kinds) == {bad.name for bad in BADNESS}


@pytest.mark.slow
def test_ctrl_c_before_it_is_ready_is_no_failure(bundle: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mlops_nb.serving.server", str(bundle), "--port", "0", "--workers", "2"]
    with (tmp_path / "err").open("wb") as err, subprocess.Popen(command, stderr=err, env=plain()) as process:
        until(lambda: len(psutil.Process(process.pid).children()) == 2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=120) == 0


@contextlib.contextmanager
def supervisor(state: Path) -> Iterator[server_module.Supervisor]:
    "A supervisor of two workers in this process, whose own signals come back."
    usual = {s: signal.getsignal(s) for s in (signal.SIGTERM, signal.SIGINT)}
    inside, outside = os.pipe()
    try:
        yield server_module.Supervisor({"fd": inside, "state_dir": str(state)}, 2)
    finally:
        os.close(outside)
        for which, handler in usual.items():
            signal.signal(which, handler)


def test_a_signal_that_comes_while_a_worker_is_being_started_reaches_it_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = subprocess.Popen

    def start(*args: Any, **more: Any) -> Any:
        child = real(*args, **more)
        os.kill(os.getpid(), signal.SIGTERM)  # nobody knows the child yet
        return child

    deaf = "import sys, time; time.sleep(20); sys.exit(3)"
    monkeypatch.setattr(server_module, "worker_command", lambda spec: [sys.executable, "-S", "-c", deaf])
    monkeypatch.setattr(subprocess, "Popen", start)
    with supervisor(tmp_path) as watching:
        assert watching.run() == 0


GIVES_UP_ONCE = """
import os, signal, sys, time
from pathlib import Path
from mlops_nb.serving.routing import acknowledge
state, worker, parent = Path(sys.argv[1]), int(sys.argv[2]), os.getppid()
if worker == 0 and sys.argv[3] == "serves":
    acknowledge(state, worker, 1)
while worker and sys.argv[3] == "serves" and not (state / "workers" / "0.json").exists():
    time.sleep(0.01)
if worker and not (state / "before").exists():
    (state / "before").touch()
    sys.exit(3)
if worker:
    os.kill(parent, signal.SIGTERM)
time.sleep(60)
"""


@pytest.mark.parametrize(("first", "code", "replaced"), [("serves", 0, 1), ("waits", 3, 0)])
def test_a_worker_that_gives_up_ends_the_server_only_when_none_has_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str, code: int, replaced: int
) -> None:
    def command(spec: dict[str, Any]) -> list[str]:
        return [sys.executable, "-c", GIVES_UP_ONCE, spec["state_dir"], str(spec["worker"]), first]

    monkeypatch.setattr(server_module, "worker_command", command)
    monkeypatch.setattr(server_module, "AGAIN_S", 0.2)
    with supervisor(tmp_path) as watching:
        assert (watching.run(), watching.replaced) == (code, replaced)
