"The pages in a real browser: complete with scripts off and no network, silent with scripts on, whole when printed."

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from mlops_nb.reporting.runner import run_report
from tests.reporting_workspace import AS_OF, full_workspace

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine")]

VERDICT = {("audit", "fr"): "SOUS CONDITION", ("drift", "en"): "DRIFT", ("roi", "fr"): "OBSERVER PLUS LONGTEMPS"}


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
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    ws = full_workspace(tmp_path_factory.mktemp("browser"))
    return {(kind, lang): run_report(ws, kind, lang, {"as_of": AS_OF}) for kind, lang in VERDICT}


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


NARROW = "(() => [document.documentElement.scrollWidth, window.innerWidth])()"


@pytest.mark.parametrize("width", [360, 800, 1280])
def test_no_page_is_wider_than_the_screen(tab: Tab, pages: dict[tuple[str, str], Path], width: int) -> None:
    tab.call("Emulation.setScriptExecutionDisabled", value=False)
    tab.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
    for page in pages.values():
        tab.open(page)
        wide, shown = tab.call("Runtime.evaluate", expression=NARROW, returnByValue=True)["result"]["value"]
        assert wide <= shown
    tab.call("Emulation.clearDeviceMetricsOverride")


def test_printed_on_paper(tab: Tab, pages: dict[tuple[str, str], Path], tmp_path: Path) -> None:
    if not shutil.which("pdftotext"):
        pytest.skip("no pdftotext on this machine")
    page = pages["audit", "fr"]
    tab.open(page)
    data = tab.call("Page.printToPDF", preferCSSPageSize=True, printBackground=False)["data"]
    (tmp_path / "audit.pdf").write_bytes(base64.b64decode(data))
    ended = subprocess.run(
        ["pdftotext", "-layout", "audit.pdf", "-"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    sheets = ended.stdout.split("\f")[:-1]
    root = re.search(r'id="root">([0-9a-f]{64})<', page.read_text())
    assert root is not None
    assert len(sheets) > 4
    for number, sheet in enumerate(sheets, 1):
        assert root[1] in sheet
        assert f"{number} / {len(sheets)}" in sheet
    assert "SOUS CONDITION" in sheets[0]
    assert "Vocabulaire" in ended.stdout
