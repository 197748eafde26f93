"""The servers of the benchmark: ours by its public command, an echo and a naive one, and the peers that can be installed."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import psutil
import uvicorn
from fastapi import FastAPI
from onnx import TensorProto, helper
from pydantic import BaseModel

from mlops_nb.core.errors import Refused
from mlops_nb.core.processes import start
from mlops_nb.core.settings import Settings
from mlops_nb.serving.server import bind, uvicorn_config

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "tests" / "bench_peers"
VENVS = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mlops-nb-bench"
WIDTH, ROWS = 30, 2048

# Models


def _onnx(name: str, nodes: Sequence[Any], constants: Sequence[Any]) -> bytes:
    "A graph from X [N,30] to probability [N,2]."
    ends = [
        helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, WIDTH]),
        helper.make_tensor_value_info("probability", TensorProto.FLOAT, [None, 2]),
    ]
    made = helper.make_graph(nodes, name, ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(made, opset_imports=opsets, ir_version=9).SerializeToString()


def perceptron(name: str, sizes: Sequence[int]) -> bytes:
    "Dense layers with ReLU between them and a softmax at the end; without hidden layers, a logistic regression."
    rng, nodes, constants, before = np.random.default_rng(5), [], [], "X"
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        weights = rng.normal(0, 1 / np.sqrt(a), (a, b)).astype(np.float32)
        constants.append(helper.make_tensor(f"w{i}", TensorProto.FLOAT, [a, b], weights.tobytes(), raw=True))
        constants.append(helper.make_tensor(f"b{i}", TensorProto.FLOAT, [b], [0.01] * b))
        nodes.append(helper.make_node("Gemm", [before, f"w{i}", f"b{i}"], [f"z{i}"]))
        last = i == len(sizes) - 2
        nodes.append(helper.make_node("Softmax" if last else "Relu", [f"z{i}"], ["probability" if last else f"a{i}"]))
        before = f"a{i}"
    return _onnx(name, nodes, constants)


def forest(trees: int = 300, depth: int = 6) -> bytes:
    "Additive trees, as gradient boosting makes them, through a sigmoid."
    rng, inner = np.random.default_rng(5), 2**depth - 1
    total = 2 ** (depth + 1) - 1
    ids = np.arange(total)
    leaf = ids >= inner
    nodes: dict[str, list[Any]] = {k: [] for k in ("ids", "tree", "feature", "value", "mode", "true", "false")}
    leaves: dict[str, list[Any]] = {k: [] for k in ("tree", "node", "weight")}
    for t in range(trees):
        nodes["ids"] += ids.tolist()
        nodes["tree"] += [t] * total
        nodes["feature"] += np.where(leaf, 0, rng.integers(0, WIDTH, total)).tolist()
        nodes["value"] += np.where(leaf, 0.0, rng.normal(0, 1, total)).tolist()
        nodes["mode"] += np.where(leaf, "LEAF", "BRANCH_LEQ").tolist()
        nodes["true"] += np.where(leaf, 0, 2 * ids + 1).tolist()
        nodes["false"] += np.where(leaf, 0, 2 * ids + 2).tolist()
        leaves["tree"] += [t] * (total - inner)
        leaves["node"] += ids[leaf].tolist()
        leaves["weight"] += rng.normal(0, 0.1, total - inner).tolist()
    ensemble = helper.make_node(
        "TreeEnsembleRegressor", ["X"], ["score"], domain="ai.onnx.ml", n_targets=1, post_transform="NONE",
        nodes_nodeids=nodes["ids"], nodes_treeids=nodes["tree"], nodes_featureids=nodes["feature"],
        nodes_values=nodes["value"], nodes_modes=nodes["mode"], nodes_truenodeids=nodes["true"],
        nodes_falsenodeids=nodes["false"], target_treeids=leaves["tree"], target_nodeids=leaves["node"],
        target_ids=[0] * len(leaves["tree"]), target_weights=leaves["weight"],
    )  # fmt: skip
    rest = [
        helper.make_node("Sigmoid", ["score"], ["yes"]),
        helper.make_node("Sub", ["one", "yes"], ["no"]),
        helper.make_node("Concat", ["no", "yes"], ["probability"], axis=1),
    ]
    return _onnx("mid", [ensemble, *rest], [helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])])


MODELS: dict[str, Callable[[], bytes]] = {
    "small": lambda: perceptron("small", (WIDTH, 2)),
    "mid": forest,
    "deep": lambda: perceptron("deep", (WIDTH, 2048, 2048, 2)),
    "slow": lambda: perceptron("slow", (WIDTH, 2048, 2048, 2048, 2048, 2048, 2048, 2)),
}


def matrix(rows: int = ROWS) -> np.ndarray:
    "Rows whose short decimals are exact in float32, so that what is sent is what was in the sample."
    drawn = np.random.default_rng(6).normal(0, 1, (ROWS, WIDTH))
    return np.resize((np.round(drawn * 64) / 64).astype(np.float32), (rows, WIDTH))


def session_of(model: Path) -> onnxruntime.InferenceSession:
    "The graph on one thread."
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


# The echo and the naive server, each in a child process


async def echo(scope: Any, receive: Any, send: Any) -> None:
    "Read the body, answer a constant."
    if scope["type"] == "lifespan":
        for _ in range(2):
            await send({"type": (await receive())["type"] + ".complete"})
        return
    while (await receive()).get("more_body"):
        pass
    answer = b'{"p":[0.5,0.5]}'
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


class V2Tensor(BaseModel):
    "A tensor of a request."

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class V2Request(BaseModel):
    "A request to the naive server."

    inputs: list[V2Tensor]


def naive(model: Path) -> FastAPI:
    "One call of onnxruntime a request on the event loop, which serves a model this small faster than a thread pool."
    app, session = FastAPI(), session_of(model)

    @app.post("/v2/models/m/infer")
    async def infer(body: V2Request) -> dict[str, Any]:
        tensor = body.inputs[0]
        (found,) = session.run(None, {tensor.name: np.array(tensor.data, np.float32).reshape(tensor.shape)})
        output = {"name": "probability", "datatype": "FP32", "shape": list(found.shape), "data": found.ravel().tolist()}
        return {"model_name": "m", "outputs": [output]}

    return app


def serve_child(kind: str, model: Path) -> int:
    "Run one of the two servers above; says where it listens as our own server does."
    settings = Settings(serve_port=0)
    app: Any = echo if kind == "echo" else naive(model)
    with bind(settings) as sock:
        host, port = sock.getsockname()
        print(json.dumps({"event": "listening", "host": host, "port": port}), flush=True)
        uvicorn.Server(uvicorn_config(app, settings)).run(sockets=[sock])
    return 0


# Starting and stopping


def address(output: Path) -> str:
    "Where a server says that it listens; empty: not yet."
    for line in output.read_text(errors="replace").splitlines():
        with suppress(ValueError):
            event = json.loads(line)
            if isinstance(event, dict) and event.get("event") == "listening":
                return f"http://{event['host']}:{event['port']}"
    return ""


@contextmanager
def started(
    command: Sequence[str | Path], output: Path, cpus: str, env: dict[str, str] | None = None, cwd: Path = ROOT
) -> Iterator[subprocess.Popen[bytes]]:
    "A process on some cores for the length of a block, and gone with all its children afterwards."
    with output.open("wb") as out:
        child = start(["taskset", "-c", cpus, *command], cwd=cwd, env=env, stdout=out, stderr=subprocess.STDOUT)
    try:
        yield child
    finally:
        family = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
        child.terminate()
        with suppress(subprocess.TimeoutExpired):
            child.wait(20)
        for each in [child, *family]:
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                each.kill()
        child.wait()


@contextmanager
def listening(
    command: Sequence[str | Path], output: Path, cpus: str, env: dict[str, str] | None = None
) -> Iterator[tuple[int, str]]:
    "A server that says where it listens: its pid and its address."
    with started(command, output, cpus, env) as child:
        end = time.monotonic() + 60
        while not (url := address(output)):
            if child.poll() is not None or time.monotonic() > end:
                said = (output.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
                raise Refused(f"it does not listen: {said[:300]}", where=output.stem)
            time.sleep(0.05)
        yield child.pid, url


def ours(bundle: Path, folder: Path, workers: int = 1) -> list[str | Path]:
    "The public command with the settings of production."
    command = [Path(sys.executable).with_name("mlops-nb"), "serve", bundle, "--port", "0", "--profile", "prod"]
    command += ["--settings", ROOT / "settings.ini", "--workers", str(workers)]
    return [*command, "--log-dir", folder / "logs", "--state-dir", folder / "state"]


def wait_answer(url: str, body: bytes, key: str, timeout_s: float = 90.0) -> None:
    "Until the server answers a body."
    end, said = time.monotonic() + timeout_s, "no answer"
    headers = {"content-type": "application/json", "x-api-key": key}
    with httpx.Client(trust_env=False, timeout=5) as client:
        while time.monotonic() < end:
            with suppress(httpx.TransportError):
                answer = client.post(url, content=body, headers=headers)
                if answer.status_code == 200:
                    return
                said = f"{answer.status_code} {answer.text[:200]}"
            time.sleep(0.05)
    raise Refused(f"not ready after {timeout_s:.0f} s: {said}", where=url)


# Peers, each in an environment of its own


@dataclass(frozen=True)
class Peer:
    "Another server, run as its own guide shows, with batches of up to 64 rows where it can."

    name: str
    packages: tuple[str, ...]
    path: str
    body: str  # v2, x, bento or mlflow
    command: Callable[[Path, Path, int], list[str | Path]]  # environment's bin, folder, port
    prepare: Callable[[Path, Path, Path], None] = lambda bin, folder, model: None


def _mlserver(bin: Path, folder: Path, model: Path) -> None:
    (folder / "runtime.py").write_text((PEERS / "mlserver_runtime.py").read_text())
    about = {"name": "m", "implementation": "runtime.Onnx", "max_batch_size": 64, "max_batch_time": 0.002}
    (folder / "model-settings.json").write_text(json.dumps({**about, "parallel_workers": 0}))


def _mlserver_command(bin: Path, folder: Path, port: int) -> list[str | Path]:
    settings = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port(), "host": "127.0.0.1"}
    (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
    return [bin / "mlserver", "start", folder]


def _mlflow(bin: Path, folder: Path, model: Path) -> None:
    code = "import sys, onnx, mlflow.onnx as m; m.save_model(onnx.load(sys.argv[1]), sys.argv[2])"
    subprocess.run([bin / "python", "-c", code, model, folder / "saved"], check=True, capture_output=True)


PEER_SERVERS = (
    Peer("MLServer", ("mlserver==1.7.1", "onnxruntime"), "/v2/models/m/infer", "v2", _mlserver_command, _mlserver),
    Peer(
        "BentoML", ("bentoml==1.4.39", "onnxruntime"), "/predict", "bento",
        lambda bin, folder, port: [bin / "bentoml", "serve", "bento_service:Score", "--working-dir", PEERS, "--port", str(port)],
    ),
    Peer(
        "LitServe", ("litserve==0.2.19", "onnxruntime"), "/predict", "x",
        lambda bin, folder, port: [bin / "python", PEERS / "lit_server.py", str(port)],
    ),
    Peer(
        "MLflow", ("mlflow==3.17.*", "onnx", "onnxruntime"), "/invocations", "mlflow",
        lambda bin, folder, port: [
            bin / "mlflow", "models", "serve", "-m", folder / "saved", "--env-manager", "local", "--workers", "1", "-p", str(port),
        ],
        _mlflow,
    ),
)  # fmt: skip


def free_port() -> int:
    "A port that nobody uses."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def environment(peer: Peer) -> Path:
    "The bin folder of a peer's own environment, made when it is missing; raises `Refused` when it cannot be."
    folder = VENVS / peer.name.lower()
    if not (folder / ".complete").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True, capture_output=True)
        pip = [
            folder / "bin" / "python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            *peer.packages,
        ]
        done = subprocess.run(pip, capture_output=True, text=True)
        if done.returncode:
            raise Refused(f"cannot be installed: {done.stderr.strip().splitlines()[-1][:200]}", where=peer.name)
        (folder / ".complete").touch()
    return folder / "bin"


@contextmanager
def running_peer(peer: Peer, model: Path, folder: Path, cpus: str) -> Iterator[tuple[int, str]]:
    "A peer that serves a model: its pid and the address to ask."
    bin, port = environment(peer), free_port()
    folder.mkdir(parents=True)
    peer.prepare(bin, folder, model)
    env = {
        "MODEL": str(model),
        "PATH": f"{bin}:{os.environ['PATH']}",
        "BENTOML_DO_NOT_TRACK": "true",
        "DO_NOT_TRACK": "1",
    }
    command = peer.command(bin, folder, port)
    with started(command, folder / "output.txt", cpus, env, cwd=folder) as child:
        yield child.pid, f"http://127.0.0.1:{port}{peer.path}"
