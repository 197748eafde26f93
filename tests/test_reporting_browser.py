"The pages in a real browser: complete with scripts off and no network, silent with scripts on, whole when printed."

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from mlops_nb.core.workspace import Workspace
from mlops_nb.reporting.comparison import compare_reports, comparison_page
from mlops_nb.reporting.index import write_index
from mlops_nb.reporting.pdf import page_to_pdf
from mlops_nb.reporting.portfolio import write_portfolio
from mlops_nb.reporting.registers import CONTENTS
from mlops_nb.reporting.runner import run_report
from tests.reporting_workspace import AS_OF, full_workspace, without_kernel

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine"),
]

VERDICT = {
    ("audit", "en"): "CONDITIONAL",
    ("audit", "fr"): "SOUS CONDITION",
    ("drift", "en"): "DRIFT",
    ("drift", "fr"): "DÉRIVE",
    ("roi", "en"): "OBSERVE LONGER",
    ("roi", "fr"): "OBSERVER PLUS LONGTEMPS",
}


class Tab:
    "One page of a headless browser, spoken to in its own protocol."

    def __init__(self, socket: ClientConnection) -> None:
        self.socket, self.numbers, self.events = socket, itertools.count(1), list[dict[str, Any]]()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            answer = json.loads(self.socket.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, page: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=page.as_uri())
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.events.append(json.loads(self.socket.recv(timeout=60)))

    def text(self) -> str:
        root = self.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
        body = self.call("DOM.querySelector", nodeId=root, selector="main")["nodeId"]
        html = str(self.call("DOM.getOuterHTML", nodeId=body)["outerHTML"])
        return re.sub(r"<[^>]+>", " ", html)

    def requests(self) -> list[str]:
        return [e["params"]["request"]["url"] for e in self.events if e["method"] == "Network.requestWillBeSent"]

    def complaints(self) -> list[dict[str, Any]]:
        return [
            e
            for e in self.events
            if e["method"] in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
        ]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patched:
        without_kernel(patched)
        yield full_workspace(tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def pages(workspace: Workspace) -> dict[tuple[str, str], Path]:
    return {(kind, lang): run_report(workspace, kind, lang, {"as_of": AS_OF}) for kind, lang in VERDICT}


@pytest.fixture(scope="module")
def others(workspace: Workspace, pages: dict[tuple[str, str], Path]) -> list[Path]:
    "The parts of a report, a later report, the index, a comparison and the portfolio."
    found = [run_report(workspace, "drift", "en", {"as_of": AS_OF, "content": c}) for c in CONTENTS]
    later = run_report(workspace, "audit", "en", {"as_of": "2026-11-21"})
    diff = workspace.root / "diff.html"
    diff.write_text(comparison_page(compare_reports(pages["audit", "en"], later)))
    portfolio = write_portfolio([workspace.root], workspace.root / "portfolio.html", "fr")
    return [*found, later, write_index(workspace, "en"), diff, portfolio]


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    profile = tmp_path_factory.mktemp("chromium")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    command += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert browser.stderr is not None
    address = next(m[0] for line in browser.stderr if (m := re.search(r"ws://\S+", line)))
    host = address.split("/")[2]
    with connect(address, max_size=None) as control:
        target = Tab(control).call("Target.createTarget", url="about:blank")["targetId"]
        with connect(f"ws://{host}/devtools/page/{target}", max_size=None) as socket:
            opened = Tab(socket)
            for domain in ("Page", "Network", "DOM", "Log", "Runtime"):
                opened.call(f"{domain}.enable")
            yield opened
    browser.terminate()
    browser.stderr.close()
    browser.wait(timeout=30)


@pytest.mark.parametrize("which", VERDICT)
def test_complete_without_scripts_and_network(
    tab: Tab, pages: dict[tuple[str, str], Path], which: tuple[str, str]
) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=True)
    tab.open(pages[which])
    assert VERDICT[which] in tab.text()
    assert tab.requests() == [pages[which].as_uri()]
    root = tab.call("DOM.getDocument", depth=-1)["root"]["nodeId"]
    figures = tab.call("DOM.querySelectorAll", nodeId=root, selector="figure > svg")["nodeIds"]
    assert len(figures) == pages[which].read_text().count("<figure ")
    for figure in figures:
        quad = tab.call("DOM.getBoxModel", nodeId=figure)["model"]
        assert quad["width"] > 200
        assert quad["height"] > 40


@pytest.mark.parametrize("which", VERDICT)
def test_silent_with_scripts_on(tab: Tab, pages: dict[tuple[str, str], Path], which: tuple[str, str]) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    tab.open(pages[which])
    assert tab.complaints() == []
    assert tab.requests() == [pages[which].as_uri()]


NARROW = """(() => [document.documentElement.scrollWidth, window.innerWidth,
  document.querySelector('main').getBoundingClientRect().width])()"""


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_no_page_is_wider_than_the_screen(
    tab: Tab, pages: dict[tuple[str, str], Path], others: list[Path], width: int
) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    for page in [*pages.values(), *others]:
        tab.open(page)
        wide, shown, text = tab.call("Runtime.evaluate", expression=NARROW, returnByValue=True)["result"]["value"]
        assert wide <= shown, page
        assert text > shown / 2, page
    tab.call("Emulation.clearDeviceMetricsOverride")


def test_the_other_pages_are_silent_and_ask_for_nothing(tab: Tab, others: list[Path]) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    for page in others:
        tab.open(page)
        assert tab.complaints() == [], page
        assert tab.requests() == [page.as_uri()]


AXE = "4.10.3"


@pytest.fixture(scope="module")
def axe(pytestconfig: pytest.Config) -> str:
    "The source of axe-core, fetched once by npm."
    npm = shutil.which("npm")
    if not npm:
        pytest.skip("no npm on this machine, so the accessibility of the pages was not checked")
    assert pytestconfig.cache is not None
    folder = pytestconfig.cache.mkdir(f"axe-{AXE}")
    source = folder / "node_modules" / "axe-core" / "axe.min.js"
    if not source.is_file():
        command = [npm, "install", "--prefix", str(folder), "--no-save", "--no-audit", "--no-fund", "--ignore-scripts"]
        done = subprocess.run([*command, f"axe-core@{AXE}"], capture_output=True, text=True, timeout=180, check=False)
        if done.returncode or not source.is_file():
            pytest.skip(f"npm could not fetch axe-core, so accessibility was not checked: {done.stderr[-300:]}")
    return source.read_text()


RUN_AXE = """axe.run(document, {resultTypes: ['violations']}).then(r => r.violations.map(v =>
  [v.impact, v.id, v.nodes.length, v.nodes[0].target.join(' '), v.nodes[0].failureSummary]))"""


def barriers(tab: Tab, page: Path, axe: str) -> list[list[Any]]:
    "What axe finds on a page that keeps somebody out."
    tab.open(page)
    tab.call("Runtime.evaluate", expression=axe)
    answer = tab.call("Runtime.evaluate", expression=RUN_AXE, awaitPromise=True, returnByValue=True)
    return [v for v in answer["result"]["value"] if v[0] in ("serious", "critical")]


def test_the_judge_sees_a_barrier(tab: Tab, pages: dict[tuple[str, str], Path], axe: str, tmp_path: Path) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    html = pages["roi", "en"].read_text()
    for n, (old, new) in enumerate(
        (("<main", '<img src="data:image/png,x"><main'), ("--ink: #1c2733", "--ink: #cccccc"))
    ):
        page = tmp_path / f"{n}.html"
        page.write_text(html.replace(old, new, 1))
        assert barriers(tab, page, axe), new


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_barrier(
    tab: Tab, pages: dict[tuple[str, str], Path], others: list[Path], axe: str, scheme: str
) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    found = {}
    for page in [*pages.values(), *others]:
        if serious := barriers(tab, page, axe):
            found[page.relative_to(page.parents[1]).as_posix()] = serious
    tab.call("Emulation.setEmulatedMedia", features=[])
    assert found == {}


def sheets_of(pdf: Path) -> list[str]:
    "The text of each sheet."
    if not shutil.which("pdftotext"):
        pytest.skip("no pdftotext on this machine")
    ended = subprocess.run(["pdftotext", "-layout", pdf, "-"], capture_output=True, text=True, check=True)
    return ended.stdout.split("\f")[:-1]


@pytest.mark.parametrize("which", VERDICT)
def test_printed_on_paper(tab: Tab, pages: dict[tuple[str, str], Path], which: tuple[str, str], tmp_path: Path) -> None:
    page = pages[which]
    tab.open(page)
    data = tab.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)["data"]
    (tmp_path / "out.pdf").write_bytes(base64.b64decode(data))
    sheets, html = sheets_of(tmp_path / "out.pdf"), page.read_text()
    root = re.search(r'id="root">([0-9a-f]{64})<', html)
    assert root is not None
    assert len(sheets) > 3
    for number, sheet in enumerate(sheets, 1):
        assert root[1] in sheet
        assert f"{number} / {len(sheets)}" in sheet
    assert VERDICT[which] in sheets[0]
    whole = re.sub(r"\s+", " ", "".join(sheets))
    for title in re.findall(r'<h[23] id="(?!contents)[^"]+">([^<]+)</h', html):
        assert re.sub(r"\s+", " ", unescape(title)) in whole, title


def test_the_same_page_gives_the_same_pdf(pages: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    page = pages["roi", "en"]
    first, second = (page_to_pdf(page, tmp_path / f"{n}.pdf") for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert b"(D:20261120100000" in first.read_bytes()
    assert len(sheets_of(first)) > 3
    assert page_to_pdf(page).relative_to(page.parents[2]).parts[0] == "pdf"
