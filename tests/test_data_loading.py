"""Every file that cannot be used is refused in one line that says where and what to do."""

import gzip
import io

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_nb.core.errors import InputError
from mlops_nb.data.loading import read_table


def write(tmp_path, data, name="data.csv"):
    path = tmp_path / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


LONG = "a,b\n" + "1,2\n" * 40_000


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"data.csv: the file is empty; export it again"),
        (b"\n\n", r"data.csv: the file is empty"),
        (b"\xef\xbb\xbf", r"data.csv: the file is empty"),
        ("a,b\n", r"data.csv: the file holds no rows"),
        ("a,b,a\n1,2,3\n", r"column 'a' stands 2 times \(positions 1, 3\)"),
        ("a, a\n1,2\n", r"column 'a' stands 2 times"),
        ("1,2\n3,4\n", r"data.csv:1: the first line holds numbers \('1'\), not names; add a line"),
        (
            "nom,b\ncafé,2\n".encode("latin-1"),
            r"data.csv:2: not UTF-8 text: the byte 0xe9; save the file as UTF-8, or: iconv",
        ),
        ("a,b\n1,2\n".encode("utf-16"), r"data.csv:1: not UTF-8 text"),
        (b"a,b\n1,\0\n", r"data.csv:2: not UTF-8 text: a NUL byte"),
        (LONG.encode() + b"caf\xe9,2\n", r"data.csv:40002: not UTF-8 text"),
        (b"a,b\n1,2\n\xc3", r"data.csv:3: not UTF-8 text"),
        ("a,b\n1,2,3\n", r"data.csv:2: 3 fields where the header has 2"),
        ("a,b\n1,2\n1\n", r"data.csv:3: 1 fields where the header has 2"),
        (LONG + "1,2,3\n", r"no table: .*line 40002"),
        ('a,b\n1,"2\n' + "3,4\n" * 40_000, r"no table: .*EOF inside string|fields where the header"),
    ],
)
def test_bad_text(tmp_path, data, message):
    with pytest.raises(InputError, match=message) as caught:
        read_table(write(tmp_path, data))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2
    assert caught.value.fix


def test_bad_names_and_kinds(tmp_path):
    for name, message in {
        "data.xlsx": r"unknown file type '.xlsx'; save it as",
        "data": r"unknown file type ''",
        "data.parquet": "not a Parquet file",
    }.items():
        with pytest.raises(InputError, match=message):
            read_table(write(tmp_path, "a,b\n1,2\n", name))
    with pytest.raises(InputError, match="is a folder, not a file"):
        read_table(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        read_table(tmp_path / "absent.csv")


def test_bad_parquet(tmp_path):
    twice = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(InputError, match=r"twice.parquet: column 'a' stands 2 times"):
        read_table(tmp_path / "twice.parquet")
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="holds no rows"):
        read_table(tmp_path / "empty.parquet")
    whole = tmp_path / "whole.parquet"
    pq.write_table(pa.table({"a": list(range(1000))}), whole)
    (tmp_path / "cut.parquet").write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(InputError, match="not a Parquet file"):
        read_table(tmp_path / "cut.parquet")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b\n1,x\n2,y\n", {"a": [1, 2], "b": ["x", "y"]}),
        ("a;b\n1,5;x\n2;y\n", {"a": [1.5, 2.0], "b": ["x", "y"]}),
        ("a;b\n1.5;x\n2;y\n", {"a": [1.5, 2.0], "b": ["x", "y"]}),
        ("a\tb\n1\tx\n2\ty\n", {"a": [1, 2], "b": ["x", "y"]}),
        ("a|b\n1|x\n2|y\n", {"a": [1, 2], "b": ["x", "y"]}),
        ("a\n1\n2\n", {"a": [1, 2]}),
        ('a,b\n1,"x, and\nmore"\n2,y\n', {"a": [1, 2], "b": ["x, and\nmore", "y"]}),
        ("\ufeffa,b\r\n1,x\r\n2,y\r\n", {"a": [1, 2], "b": ["x", "y"]}),
        ('"a;x",b\n1,x\n2,y\n', {"a;x": [1, 2], "b": ["x", "y"]}),
        (",b\n1,x\n2,y\n", {"column_0": [1, 2], "b": ["x", "y"]}),
    ],
)
def test_good_text(tmp_path, text, expected):
    assert read_table(write(tmp_path, text)).to_dict("list") == expected


def test_nulls_and_exact_numbers(tmp_path):
    values = np.random.default_rng(0).normal(size=1000) * 10.0 ** np.arange(-500, 500).clip(-300, 300)
    frame = pd.DataFrame({"x": values, "y": "NA"})
    back = read_table(write(tmp_path, frame.to_csv(index=False)))
    assert back["x"].tolist() == frame["x"].tolist()
    assert back["y"].isna().all()


def test_gzip(tmp_path):
    path = write(tmp_path, gzip.compress(b"a,b\n1,x\n2,y\n"), "data.csv.gz")
    assert read_table(path)["a"].tolist() == [1, 2]
    bad = write(tmp_path, gzip.compress("a,b\n1,é\n".encode("latin-1")), "bad.csv.gz")
    with pytest.raises(InputError, match=r"bad.csv.gz:2: not UTF-8"):
        read_table(bad)
    with pytest.raises(InputError, match=r"torn.csv.gz: no table: Not a gzipped file"):
        read_table(write(tmp_path, b"plain text", "torn.csv.gz"))


def test_parquet_reads_its_own_types(tmp_path):
    frame = pd.DataFrame({" a ": [1, 2], "d": pd.to_datetime(["2020-01-01", None]), "c": pd.Categorical(["x", None])})
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    back = read_table(write(tmp_path, buffer.getvalue(), "data.parquet"))
    assert list(back) == ["a", "d", "c"]
    assert back["d"].dtype.kind == "M"
