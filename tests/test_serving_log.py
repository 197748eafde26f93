"""Sealed parts, write-ahead files and what a failing disk costs."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_nb.serving import parts
from mlops_nb.serving.log import Record, read_log, records_table
from mlops_nb.serving.parts import PartWriter, from_frames, prune, read_parts, recover, to_frame
from mlops_nb.serving.sink import Sink, SinkRules
from tests.small_bundle import small_bundle

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def rows(*values: int, when: datetime = NOON) -> pa.Table:
    times = pa.array([when] * len(values), pa.timestamp("us", tz="UTC"))
    return pa.table({"time": times, "x": list(values)})


@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=3), min_size=1, max_size=4), st.integers(0, 2000))
@settings(deadline=None)
def test_a_torn_file_keeps_every_whole_frame(groups: list[list[int]], cut: int) -> None:
    frames = [to_frame(rows(*g)) for g in groups]
    data = b"".join(frames)[:cut]
    whole, size = 0, 0
    for f in frames:
        size += len(f)
        whole += size <= cut
    assert [t["x"].to_pylist() for t in from_frames(data)] == groups[:whole]


def test_a_flipped_bit_ends_the_reading_before_it() -> None:
    data = bytearray(to_frame(rows(1)) + to_frame(rows(2)))
    data[len(to_frame(rows(1))) + 20] ^= 1
    assert [t["x"].to_pylist() for t in from_frames(bytes(data))] == [[1]]


def test_a_part_that_was_sealed_just_before_the_crash_is_not_read_twice(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path, safe=True)
    writer.add(rows(1, 2))
    ahead = next(tmp_path.rglob(".ahead-*"))
    kept = ahead.read_bytes()
    writer.seal()
    ahead.write_bytes(kept)  # the crash came between the rename and the removal
    assert read_parts(tmp_path)["x"].to_pylist() == [1, 2]
    assert recover(tmp_path) == 1
    assert read_parts(tmp_path)["x"].to_pylist() == [1, 2]
    assert not list(tmp_path.rglob(".ahead-*"))


def test_days_are_read_by_range_and_pruned_whole(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path)
    for day in range(4):
        writer.add(rows(day, when=NOON + timedelta(days=day)))
    writer.seal()
    some = read_parts(tmp_path, since=date(2026, 3, 2), until=date(2026, 3, 3))
    assert some["x"].to_pylist() == [1, 2]
    assert prune(tmp_path, date(2026, 3, 4)) == 3
    assert read_parts(tmp_path)["x"].to_pylist() == [3]


def test_two_writers_on_one_folder_never_meet(tmp_path: Path) -> None:
    for i in range(3):
        writer = PartWriter(tmp_path, "0")
        writer.add(rows(i))
        writer.seal()
    assert sorted(read_parts(tmp_path)["x"].to_pylist()) == [0, 1, 2]


def test_columns_that_came_later_are_null_before(tmp_path: Path) -> None:
    writer = PartWriter(tmp_path)
    writer.add(rows(1))
    writer.add(rows(2).append_column("y", pa.array(["new"])))
    writer.seal()
    assert read_parts(tmp_path).select(["x", "y"]).to_pylist() == [{"x": 1, "y": None}, {"x": 2, "y": "new"}]


def test_a_full_disk_costs_records_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    sink: Sink[int] = Sink(tmp_path, lambda items: [rows(*items)], SinkRules(flush_s=60))
    sink.append(1, 1)
    monkeypatch.setattr(parts, "atomic_write", full)
    sink.flush()
    sink._seal()
    assert sink.counts.failures == 1
    monkeypatch.undo()
    sink.append(2, 1)
    sink.close()
    assert read_parts(tmp_path)["x"].to_pylist() == [1, 2], "what the disk refused is kept and tried again"


def test_a_record_of_which_the_disk_takes_a_piece_is_not_acknowledged(tmp_path: Path) -> None:
    writer, acknowledged = PartWriter(tmp_path, safe=True), []
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(to_frame(rows(1))) * 5 // 2, usual[1]))  # two records and a half
    try:
        for i in range(5):
            with contextlib.suppress(OSError):
                writer.add(rows(i))
                acknowledged.append(i)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    writer.add(rows(9))  # there is room again
    assert acknowledged == [0, 1]
    assert read_parts(tmp_path)["x"].to_pylist() == [0, 1, 9]
    writer.seal()
    assert read_parts(tmp_path)["x"].to_pylist() == [0, 1, 9]


def test_what_waits_for_a_disk_that_refuses_it_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise pa.ArrowInvalid("whatever it is")

    sink: Sink[int] = Sink(tmp_path, lambda items: [rows(*items)], SinkRules(queue_rows=5, seal_rows=2, flush_s=60))
    monkeypatch.setattr(parts, "atomic_write", refuse)
    for i in range(20):
        sink.append(i, 1)
        sink.flush()
    monkeypatch.undo()
    sink.close()
    assert read_parts(tmp_path)["x"].to_pylist() == list(range(7))
    assert (sink.counts.written, sink.counts.dropped) == (7, 13)


def test_what_somebody_else_keeps_beside_the_days_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "day=before the move").mkdir()
    sink: Sink[int] = Sink(tmp_path, lambda items: [rows(*items)], SinkRules(seal_rows=1, flush_s=60, keep_days=10_000))
    sink.append(1, 1)
    sink.flush()
    sink.close()
    assert read_parts(tmp_path)["x"].to_pylist() == [1]
    assert (tmp_path / "day=before the move").exists()


def test_parts_are_sealed_by_size(tmp_path: Path) -> None:
    sink: Sink[int] = Sink(tmp_path, lambda items: [rows(*items)], SinkRules(seal_rows=2, flush_s=60))
    for i in range(5):
        sink.append(i, 1)
        sink.flush()
    assert len(list(tmp_path.rglob("part-*"))) == 2
    sink.close()
    assert len(list(tmp_path.rglob("part-*"))) == 3


def test_a_column_left_out_from_now_on_stands_beside_its_earlier_values(tmp_path: Path) -> None:
    "Numbers and dates keep their type, so that the log of both days can be read, and every row says what it leaves out."
    bundle, sent = small_bundle(tmp_path), ({"age": 30, "plan": "a", "since": "2020-01-01", "paperless": True},)
    for day, redact in enumerate((frozenset[str](), frozenset({"age", "since"}))):
        when, id = NOON + timedelta(days=day), (f"p{day}",)
        fate = ("champion", bundle.version, "primary", "rejected", "range:age", 100, 0, ((),), None, 0, sent)
        record = Record(int(when.timestamp() * 1e6), id, id, (None,), *fate)
        table = records_table(bundle, [record], redact=redact)
        parts.write_part(tmp_path / "predictions" / f"day={when:%Y-%m-%d}" / "part-0-000000.parquet", table)
    log = read_log(tmp_path)
    assert log["withheld"].to_pylist() == [[], ["age", "since"]]
    assert log["in.age"].to_pylist() == [30.0, None]
    assert log["in.since"].to_pylist() == [date(2020, 1, 1), None]
    assert log["in.plan"].to_pylist() == ["a", "a"]


def test_a_power_cut_takes_no_name_of_an_audit_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, synced = os.fsync, []

    def fsync(fd: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")))
        real(fd)

    monkeypatch.setattr(os, "fsync", fsync)
    file = tmp_path / "predictions" / "day=2026-01-01" / ".wal-0"
    ahead = parts.WriteAhead(file)
    ahead.append(pa.table({"x": [1]}))
    ahead.remove()
    assert synced == [file.parent, file.parent.parent, file]
