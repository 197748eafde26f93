"""The wheel as a newcomer gets it: built from the tracked files, installed into empty environments far from them.

The environments take their packages from the index that pip is set up for, in the versions of the lock file.
"""

from __future__ import annotations

import email
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from mlops_nb.core.processes import die_with_parent
from mlops_nb.core.workspace import Workspace
from mlops_nb.reporting.runner import run_report
from tests.reporting_workspace import approvable, full_workspace
from tests.serving_bundle import ROW, Running, expected, free_port, make_bundle, wait_ready
from tests.tables import TARGETS, write_csv

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
HEAVY = ("mlflow", "pandas", "sklearn", "scipy", "statsmodels", "pyarrow.dataset", "onnx", "jupyter_client", "dvc")


def tracked() -> list[str]:
    "What a fresh clone holds."
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).exists()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    clone, out = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("dist")
    for name in tracked():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(clone)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr
    assert "is absent from the `packages`" not in built.stdout + built.stderr
    return next(out.glob("*.whl"))


@dataclass(frozen=True)
class Environment:
    "A virtual environment that knows nothing of the repository; it is never activated."

    root: Path

    @property
    def python(self) -> Path:
        return self.root / "bin" / "python"

    @property
    def environ(self) -> dict[str, str]:
        "Nothing of this session's: no PATH into its environment, no coverage, no settings, another home."
        home = self.root / "home"
        home.mkdir(exist_ok=True)
        return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}

    def run(self, *command: object, cwd: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        words = [str(self.root / "bin" / str(command[0])), *map(str, command[1:])]
        return subprocess.run(
            words, cwd=cwd, env=self.environ, capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def cli(self, *arguments: object, cwd: Path, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        "The installed command."
        return self.run("mlops-nb", *arguments, cwd=cwd, timeout_s=timeout_s)

    def installed(self, cwd: Path) -> dict[str, str]:
        "Name to version, as pip spells the names."
        listed = self.run("python", "-m", "pip", "list", "--format=json", "--disable-pip-version-check", cwd=cwd)
        return {d["name"].lower().replace("_", "-"): d["version"] for d in json.loads(listed.stdout)}


def install(root: Path, what: str) -> Environment:
    "An empty environment with the wheel and what it asks for."
    subprocess.run([sys.executable, "-m", "venv", root], check=True)
    made = Environment(root)
    pip = [made.python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV", "COV"))}
    command = [*map(str, pip), "--constraint", str(LOCK), what]
    done = subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    checked = made.run("python", "-m", "pip", "check", cwd=root)
    assert checked.returncode == 0, checked.stdout
    return made


@pytest.fixture(scope="module")
def base(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return install(tmp_path_factory.mktemp("base") / "env", str(wheel))


@pytest.fixture(scope="module")
def lab(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return install(tmp_path_factory.mktemp("lab") / "env", f"{wheel}[lab,examples]")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles"), faults=False)


def test_the_wheel_holds_the_package_and_the_templates_and_nothing_else(wheel: Path) -> None:
    names = tracked()
    package = {n for n in names if n.startswith("mlops_nb/")}
    templates = {n.replace("reports/", "mlops_nb/templates/", 1) for n in names if n.startswith("reports/")}
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if ".dist-info/" not in n}
        carried = archive.read("mlops_nb/templates/constraints.txt")
    assert held == package | templates
    assert "mlops_nb/py.typed" in held
    assert {f"mlops_nb/templates/{kind}.ipynb" for kind in ("audit", "drift", "roi")} <= held
    assert {f"mlops_nb/templates/messages/{lang}/reporting.po" for lang in ("en", "fr")} <= held
    assert "mlops_nb/templates/page/style.css" in held
    assert carried == LOCK.read_bytes()


def test_the_metadata_says_licence_python_extras_and_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        inside = {n.partition(".dist-info/")[2]: n for n in archive.namelist() if ".dist-info/" in n}
        said = email.message_from_bytes(archive.read(inside["METADATA"]))
        commands = archive.read(inside["entry_points.txt"]).decode()
        licence = archive.read(inside["licenses/LICENSE"]).decode()
    assert (said["Requires-Python"], said["License-Expression"]) == (">=3.11", "Apache-2.0")
    assert "Apache License" in licence
    assert {"lab", "audit", "examples"} <= set(said.get_all("Provides-Extra", ()))
    assert "mlops-nb = mlops_nb.cli.main:main" in commands
    asked = said.get_all("Requires-Dist", ())
    assert 'deepchecks==0.19.1; extra == "audit"' in asked
    assert {"pandas<3,>=2.2", "scikit-learn<1.8,>=1.7"} <= {a.partition(";")[0] for a in asked if '"lab"' in a}


def test_the_base_install_is_what_serving_needs(base: Environment, tmp_path: Path) -> None:
    there = base.installed(tmp_path)
    assert {"fastapi", "onnxruntime", "pyarrow", "mlops-nb"} <= set(there)
    assert not {"mlflow", "pandas", "scikit-learn", "scipy", "statsmodels", "onnx", "dvc", "deepchecks"} & set(there)
    locked = dict(line.split("==") for line in LOCK.read_text().splitlines())
    assert {n: v for n, v in there.items() if n not in ("pip", "setuptools", "mlops-nb")}.items() <= locked.items()


LICENCES = """
import json, re
from importlib import metadata
copyleft = re.compile(r"GPL|GNU|MPL|Mozilla|EPL|Eclipse|CDDL|SSPL|BUSL")
found = {}
for one in metadata.distributions():
    about = one.metadata
    classes = [c for c in about.get_all("Classifier", ()) if c.startswith("License")]
    said = " ".join([about.get("License-Expression", ""), about.get("License", "")[:200], *classes]).strip()
    if not said or copyleft.search(said):
        found[about["Name"]] = said
print(json.dumps(found))
"""


def test_no_licence_in_the_base_install_is_copyleft(base: Environment, tmp_path: Path) -> None:
    assert json.loads(base.run("python", "-c", LICENCES, cwd=tmp_path).stdout) == {}


def test_help_shows_every_command(base: Environment, tmp_path: Path) -> None:
    shown = base.cli("--help", cwd=tmp_path)
    assert shown.returncode == 0
    assert all(f" {name} " in shown.stdout for name in ("init", "run", "inspect", "serve", "predict", "verify"))
    assert base.cli("serve", "--help", cwd=tmp_path).returncode == 0


def test_a_bundle_is_verified(base: Environment, bundle: Path, tmp_path: Path) -> None:
    whole = base.cli("verify", bundle, cwd=tmp_path)
    assert (whole.returncode, "every hash fits" in whole.stdout) == (0, True), whole.stderr
    spoilt = shutil.copytree(bundle, tmp_path / bundle.name)
    (spoilt / "card.md").write_text("another card")
    refused = base.cli("verify", spoilt, cwd=tmp_path)
    assert refused.returncode == 1
    assert "card.md" in refused.stderr


def test_a_script_is_inspected(base: Environment, tmp_path: Path) -> None:
    script = tmp_path / "poc.py"
    script.write_text("import pandas as pd\n\nframe = pd.read_csv('/home/me/private.csv')\nprint(frame.shape)\n")
    found = base.cli("inspect", script, "--json", cwd=tmp_path)
    assert found.returncode == 1, found.stderr
    assert {f["line"] for f in json.loads(found.stdout)["findings"] if f["rule"] != "unpinned-import"} == {3}
    script.write_text("print('hello')\n")
    assert base.cli("inspect", script, cwd=tmp_path).returncode == 0


def test_a_file_is_scored(base: Environment, bundle: Path, tmp_path: Path) -> None:
    names = list(ROW)
    rows = [ROW | {"tenure": t} for t in (0, 30, 60)]
    lines = [",".join(names), *(",".join(str(r[n]) for n in names) for r in rows)]
    (tmp_path / "rows.csv").write_text("\n".join(lines).replace("False", "false") + "\n")
    done = base.cli("predict", bundle, "--input", "rows.csv", "--output", "scored.csv", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "scored.csv").read_text().splitlines()) == 4


LAB_COMMANDS = (
    "init ws --data t.csv --target b",
    "run .",
    "data .",
    "poc .",
    "export .",
    "export --onnx m.onnx --sample t.csv --out b",
    "trial .",
    "score .",
    "gate .",
    "monitor .",
    "report audit .",
    "report due .",
    "report diff . .",
    "refactor poc.ipynb --out src",
    "profile t.csv --out p",
    "drift --reference t.csv --current t.csv",
    "roi .",
    "experiment read .",
    "roi --outcomes t.csv --costs t.csv",
)


def test_the_other_commands_name_the_extra_they_need(base: Environment, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    ends = {}
    for command in LAB_COMMANDS:
        done = base.cli(*command.split(), cwd=tmp_path)
        one_line = len(done.stderr.splitlines()) == 1 and done.stdout == ""
        ends[command] = (done.returncode, one_line, "pip install 'mlops_nb[lab]'" in done.stderr)
    assert set(ends.values()) == {(2, True, True)}, ends
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


IMPORT = """
import json, sys, time
begun = time.process_time()
import mlops_nb.serving.app
seconds = time.process_time() - begun
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
heavy = [m for m in sys.argv[1:] if m in sys.modules]
print(json.dumps({"cpu_s": seconds, "peak_mib": int(peak) / 1024, "heavy": heavy, "file": mlops_nb.__file__}))
"""


@pytest.mark.parametrize("name", ["base", "lab"])
def test_the_server_pays_for_what_it_uses(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    environment: Environment = request.getfixturevalue(name)
    done = [environment.run("python", "-c", IMPORT, *HEAVY, cwd=tmp_path) for _ in range(3)]
    assert not any(d.returncode for d in done), done[0].stderr
    runs = [json.loads(d.stdout) for d in done]
    assert all(Path(r["file"]).is_relative_to(environment.root) for r in runs)
    assert not any(r["heavy"] for r in runs)
    assert min(r["peak_mib"] for r in runs) <= 150


@contextmanager
def serving(environment: Environment, bundle: Path, folder: Path) -> Iterator[Running]:
    "The installed command, serving."
    port, errors = free_port(), folder / "server.err"
    command = [environment.root / "bin" / "mlops-nb", "serve", bundle, "--port", port, "--log-dir", folder / "logs"]
    with errors.open("wb") as err:
        process = subprocess.Popen(
            list(map(str, command)), cwd=folder, env=environment.environ, stderr=err, preexec_fn=die_with_parent
        )
    url = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
        server = Running(process, client, url, port, folder / "logs", folder / "state", errors)
        try:
            wait_ready(server, 60)
            yield server
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def test_the_base_install_serves_a_bundle(base: Environment, bundle: Path, tmp_path: Path) -> None:
    with serving(base, bundle, tmp_path) as server:
        rows = [ROW, ROW | {"tenure": 60, "plan": None}]
        reply = server.client.post("/predict", json={"rows": rows})
        assert reply.status_code == 200, reply.text
        given = [p["probability"]["Yes"] for p in reply.json()["predictions"]]
        assert given == pytest.approx([expected(r) for r in rows], abs=1e-5)
        assert server.client.get("/docs").status_code == server.client.get("/metrics").status_code == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=30) == 0, server.errors.read_text()
        assert list(server.log_dir.rglob("*.parquet")), "the log was not sealed"


def test_the_lab_install_runs_the_whole_lifecycle(lab: Environment, base: Environment, tmp_path: Path) -> None:
    table = write_csv(tmp_path, "breast_cancer")
    made = lab.cli("init", "ws", "--data", table, "--target", TARGETS["breast_cancer"], cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    done = lab.cli("run", "ws", cwd=tmp_path, timeout_s=400)
    assert done.returncode == 0, done.stdout + done.stderr
    ws = Workspace(tmp_path / "ws")
    pages = [next(ws.reports.glob(f"{kind}/*/{kind}.html")) for kind in ("audit", "drift", "roi")]
    assert (ws.reports / "index.html").exists()
    assert json.loads(ws.decision_file.read_text())["decision"] == "conditional"  # nobody has reviewed the draft
    for path in (ws.root, *ws.bundles.iterdir(), *(p.parent for p in pages)):  # a reviewer has no lab
        verified = base.cli("verify", path, cwd=tmp_path)
        assert verified.returncode == 0, (path, verified.stdout, verified.stderr)


def test_a_reviewer_needs_the_base_install_and_no_repository(base: Environment, tmp_path: Path) -> None:
    "The steps of nbs/tutorial_reviewer.ipynb as its reader takes them."
    made = base.cli("approve", "churn", "--name", "B. Reader", "--new-key", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    ws = full_workspace(tmp_path / "churn")
    approvable(ws, key=made.stdout.strip())
    page = run_report(ws, "audit", "en", {"as_of": "2026-11-20"})
    alone = shutil.copy(page, tmp_path)
    ends = [base.cli("verify", path, cwd=tmp_path) for path in (alone, page.parent)]
    assert [e.returncode for e in ends] == [3, 0], [e.stderr + e.stdout for e in ends]
    signed = base.cli("approve", "churn", "--name", "B. Reader", "--comment", "read", cwd=tmp_path)
    assert (signed.returncode, signed.stdout) == (0, "approved by B. Reader (risk)\n"), signed.stderr
    after = base.cli("verify", page.parent, cwd=tmp_path)
    assert after.returncode == 0
    assert "B. Reader (risk) approved decision" in after.stdout
    assert "the key that was frozen with the charter" in after.stdout
    approval = next(ws.approvals.glob("*.json"))
    approval.write_text(approval.read_text().replace('"comment": "read"', '"comment": "no"'))
    forged = base.cli("verify", page.parent, cwd=tmp_path)
    assert (forged.returncode, "the signature does not fit" in forged.stdout) == (1, True)


def test_the_examples_come_with_their_extra(lab: Environment, tmp_path: Path) -> None:
    made = lab.cli("init", "churn", "--example", "churn", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert (tmp_path / "churn" / "charter.toml").exists()
    assert not {"deepchecks", "nbdev", "fastcore"} & set(lab.installed(tmp_path))
