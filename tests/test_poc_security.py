from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.poc.security import (
    find_pickles,
    find_secrets,
    find_vulnerabilities,
    judge_security,
    read_advisories,
    read_environment,
    secrets_in,
    security_facts,
)


@pytest.mark.parametrize(
    "line",
    [
        "-----BEGIN RSA " + "PRIVATE KEY-----",
        'aws = "AKIA' + "Q" * 16 + '"',
        "token = 'ghp_" + "a1B2" * 9 + "'",
        "url = 'glpat-" + "x" * 20 + "'",
        "hook = 'xoxb-" + "1" * 12 + "'",
        "db = 'postgresql+psycopg2://me:" + "hunter22@db.example/x'",
        '{"api_key": "' + "9f8a7b6c5d4e3f2a1b0c9d8e" + '"}',
        "password = '" + "correct-horse-battery-staple-42" + "'",
        "jwt = 'eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJlLWhlcmU'",
    ],
)
def test_secrets_are_found_and_never_repeated(tmp_path: Path, line: str) -> None:
    file = tmp_path / "code.py"
    file.write_text(f"import os\n{line}\n")
    (found,) = find_secrets({"code.py": file})
    assert (found.rule, found.where) == ("secret", "code.py, line 2")
    assert line.strip("'\"")[-12:-2] not in json.dumps(found.to_dict())


@pytest.mark.parametrize(
    "line",
    [
        'password = os.environ["PASSWORD"]',
        'password = getpass("Password: ")',
        'token = "<your token>"',
        'secret = "${SECRET}"',
        "tokens = tokenizer('a long text that is no secret at all')",
        'df["password_age_days"] = 3',
        'url = "https://example.org/a@b"',
        'charter = "sha256:' + "0" * 64 + '"',
    ],
)
def test_innocent_lines_are_left_alone(line: str) -> None:
    assert list(secrets_in(line)) == []


def test_outputs_of_a_notebook_are_read_too(tmp_path: Path) -> None:
    cells = [{"id": "show", "source": "key", "outputs": [{"data": {"text/plain": ["'AKIA" + "Z" * 16 + "'"]}}]}]
    file = tmp_path / "n.ipynb"
    file.write_text(json.dumps({"cells": cells}))
    assert [f.where for f in find_secrets({"n.ipynb": file})] == ["n.ipynb cell show, line 2"]
    file.write_text("{")
    with pytest.raises(InputError, match=r"n\.ipynb: not a notebook"):
        find_secrets({"n.ipynb": file})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_known_by_its_bytes(tmp_path: Path, protocol: int) -> None:
    file = tmp_path / "weights.dat"
    file.write_bytes(pickle.dumps({"a": [1.5]}, protocol=protocol))
    assert [f.severity for f in find_pickles({"weights.dat": file})] == ["high"]
    other = tmp_path / "other.bin"
    for data in (b"", b"\x80", b"\x80\x04 not one", b"PAR1...."):
        other.write_bytes(data)
        assert find_pickles({"other.bin": other}) == []


def test_code_that_unpickles_is_a_medium_finding(tmp_path: Path) -> None:
    file = tmp_path / "m.py"
    file.write_text("model = joblib.load(path)\n")
    found = find_pickles({"m.py": file})
    assert [(f.rule, f.severity) for f in found] == [("unpickles", "medium")]
    assert judge_security(found, 0, True).state == "go"
    assert [f.value for f in security_facts(found, 0, "go")] == [0, 1, 0]


ENVIRONMENT = read_environment(
    "# python 3.11\nnumpy==2.3.5\nscikit_learn==1.7.2  # pinned\nonnx==1.16 ; python_version > '3'\n"
)


@pytest.mark.parametrize(
    ("ranges", "hit"),
    [
        ([{"events": [{"introduced": "0"}]}], True),
        ([{"events": [{"introduced": "2.0"}, {"fixed": "2.3.5"}]}], False),
        ([{"events": [{"introduced": "2.0"}, {"fixed": "2.3.6"}]}], True),
        ([{"events": [{"introduced": "0"}, {"last_affected": "2.3.5"}]}], True),
        ([{"events": [{"introduced": "1.0"}, {"fixed": "1.5"}, {"introduced": "2.3"}, {"fixed": "2.4"}]}], True),
        ([{"type": "GIT", "events": [{"introduced": "0"}]}], False),
    ],
)
def test_osv_ranges_are_read_as_their_schema_says(tmp_path: Path, ranges: list[dict[str, object]], hit: bool) -> None:
    entry = {"id": "OSV-1", "affected": [{"package": {"name": "NumPy"}, "ranges": ranges, "versions": ["1.0"]}]}
    (tmp_path / "osv.json").write_text(json.dumps(entry))
    found = find_vulnerabilities(read_advisories(tmp_path / "osv.json"), ENVIRONMENT)
    assert bool(found) == hit
    assert all(f.severity == "high" for f in found)  # nobody said how severe


def test_names_are_compared_in_their_normal_form(tmp_path: Path) -> None:
    assert ENVIRONMENT == {"numpy": "2.3.5", "scikit-learn": "1.7.2", "onnx": "1.16"}
    doc = {"advisories": [{"id": "P-1", "package": "Scikit.Learn", "affected": "<1.8", "severity": "low"}]}
    (tmp_path / "p.json").write_text(json.dumps(doc))
    (found,) = find_vulnerabilities(read_advisories(tmp_path / "p.json"), ENVIRONMENT)
    assert (found.severity, found.where) == ("low", "scikit-learn 1.7.2")


@pytest.mark.parametrize("text", ["{}", "[3]", '{"advisories": [{"id": 1}]}', "{"])
def test_a_file_of_another_form_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "known.json").write_text(text)
    with pytest.raises(InputError, match=r"known\.json"):
        read_advisories(tmp_path / "known.json")


def test_a_bad_specifier_names_the_advisory(tmp_path: Path) -> None:
    doc = {"advisories": [{"id": "P-9", "package": "numpy", "affected": "before 2", "severity": "high"}]}
    (tmp_path / "p.json").write_text(json.dumps(doc))
    with pytest.raises(InputError, match="P-9"):
        find_vulnerabilities(read_advisories(tmp_path / "p.json"), ENVIRONMENT)
