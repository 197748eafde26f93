"""Whatever a bundle is made into, it is refused with one line that names the place: nothing loads, nothing crashes, nothing grows."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from mlops_nb.bundle.archive import unpack
from mlops_nb.bundle.format import Bundle, load_bundle
from mlops_nb.bundle.manifest import MANIFEST, manifest_bytes
from mlops_nb.bundle.outline import read_outline
from mlops_nb.bundle.parity import golden_parity, verify_bundle
from mlops_nb.bundle.sealing import pack_bundle
from mlops_nb.core.errors import MlopsError, Refused
from mlops_nb.serving.predictor import Predictor
from mlops_nb.stats.profiles import Profile
from tests.small_bundle import FILES, HEAD, ROWS, profile_files, small_bundle, small_graph

SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=100)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    "A bundle that nobody may change."
    here = tmp_path_factory.mktemp("fuzz")
    return small_bundle(here / "bundles", profile_files(here / "profile"))


@pytest.fixture(scope="module")
def packed(bundle: Bundle) -> bytes:
    return pack_bundle(bundle).read_bytes()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLOPS_NB_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(load: Callable[[], Any]) -> str:
    "Why `load` says no; anything but our own error fails the test."
    with pytest.raises(MlopsError) as caught:
        load()
    text = str(caught.value)
    assert text
    assert "\n" not in text
    assert len(text) < 700
    return text


def rebuilt(parent: Path, changes: dict[str, bytes] | None = None, **head: Any) -> Path:
    "A bundle whose hashes fit, whatever is in it."
    folder = parent / f"made-{len(list(parent.iterdir())) if parent.exists() else 0}"
    files = {**FILES, **(changes or {})}
    for name, content in {**files, MANIFEST: manifest_bytes({**HEAD, **head}, files)}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def used(folder: Path) -> None:
    "Everything a server and a monitor do with a bundle."
    found = load_bundle(folder)
    if golden_parity(found).beyond:
        raise Refused("other answers")
    found.json("baseline.json"), found.json("licences.json")
    assert found.profile_path
    Profile.load(found.profile_path)
    Predictor(found).predict(list(ROWS))


def test_the_bundle_itself_is_fine_in_both_forms(bundle: Bundle, packed: bytes, tmp_path: Path) -> None:
    used(bundle.path)
    (tmp_path / "b.mlb").write_bytes(packed)
    again, parity = verify_bundle(tmp_path / "b.mlb")
    assert (again.id, parity.beyond) == (bundle.id, 0)
    assert Predictor(tmp_path / "b.mlb").predict(list(ROWS))[0].label == Predictor(bundle).predict(list(ROWS))[0].label
    assert pack_bundle(again, tmp_path / "c.mlb").read_bytes() == packed


# Touched bytes


def flips(size: int, data: st.DataObject) -> tuple[int, int]:
    return data.draw(st.integers(0, size - 1)), 1 << data.draw(st.integers(0, 7))


@given(data=st.data())
@SHARED
def test_a_flipped_bit_of_a_folder(bundle: Bundle, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted([*bundle.manifest["files"], MANIFEST])))
    path = bundle.path / name
    original = path.read_bytes()
    at, bit = flips(len(original), data)
    try:
        path.write_bytes(original[:at] + bytes([original[at] ^ bit]) + original[at + 1 :])
        refused(lambda: load_bundle(bundle.path))
    finally:
        path.write_bytes(original)


def spoilt_file(packed: bytes, spoilt: bytes, tmp_path: Path) -> None:
    "A file that must not load, though its original was unpacked before."
    file = tmp_path / "spoilt.mlb"
    file.write_bytes(spoilt)
    if spoilt != packed:
        refused(lambda: load_bundle(file))
        refused(lambda: unpack(file, tmp_path / "out"))
        assert not (tmp_path / "out").exists()


def test_each_byte_of_the_manifest_and_each_header(packed: bytes, tmp_path: Path) -> None:
    (tmp_path / "good.mlb").write_bytes(packed)
    load_bundle(tmp_path / "good.mlb")  # is in the cache now
    heads = [i for i in range(len(packed)) if packed[i : i + 2] == b"PK"]
    places = sorted({i + k for i in heads for k in range(0, 46, 5)} | {*range(0, 700, 23)} | {len(packed) - 1})
    for at in (i for i in places if i < len(packed)):
        spoilt_file(packed, packed[:at] + bytes([packed[at] ^ 255]) + packed[at + 1 :], tmp_path)


@given(data=st.data())
@SHARED
def test_a_flipped_bit_of_a_file(packed: bytes, tmp_path: Path, data: st.DataObject) -> None:
    at, bit = flips(len(packed), data)
    spoilt_file(packed, packed[:at] + bytes([packed[at] ^ bit]) + packed[at + 1 :], tmp_path)


@given(data=st.data())
@SHARED
def test_a_cut_doubled_or_shifted_file(packed: bytes, tmp_path: Path, data: st.DataObject) -> None:
    a, b = (data.draw(st.integers(0, len(packed))) for _ in range(2))
    ways = (packed[:a], packed[a:], packed[:a] + packed[b:], packed + packed[a:b], packed[:a] + b"\0" * 7 + packed[a:])
    spoilt_file(packed, data.draw(st.sampled_from(ways)), tmp_path)


@pytest.mark.slow
def test_every_byte_of_both_forms(bundle: Bundle, packed: bytes, tmp_path: Path) -> None:
    "Each byte of the file once, each byte of the folder's small files once."
    rng = random.Random(0)
    for at in range(len(packed)):
        spoilt_file(packed, packed[:at] + bytes([packed[at] ^ (1 << rng.randrange(8))]) + packed[at + 1 :], tmp_path)
    for at in range(0, len(packed), 3):
        spoilt_file(packed, packed[:at], tmp_path)
    for name in (MANIFEST, "rule.json", "thresholds.json"):
        path, original = bundle.path / name, (bundle.path / name).read_bytes()
        try:
            for at in range(len(original)):
                path.write_bytes(original[:at] + bytes([original[at] ^ (1 << rng.randrange(8))]) + original[at + 1 :])
                refused(lambda: load_bundle(bundle.path))
        finally:
            path.write_bytes(original)


def test_swapped_files(bundle: Bundle, tmp_path: Path) -> None:
    "Every file of another, valid bundle in the place of one's own."
    other = small_bundle(
        tmp_path / "other",
        {n: b + b" " for n, b in FILES.items() if n.endswith((".json", ".md", ".txt"))}
        | {"model.onnx": small_graph(weight=0.1000001).SerializeToString()},
    )
    for name in (*FILES, MANIFEST):
        if (other.path / name).read_bytes() == (bundle.path / name).read_bytes():
            continue
        copied = tmp_path / "copied"
        shutil.copytree(bundle.path, copied)
        shutil.copy(other.path / name, copied / name)
        refused(lambda path=copied: load_bundle(path))  # type: ignore[misc]
        shutil.rmtree(copied)


# Hostile archives


def zipped(bundle: Bundle, change: Callable[[zipfile.ZipInfo, bytes], Any] | None = None, extra: Any = ()) -> bytes:
    "The bundle as Python's zipfile writes it, with changed or added entries."
    import io

    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as z:
        for name in [MANIFEST, *sorted(bundle.manifest["files"])]:
            info, content = zipfile.ZipInfo(name), (bundle.path / name).read_bytes()
            info.external_attr = 0o100644 << 16
            info.create_system = 3
            z.writestr(*((change(info, content) if change else None) or (info, content)))
        for name, content in extra:
            with pytest.MonkeyPatch.context() as m:
                m.setattr("warnings.warn", lambda *a, **k: None)  # zipfile warns of the names this test is about
                z.writestr(name, content)
    return sink.getvalue()


def deflated(info: zipfile.ZipInfo, content: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    info.compress_type = zipfile.ZIP_DEFLATED
    return info, content


def linked(info: zipfile.ZipInfo, content: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    if info.filename == "card.md":
        info.external_attr = 0o120777 << 16
        content = b"/etc/passwd"
    return info, content


def bomb(info: zipfile.ZipInfo, content: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    if info.filename == "card.md":
        info.compress_type = zipfile.ZIP_DEFLATED
        content = bytes(50 * 2**20)
    return info, content


def test_zipfile_writes_the_same_bytes_when_it_is_told_to(bundle: Bundle, packed: bytes) -> None:
    "The control: the entries below are refused for what they change, not for who wrote them."
    assert zipped(bundle) == packed


@pytest.mark.parametrize("change", [deflated, linked, bomb], ids=lambda f: f.__name__)
def test_archives_that_are_not_plainly_stored(bundle: Bundle, tmp_path: Path, change: Any) -> None:
    (tmp_path / "b.mlb").write_bytes(zipped(bundle, change))
    refused(lambda: load_bundle(tmp_path / "b.mlb"))
    assert not list(tmp_path.rglob("card.md"))


@pytest.mark.parametrize(
    "name",
    [
        *("../evil", "/etc/evil", "..\\evil", "C:/evil", "a/../../evil", ".hidden", "model.onnx", "MODEL.ONNX"),
        *("profile/../../evil", "evil\0.md", "evil/", "run.pkl", "x" * 300, "card.md ", "ｍodel.onnx", "con"),
    ],
)
def test_archives_with_a_stranger(bundle: Bundle, tmp_path: Path, name: str) -> None:
    (tmp_path / "b.mlb").write_bytes(zipped(bundle, extra=[(name, b"evil")]))
    refused(lambda: load_bundle(tmp_path / "b.mlb"))
    assert not list(tmp_path.rglob("*evil*"))


def patched(packed: bytes, at: int, form: str, value: int) -> bytes:
    return packed[:at] + struct.pack(form, value) + packed[at + struct.calcsize(form) :]


def hostile_archives(packed: bytes) -> Iterator[tuple[str, bytes]]:
    "Headers that lie, by name."
    central, end = packed.index(b"PK\1\2"), packed.rindex(b"PK\5\6")
    second = packed.index(b"PK\3\4", 4)
    yield "comment", patched(packed, end + 20, "<H", 3) + b"hey"
    yield "trailing", packed + b"\0"
    yield "leading", b"\0" + packed
    yield "encrypted", patched(patched(packed, 6, "<H", 1), central + 8, "<H", 1)
    yield "utf8 flag", patched(packed, 6, "<H", 0x800)
    yield "data descriptor", patched(packed, 6, "<H", 8)
    yield "wrong crc", patched(packed, 14, "<I", 0)
    yield "another size", patched(packed, 18, "<I", 5)
    yield "huge size", patched(patched(packed, second + 18, "<I", 2**32 - 1), second + 22, "<I", 2**32 - 1)
    yield "overlap", patched(packed, central + 42, "<I", second)
    yield "entry count", patched(packed, end + 8, "<H", 1)
    yield "directory elsewhere", patched(packed, end + 16, "<I", 0)
    yield "extra field", patched(packed, 28, "<H", 4)
    yield "zip64", packed[:end] + b"PK\6\6" + bytes(52) + packed[end:]
    yield "name of 65535", patched(packed, 26, "<H", 65535)
    yield "date", patched(packed, 12, "<H", 0x5000)
    yield "twice", packed[:central] + packed[second:]
    yield "an empty archive", b"PK\5\6" + bytes(18)
    yield "nothing", b""
    yield "gzip", zlib.compress(packed)


def test_headers_that_lie(packed: bytes, tmp_path: Path) -> None:
    said = {}
    for name, spoilt in hostile_archives(packed):
        assert spoilt != packed, name
        (tmp_path / "b.mlb").write_bytes(spoilt)
        said[name] = refused(lambda: load_bundle(tmp_path / "b.mlb"))
    assert len(said) == 20


def test_a_file_that_claims_to_be_large_costs_nothing(packed: bytes, tmp_path: Path) -> None:
    sparse = tmp_path / "b.mlb"
    with sparse.open("wb") as f:
        f.write(packed)
        f.truncate(2**40)
    assert "too large" in refused(lambda: load_bundle(sparse))


def test_a_spoilt_cache_is_found(packed: bytes, tmp_path: Path, cache: Path) -> None:
    (tmp_path / "b.mlb").write_bytes(packed)
    found = load_bundle(tmp_path / "b.mlb")
    assert cache in found.path.parents
    (found.path / "card.md").write_bytes(b"x\n")
    refused(lambda: load_bundle(tmp_path / "b.mlb"))


# Hostile manifests and parts

TEXTS = st.text(max_size=8) | st.sampled_from(
    ["../x", "model.onnx", "a\u202eb", "\ud800", "\0", "NaN", "é", "ｍodel.onnx"]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def places(doc: Any) -> Iterator[tuple[Any, Any]]:
    "Every place of a JSON document, as holder and key."
    keys = list(doc) if isinstance(doc, dict) else range(len(doc)) if isinstance(doc, list) else ()
    for k in keys:
        yield doc, k
        yield from places(doc[k])


def spoilt_json(original: bytes, data: st.DataObject) -> bytes:
    "A document with one place changed, dropped, renamed or added."
    doc = json.loads(original)
    holder, key = data.draw(st.sampled_from(list(places(doc)) or [(doc, None)]))
    way = data.draw(st.sampled_from(["put", "drop", "add"]))
    if way == "put" and key is not None:
        holder[key] = data.draw(VALUES)
    elif way == "drop" and key is not None:
        del holder[key]
    elif isinstance(holder, dict):
        holder[data.draw(TEXTS)] = data.draw(VALUES)
    return json.dumps(doc, indent=1, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


@given(data=st.data())
@SHARED
def test_parts_of_any_form(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    "Hashes fit, contents are anything: either it still makes a model, or it is refused."
    parent = tmp_path_factory.getbasetemp() / "parts"
    name = data.draw(st.sampled_from(["contract.json", "rule.json", "thresholds.json", MANIFEST]))
    if name == MANIFEST:
        folder = rebuilt(parent)
        (folder / MANIFEST).write_bytes(spoilt_json((folder / MANIFEST).read_bytes(), data))
    else:
        folder = rebuilt(parent, {name: spoilt_json(FILES[name], data)})
    try:
        found = load_bundle(folder)
        Predictor(found).predict(list(ROWS), partial=True)
        [found.rule.answer(row) for row in ROWS]
    except MlopsError:
        pass  # any other error fails the test
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    "content",
    [
        *(b"[" * 100_000, b'{"a":' * 50_000, b"NaN", b"9" * 5_000, b'{"v": 1, "v": 1}', b"\xff\xfe", b"\xef\xbb\xbf{}"),
        *(b"1e999", b'"\\ud800"', b"", b"null", b"[]", b'{"otherwise": {}, "rules": []}', b"-0", b"{" + b" " * 10**6),
    ],
)
@pytest.mark.parametrize("name", ["contract.json", "rule.json", "thresholds.json", MANIFEST])
def test_json_that_is_no_part(tmp_path: Path, name: str, content: bytes) -> None:
    folder = rebuilt(tmp_path, {name: content} if name != MANIFEST else None)
    (folder / name).write_bytes(content)
    refused(lambda: load_bundle(folder))


# Hostile graphs


def tensor(name: str, kind: int, dims: list[int], values: list[Any]) -> Any:
    return helper.make_tensor(name, kind, dims, values)


def outside(where: str) -> Any:
    made = tensor("weight", TensorProto.FLOAT, [], [0.1])
    made.ClearField("float_data")
    made.data_location = TensorProto.EXTERNAL
    for key, value in (("location", where), ("offset", "0"), ("length", "4")):
        entry = made.external_data.add()
        entry.key, entry.value = key, value
    return made


def with_weight(weight: Any) -> bytes:
    model = small_graph()
    kept = [t for t in model.graph.initializer if t.name != "weight"]
    del model.graph.initializer[:]
    model.graph.initializer.extend([*kept, weight])
    return bytes(model.SerializeToString())


def bombed(op: str, *constants: tuple[str, list[int]], **attributes: Any) -> bytes:
    tensors = tuple(tensor(n, TensorProto.INT64, [len(v)], v) for n, v in constants)
    node = helper.make_node(op, [n for n, _ in constants], ["waste"], **attributes)
    return bytes(small_graph((node,), tensors).SerializeToString())


def functions() -> bytes:
    model = small_graph((helper.make_node("F", ["age"], ["waste"], domain="local"),))
    model.opset_import.append(helper.make_opsetid("local", 1))
    ids = [helper.make_opsetid("", 17)]
    model.functions.append(
        helper.make_function("local", "F", ["a"], ["b"], [helper.make_node("Identity", ["a"], ["b"])], ids)
    )
    return bytes(model.SerializeToString())


def nested(depth: int) -> bytes:
    inner = helper.make_graph([helper.make_node("Identity", ["age"], ["y"])], "g", [], [])
    for _ in range(depth):
        inner = helper.make_graph(
            [helper.make_node("If", ["gap"], ["y"], then_branch=inner, else_branch=inner)], "g", [], []
        )
    node = helper.make_node("If", ["gap"], ["waste"], then_branch=inner, else_branch=inner)
    return bytes(small_graph((node,)).SerializeToString())


def lying() -> bytes:
    huge = tensor("weight", TensorProto.FLOAT, [], [0.1])
    huge.dims[:] = [2**31, 2**31]
    return with_weight(huge)


GRAPHS: dict[str, Callable[[], bytes]] = {
    "external data, absolute": lambda: with_weight(outside("/etc/passwd")),
    "external data, up": lambda: with_weight(outside("../../../etc/passwd")),
    "external data, beside": lambda: with_weight(outside("card.md")),
    "dimensions that lie": lying,
    "zeros": lambda: bombed("ConstantOfShape", ("shape", [2**40])),
    "zeros in many dimensions": lambda: bombed("ConstantOfShape", ("shape", [2**16] * 3)),
    "range": lambda: bombed("Range", ("a", [0]), ("b", [2**50]), ("c", [1])),
    "a stranger's operator": lambda: bytes(
        small_graph((helper.make_node("Evil", ["age"], ["waste"], domain="com.evil"),)).SerializeToString()
    ),
    "an operator nobody has": lambda: bytes(
        small_graph((helper.make_node("NoSuchOperator", ["age"], ["waste"]),)).SerializeToString()
    ),
    "random": lambda: bytes(small_graph((helper.make_node("RandomUniformLike", ["age"], ["w"]),)).SerializeToString()),
    "functions": functions,
    "nested": lambda: nested(9),
    "not a graph": lambda: b"hello",
    "empty": lambda: b"",
    "a model without a graph": lambda: helper.make_model(helper.make_graph([], "g", [], [])).SerializeToString()[:6],
    "other inputs": lambda: bytes(
        helper.make_model(
            helper.make_graph([], "g", [helper.make_tensor_value_info("x", 1, [1])], [])
        ).SerializeToString()
    ),
}


@pytest.mark.parametrize("name", GRAPHS)
def test_graphs_that_are_refused(tmp_path: Path, name: str) -> None:
    folder = rebuilt(tmp_path, {"model.onnx": GRAPHS[name](), "profile/profile.json": b"{}"})
    said = refused(lambda: golden_parity(load_bundle(folder)))
    assert "model.onnx" in said


@given(data=st.data())
@SHARED
def test_graphs_of_any_bytes(data: st.DataObject) -> None:
    "The reader before the runtime: whatever it is fed, an outline or a refusal."
    good = FILES["model.onnx"]
    at, bit = flips(len(good), data)
    cut = data.draw(st.integers(0, len(good)))
    for spoilt in (good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :], good[:cut], data.draw(st.binary(max_size=60))):
        with contextlib.suppress(Refused):
            read_outline(spoilt)


# Hostile tables


def parquet(columns: dict[str, Any], **options: Any) -> bytes:
    import io

    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, **options)
    return sink.getvalue()


GOOD_TABLE: dict[str, Any] = {
    "kind": ["sample"],
    "in.age": pa.array([3.0]),
    "in.plan": ["a"],
    "in.since": ["2020-01-01"],
    "in.paperless": [True],
    "out.0": [0.5],
    "out.1": [0.5],
}
TABLES: dict[str, Callable[[], bytes]] = {
    "a column more": lambda: parquet({**GOOD_TABLE, "evil": [1]}),
    "a column less": lambda: parquet({k: v for k, v in GOOD_TABLE.items() if k != "in.plan"}),
    "another type": lambda: parquet({**GOOD_TABLE, "in.age": ["3"]}),
    "lists": lambda: parquet({**GOOD_TABLE, "in.plan": [["a"]]}),
    "bytes": lambda: parquet({**GOOD_TABLE, "in.plan": [b"\xff"]}),
    "no rows": lambda: parquet({k: pa.array([], pa.array(v).type) for k, v in GOOD_TABLE.items()}),
    "too many rows": lambda: parquet({k: pa.array(list(v) * 20_001) for k, v in GOOD_TABLE.items()}),
    "a bomb": lambda: parquet({**GOOD_TABLE, "in.plan": ["a" * 65 * 2**20]}, compression="zstd"),
    "nothing": lambda: b"",
    "not a table": lambda: b"PAR1" + bytes(100) + b"PAR1",
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_refused(tmp_path: Path, name: str) -> None:
    folder = rebuilt(tmp_path, {"golden.parquet": TABLES[name]()})
    refused(lambda: golden_parity(load_bundle(folder)))


# Flipped bytes in files whose hashes are made to fit, in a child that may not have much memory

CHILD = """
import random, resource, shutil, sys
from pathlib import Path
from tests.small_bundle import FILES, profile_files
from tests.test_bundle_fuzz import rebuilt, used
from mlops_nb.core.errors import MlopsError
name, cases, here = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
files = {**FILES, **profile_files(here / "profile")}
used(rebuilt(here / "made", files))
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
resource.setrlimit(resource.RLIMIT_CPU, (300, 300))
rng, said = random.Random(int(sys.argv[4])), {"loaded": 0, "refused": 0}
for case in range(cases):
    content = bytearray(files[name])
    for _ in range(rng.choice([1, 1, 1, 2, 8])):
        content[rng.randrange(len(content))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    if rng.random() < 0.2:
        del content[rng.randrange(len(content)):]
    folder = rebuilt(here / "made", {**files, name: bytes(content)})
    try:
        used(folder)
        said["loaded"] += 1
    except MlopsError:
        said["refused"] += 1
    shutil.rmtree(folder)
print(said["loaded"], said["refused"])
"""
FUZZED = ("model.onnx", "golden.parquet", "profile/cuts.npy", "profile/profile.json", "contract.json", "rule.json")


def fuzz_in_child(name: str, cases: int, seed: int, tmp_path: Path) -> tuple[int, int]:
    "Loaded and refused; raises when the child ends in any other way."
    command = [sys.executable, "-W", "ignore", "-c", CHILD, name, str(cases), str(tmp_path), str(seed)]
    done = subprocess.run(
        command, cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=False, timeout=400
    )
    assert done.returncode == 0, f"{name}: {done.returncode}\n{done.stderr[-2000:]}"
    loaded, said_no = map(int, done.stdout.split()[-2:])
    return loaded, said_no


@pytest.mark.parametrize("name", FUZZED[:2])
def test_spoilt_content_with_hashes_that_fit(tmp_path: Path, name: str) -> None:
    loaded, said_no = fuzz_in_child(name, 40, 0, tmp_path)
    assert loaded + said_no == 40
    assert said_no


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
def test_a_thousand_spoilt_contents(tmp_path: Path, name: str) -> None:
    loaded, said_no = fuzz_in_child(name, 1000, 1, tmp_path)
    assert loaded + said_no == 1000
    assert said_no > 100
