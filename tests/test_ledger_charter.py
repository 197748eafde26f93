"The chain holds under concurrent writers and killed ones; the charter refuses what it does not know."

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlops_nb.charter import freeze, is_current, load_charter, load_frozen
from mlops_nb.core.errors import InputError, Refused
from mlops_nb.core.workspace import Workspace
from mlops_nb.ledger import GENESIS, Ledger

CHARTER = """
status = "reviewed"
[problem]
name = "churn"
owner = "Retention"
[data]
file = "data/churn.csv"
target = "churn"
task = "binary"
[criteria.performance]
threshold = 0.8
"""


def test_two_processes_write_one_chain(tmp_path: Path) -> None:
    path = tmp_path / "ledger.jsonl"
    code = "import sys; from mlops_nb.ledger import Ledger; led = Ledger(sys.argv[1]); [led.append('poc.run', sys.argv[2] + str(i)) for i in range(20)]"
    children = [subprocess.Popen([sys.executable, "-c", code, str(path), name]) for name in "ab"]
    assert [c.wait() for c in children] == [0, 0]
    entries = Ledger(path).entries()
    assert [e.seq for e in entries] == list(range(1, 41))


def test_a_cut_tail_changes_the_head(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    assert ledger.head() == GENESIS
    ledger.append("poc.run", "one")
    before = ledger.head()
    ledger.append("poc.run", "two")
    head = ledger.head()
    ledger.path.write_text(ledger.path.read_text().splitlines(keepends=True)[0])
    assert ledger.head() == before != head


@pytest.mark.parametrize("offset", [3, 40, 120, 200])
def test_any_flipped_byte_is_named(tmp_path: Path, offset: int) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for name in ("one", "two", "three"):
        ledger.append("poc.run", name)
    content = bytearray(ledger.path.read_bytes())
    second = content.index(b"\n") + 1
    content[second + offset] ^= 0x01
    ledger.path.write_bytes(bytes(content))
    with pytest.raises(Refused, match=r"ledger\.jsonl line [23]"):
        ledger.entries()
    with pytest.raises(Refused):
        ledger.append("poc.run", "four")


def test_moved_lines_are_found(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    for name in ("one", "two", "three"):
        ledger.append("poc.run", name)
    first, second, third = ledger.path.read_text().splitlines(keepends=True)
    ledger.path.write_text(first + third + second)
    with pytest.raises(Refused, match="line 2: the chain is broken"):
        ledger.head()


def test_a_torn_line_is_moved_aside_not_lost(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("poc.run", "one")
    with ledger.path.open("ab") as f:
        f.write(b'{"torn": tr')
    ledger.append("poc.run", "two")
    assert [e.event for e in ledger.entries()] == ["poc.run", "ledger.repaired", "poc.run"]
    assert (tmp_path / "ledger.torn").read_bytes() == b'{"torn": tr\n'


def test_unknown_events_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown event 'charter\.forzen'"):
        Ledger(tmp_path / "ledger.jsonl").append("charter.forzen", "x")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ('task = "binary"|task = "ranking"', r"'data\.task' = 'ranking'"),
        (
            "threshold = 0.8|treshold = 0.8",
            r"unknown key 'criteria\.performance\.treshold'|'criteria\.performance\.threshold' is missing",
        ),
        ("[data]|[daat]", r"'data' is missing|unknown key 'daat'"),
        ('name = "churn"|name = "Churn model"', r"'problem\.name' = 'Churn model'"),
        ("threshold = 0.8|threshold = 0.8\n[criteria.fairness]\nmax_gap = -1", r"'criteria\.fairness\.max_gap' = -1"),
        (
            "threshold = 0.8|threshold = 0.8\n[criteria.data_quality]\ncompleteness = 1.5",
            r"'criteria\.data_quality\.completeness' = 1\.5",
        ),
        (
            "threshold = 0.8|threshold = 0.8\n[business]\nuptake = 0.5\nuptake_low = 0.6\nuptake_high = 0.7",
            "uptake must lie between",
        ),
        ("threshold = 0.8|threshold = ", "not valid TOML"),
    ],
)
def test_a_wrong_charter_names_the_key(tmp_path: Path, change: str, says: str) -> None:
    old, new = change.split("|")
    file = tmp_path / "charter.toml"
    file.write_text(CHARTER.replace(old, new, 1))
    with pytest.raises(InputError, match=says):
        load_charter(file)


def test_freezing_twice_is_once_and_a_change_shows(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    ws.charter_file.write_text(CHARTER)
    first = freeze(ws, "alice")
    assert freeze(ws, "bob") == first
    assert [e.actor for e in Ledger(ws.ledger_file).entries("charter.frozen")] == ["alice"]
    ws.approvers_file.write_text("# somebody new\n")
    assert not is_current(ws)
    second = freeze(ws, "bob")
    assert second.sha256 != first.sha256
    assert len(Ledger(ws.ledger_file).entries("charter.frozen")) == 2


def test_a_frozen_charter_cannot_be_edited(tmp_path: Path) -> None:
    ws = Workspace(tmp_path)
    ws.charter_file.write_text(CHARTER)
    freeze(ws)
    doc = json.loads(ws.frozen_file.read_text())
    doc["draft"] = True
    ws.frozen_file.write_text(json.dumps(doc))
    with pytest.raises(InputError, match="edited by hand"):
        load_frozen(ws)
