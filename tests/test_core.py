"Settings, files, hashes, messages, processes: what the notebooks do not show."

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_nb.core.errors import InputError, MissingExtra, require
from mlops_nb.core.facts import Fact
from mlops_nb.core.files import atomic_folder, atomic_write, plain, read_json, write_json
from mlops_nb.core.hashing import canonical, sha256_file, sha256_object
from mlops_nb.core.messages import Message, number
from mlops_nb.core.settings import load_settings

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(json_values)
def test_canonical_form_is_stable_through_json(value: object) -> None:
    again = json.loads(canonical(value))
    assert canonical(again) == canonical(value)


@given(st.dictionaries(st.text(), st.integers(-(2**53) + 1, 2**53 - 1)))
def test_order_of_keys_does_not_change_the_hash(value: dict[str, int]) -> None:
    assert sha256_object(value) == sha256_object(dict(reversed(value.items())))


@given(json_values)
def test_plain_leaves_nothing_that_json_lacks(value: object) -> None:
    json.dumps(plain(value), allow_nan=False)


def test_a_killed_writer_leaves_the_old_content(tmp_path: Path) -> None:
    target = atomic_write(tmp_path / "x.json", "old")
    code = f"""
import os, signal
from mlops_nb.core import files
os.fsync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
files.atomic_write({str(target)!r}, 'new')
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False)
    assert ended.returncode == -9
    assert target.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    atomic_write(target, "newer")
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match="exists already"), atomic_folder(tmp_path / "b") as tmp:
        (tmp / "x").write_text("x")
    assert list((tmp_path / "b").iterdir()) == []


def test_json_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: no such file"):
        read_json(tmp_path / "none.json")
    (tmp_path / "latin.json").write_bytes(b'"\xe9"')
    with pytest.raises(InputError, match=r"latin\.json: not valid JSON"):
        read_json(tmp_path / "latin.json")


def test_hash_of_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        sha256_file(tmp_path / "none")


def test_written_json_reads_back(tmp_path: Path) -> None:
    fact = Fact("a.b/c d", 1.5, low=None, n=3)
    assert Fact.from_dict(read_json(write_json(tmp_path / "f.json", fact.to_dict()))) == fact


def test_a_broken_module_shows_its_own_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_part.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_there"):
        require("broken_part", "lab")
    with pytest.raises(MissingExtra, match=r"mlops_nb\[audit\]"):
        require("another_module_that_is_not_there", "audit")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[DEFAULT]\nserve_prot = 1\n", "unknown key 'serve_prot'; did you mean 'serve_port'"),
        ("[DEFAULT]\nserve_port = many\n", "'serve_port' = 'many'"),
        ("[staging]\n", r"unknown section \[staging\]"),
        ("serve_port = 1\n", "key = value"),
    ],
)
def test_wrong_settings_name_the_key(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "mlops_nb.ini"
    file.write_text(text)
    with pytest.raises(InputError, match=says):
        load_settings("dev", file, environ={})


def test_environment_wins_over_profile_over_default(tmp_path: Path) -> None:
    file = tmp_path / "mlops_nb.ini"
    file.write_text("[DEFAULT]\nserve_port = 1001\ntrial_requests = 70\n[prod]\nserve_port = 1002\n")
    assert load_settings("dev", file, environ={}).serve_port == 1001
    assert load_settings("prod", file, environ={}).serve_port == 1002
    assert load_settings("prod", file, environ={"MLOPS_NB_SERVE_PORT": "1003"}).serve_port == 1003
    assert load_settings("prod", file, environ={}).trial_requests == 70
    with pytest.raises(InputError, match="unknown profile 'live'"):
        load_settings("live")


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
def test_french_and_english_numbers_say_the_same(value: float) -> None:
    french = number(value, "fr").replace("\u202f", "").replace(",", ".")
    assert math.isclose(float(french), float(number(value, "en").replace(",", "")))


def test_a_message_with_a_missing_value_does_not_fail() -> None:
    assert Message("core.done", {"stage": "x"}).text("en") == "{stage}: done in {seconds} s"


def test_a_stage_leaves_with_the_run_that_started_it() -> None:
    run = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    code = "from mlops_nb.core.processes import watch_run; import time; assert watch_run(); print('on', flush=True); time.sleep(60)"
    stage = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, "MLOPS_NB_RUN_PID": str(run.pid)}, stdout=subprocess.PIPE
    )
    assert stage.stdout is not None
    assert stage.stdout.readline() == b"on\n"
    run.kill()
    run.wait()
    began = time.monotonic()
    assert stage.wait(timeout=20) == 70
    assert time.monotonic() - began < 20
    stage.stdout.close()
