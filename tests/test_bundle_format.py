"""A bundle that was touched, truncated, swapped or made with bad intent is refused, and never crashes the loader."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops_nb.bundle.format import Bundle, load_bundle, write_bundle
from mlops_nb.bundle.manifest import MANIFEST, json_bytes
from mlops_nb.bundle.parts import Tolerance
from mlops_nb.core.errors import InputError, MlopsError, Refused
from tests.small_bundle import CONTRACT, FILES, HEAD, ROWS, SIGNATURE


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return load_bundle(write_bundle(tmp_path, HEAD, FILES))


def rewritten(bundle: Bundle, change: Callable[[dict[str, Any]], None]) -> Path:
    "The bundle with another manifest, in a folder whose name claims nothing."
    folder = bundle.path.with_name("copy")
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest)
    (folder / MANIFEST).write_bytes(json_bytes(manifest))
    return folder


def test_what_was_written_is_read(bundle: Bundle) -> None:
    assert bundle.contract == CONTRACT
    assert bundle.signature == SIGNATURE
    assert bundle.tolerance == Tolerance(1e-5, 0.0)
    assert bundle.thresholds.at({"plan": "a"}) == 0.3
    assert bundle.rule.answer({"age": 2}).label == "Yes"
    assert bundle.golden().rows == ROWS
    assert bundle.golden().kinds == ("sample", "edge")
    assert bundle.path.name == f"churn-{bundle.version}"
    assert bundle.lite_path is None


def test_the_same_content_gives_the_same_bytes_in_another_process(bundle: Bundle, tmp_path: Path) -> None:
    code = "import sys; from tests.small_bundle import *; print(load_bundle(write_bundle(sys.argv[1], HEAD, FILES)).id)"
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=Path(__file__).parent.parent,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == bundle.id


def test_another_byte_is_another_bundle(bundle: Bundle, tmp_path: Path) -> None:
    other = load_bundle(write_bundle(tmp_path, HEAD, {**FILES, "card.md": b"other\n"}))
    assert other.id != bundle.id


@pytest.mark.parametrize("name", sorted([*FILES, MANIFEST]))
def test_every_file_is_guarded(bundle: Bundle, name: str) -> None:
    path = bundle.path / name
    content = path.read_bytes()
    for touched in (content + b" ", content[:-1], bytes([content[0] ^ 1]) + content[1:], b""):
        path.write_bytes(touched)
        with pytest.raises(Refused):
            load_bundle(bundle.path)
    path.unlink()
    with pytest.raises(MlopsError, match=r"missing|not a bundle"):
        load_bundle(bundle.path)


def test_swapped_files_are_found(bundle: Bundle) -> None:
    a, b = bundle.path / "rule.json", bundle.path / "thresholds.json"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second)
    b.write_bytes(first)
    with pytest.raises(Refused):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "format .2., this release reads 1"),
        (lambda m: m.update(format="1"), "format '1'"),
        (lambda m: m.pop("files"), "no list of files"),
        (lambda m: m.update(files=[]), "no list of files"),
        (lambda m: m["files"].update({"../evil": m["files"]["card.md"]}), "not allowed"),
        (lambda m: m["files"].update({"/etc/passwd": m["files"]["card.md"]}), "not allowed"),
        (lambda m: m["files"].pop("rule.json"), "does not list|lacks"),
        (lambda m: m["files"].update({"rule.json": "x"}), "no size and hash"),
        (lambda m: m["files"]["rule.json"].update(bytes=2**40), "bytes by the manifest"),
        (lambda m: m["files"]["rule.json"].update(sha256="0" * 64), "not what the manifest says"),
        (lambda m: m["files"]["rule.json"].update(sha256="zz"), "no size and hash"),
        (lambda m: m.pop("signature"), "not readable"),
        (
            lambda m: m.update(
                signature={"form": "columns", "inputs": [{"name": "a", "dtype": "object"}], "outputs": {}}
            ),
            "tensor type",
        ),
        (lambda m: m.update(tolerance={"atol": 1, "exec": "x"}), "not readable"),
    ],
)
def test_a_manifest_with_bad_intent_is_refused(
    bundle: Bundle, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    with pytest.raises(Refused, match=message):
        load_bundle(rewritten(bundle, change))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b"null", b'{"files": {}}' * 2])
def test_a_manifest_that_is_none(bundle: Bundle, data: bytes) -> None:
    (bundle.path / MANIFEST).write_bytes(data)
    with pytest.raises(Refused):
        load_bundle(bundle.path)


def test_links_and_strangers(bundle: Bundle) -> None:
    link = bundle.path / "profile" / "link"
    link.symlink_to("/etc/passwd")
    with pytest.raises(Refused, match="symbolic link"):
        load_bundle(bundle.path)
    link.unlink()
    (bundle.path / "profile" / "run.pkl").write_bytes(b"\x80")
    with pytest.raises(Refused, match=r"profile/run\.pkl: a file the manifest does not list"):
        load_bundle(bundle.path)


def test_a_linked_file_with_the_right_content_is_refused_too(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(FILES["card.md"])
    (bundle.path / "card.md").unlink()
    (bundle.path / "card.md").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Refused, match="symbolic link"):
        load_bundle(bundle.path)


def test_the_folder_must_be_named_after_its_content(bundle: Bundle) -> None:
    moved = bundle.path.rename(bundle.path.with_name("churn-0123456789ab"))
    with pytest.raises(Refused, match="the folder is named 0123456789ab"):
        load_bundle(moved)
    assert load_bundle(moved.rename(moved.with_name("champion"))).id == bundle.id


def test_writing_it_again_finds_it_and_a_damaged_one_is_told(bundle: Bundle) -> None:
    assert write_bundle(bundle.path.parent, HEAD, FILES) == bundle.path
    (bundle.path / "card.md").write_bytes(b"x\n")
    with pytest.raises(Refused):
        write_bundle(bundle.path.parent, HEAD, FILES)


def test_an_incomplete_bundle_is_never_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"churn: a bundle needs rule\.json"):
        write_bundle(tmp_path, HEAD, {n: b for n, b in FILES.items() if n != "rule.json"})
    with pytest.raises(Refused, match="not allowed"):
        write_bundle(tmp_path, HEAD, {**FILES, "../out": b""})
    assert list(tmp_path.iterdir()) == []


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_flipped_bytes_never_load(bundle: Bundle, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted([*FILES, MANIFEST])))
    path = bundle.path / name
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    original = path.read_bytes()
    path.write_bytes(bytes(content))
    try:
        with pytest.raises(Refused):
            load_bundle(bundle.path)
    finally:
        path.write_bytes(original)


def test_damaged_golden_rows_are_refused_when_asked_for(tmp_path: Path) -> None:
    broken = load_bundle(write_bundle(tmp_path, HEAD, {**FILES, "golden.parquet": b"PAR1 nonsense PAR1"}))
    with pytest.raises(Refused, match=r"golden\.parquet: not readable"):
        broken.golden()
