"""The restricted reader of pickles: agrees with Python's on data, and refuses, unexecuted, all that could do harm."""

from __future__ import annotations

import bz2
import collections
import gzip
import io
import os
import pickle
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from example_counts import examples
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.bounded import bounded, open_bounded
from gennape.search_spaces.files.restricted_pickle.machine import Limits, Record, Rules
from gennape.search_spaces.files.restricted_pickle.reader import read_pickle
from gennape.search_spaces.files.restricted_pickle.torch_file import Tensor, read_torch

PROTOCOLS = range(6)


def read(data: bytes, rules: Rules | None = None, limits: Limits | None = None) -> Any:
    return read_pickle(bounded(io.BytesIO(data), "file"), "file", rules, limits)


# Agreement with Python -----------------------------------------------------------------------------------------------

KEYS = st.one_of(st.text(max_size=8), st.integers(), st.tuples(st.text(max_size=3), st.integers()), st.none())
LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(st.characters(), max_size=300),
    st.binary(max_size=300),
    st.binary(max_size=20).map(bytearray),
    st.builds(complex, st.floats(allow_nan=False), st.floats(allow_nan=False)),
    st.builds(range, st.integers(-9, 9), st.integers(-9, 9)),
    st.frozensets(KEYS, max_size=3),
    st.sets(KEYS, max_size=3),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.dictionaries(KEYS, inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.lists(st.tuples(KEYS, inner), max_size=3).map(collections.OrderedDict),
    ),
    max_leaves=25,
)


def same(a: Any, b: Any) -> bool:
    """Equal in value and, ordered dictionaries aside, in every type."""
    kinds = [dict if isinstance(value, dict) else type(value) for value in (a, b)]
    if kinds[0] is not kinds[1]:
        return False
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True)
        return len(a) == len(b) and all(same(x, y) for pair in pairs for x, y in zip(*pair, strict=True))
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


@given(VALUES, st.sampled_from(PROTOCOLS))
@settings(max_examples=examples(300), deadline=None)
def test_agrees_with_python_on_plain_data(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol=protocol)
    assert same(read(data), pickle.loads(data))  # noqa: S301 - written above


@given(VALUES, st.sampled_from(PROTOCOLS))
@settings(max_examples=100, deadline=None)
def test_a_shared_value_stays_shared(value: Any, protocol: int) -> None:
    part = [value]
    first, second = read(pickle.dumps([part, part], protocol=protocol))
    assert first is second


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("dtype", ["?", "i1", "<i8", ">i4", "u2", "<f2", ">f8"])
def test_arrays_of_numbers(protocol: int, dtype: str) -> None:
    for array in (
        np.arange(6).reshape(2, 3).astype(dtype),
        np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype)),
        np.zeros((0, 4), dtype),
        np.array(1).astype(dtype),
    ):
        found = read(pickle.dumps([array, array], protocol=protocol))
        assert found[0] is found[1]
        assert found[0].dtype.newbyteorder("=") == array.dtype.newbyteorder("=")  # numpy may swap as it fills
        np.testing.assert_array_equal(found[0], array)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_scalars_become_python_numbers(protocol: int) -> None:
    found = read(pickle.dumps([np.float64(0.5), np.float32(0.25), np.int64(-3), np.bool_(True)], protocol=protocol))
    assert found == [0.5, 0.25, -3, True]
    assert [type(value) for value in found] == [float, float, int, bool]


def test_numpy_pickles_of_old_versions() -> None:
    new = pickle.dumps(np.float64(0.5), protocol=2)
    assert read(new.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")) == 0.5


def test_two_pickles_in_a_row() -> None:
    stream = bounded(io.BytesIO(pickle.dumps([1]) + pickle.dumps("two")), "file")
    assert [read_pickle(stream, "file"), read_pickle(stream, "file")] == [[1], "two"]


# Objects -------------------------------------------------------------------------------------------------------------


class Graph:
    """Stands for a class of somebody else's."""

    def __init__(self) -> None:
        self.name, self.nodes = "g", [1, 2]


Pair = collections.namedtuple("Pair", "a b")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_of_listed_classes_are_records(protocol: int) -> None:
    names = [f"{__name__}.Graph", f"{__name__}.Pair"]
    rules = Rules({"copyreg._reconstructor": lambda args: Record(args[0].key)}, frozenset(names))
    rules = Rules({**rules.calls, "copy_reg._reconstructor": rules.calls["copyreg._reconstructor"]}, rules.records)
    graph, pair = read(pickle.dumps([Graph(), Pair(1, (2,))], protocol=protocol), rules)
    assert (graph.key, graph.state) == (names[0], {"name": "g", "nodes": [1, 2]})
    assert pair.key == names[1]
    if protocol >= 2:
        assert pair.args == (1, (2,))


def test_an_object_of_another_class_is_refused_with_its_name_and_place() -> None:
    with pytest.raises(InvalidDataError, match=rf"^file: at byte \d+ of the pickle: it names '{__name__}.Graph'"):
        read(pickle.dumps([Graph()]))


def _runs(marker: Path) -> list[Any]:
    """Objects whose pickles make Python create ``marker``."""

    class _Call:
        def __init__(self, function: Callable[..., Any], *args: Any) -> None:
            self.reduced = (function, args)

        def __reduce__(self) -> tuple[Any, ...]:
            return self.reduced

    touch = f"open({str(marker)!r}, 'w').close()"
    return [
        _Call(os.system, f"touch {marker}"),
        _Call(exec, touch),
        _Call(eval, f"exec({touch!r})"),
        _Call(getattr, "text", "upper"),
        _Call(__import__, "antigravity"),
        _Call(os.mkdir, str(marker)),
        _Call(io.open, str(marker), "w"),
        _Call(np.load, "x"),
    ]


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_harmful_pickles_are_refused_and_not_run(tmp_path: Path, number: int, protocol: int) -> None:
    marker = tmp_path / "ran"
    call = _runs(marker)[number]
    data = pickle.dumps({"all_results": [call]}, protocol=protocol)
    with pytest.raises(InvalidDataError, match="not allowed"):
        read(data, Rules({}, shrink={"all_results": len}))
    assert not marker.exists()


HARMFUL = {
    "a classic": b"cos\nsystem\n(S'touch x'\ntR.",
    "by instance": b"(S'touch x'\nios\nsystem\n.",
    "by object": b"(cos\nsystem\nS'touch x'\no.",
    "a dotted name": b"\x80\x04\x8c\x08builtins\x8c\x0cset.__init__\x93.",
    "a name of the wrong kind": b"\x80\x04K\x01K\x02\x93.",
    "an attribute of an allowed one": b"cbuiltins\nset.__class__\n.",
    "the module of an allowed name": b"cnumpy\nload\n.",
    "numpy's arrays of objects": pickle.dumps(np.array([object], object)),
    "numpy's records": pickle.dumps(np.zeros(1, [("a", "f8")])),
    "an extension code": b"\x82\x01.",
    "a persistent value": b"\x80\x02K\x01Q.",
    "a text persistent value": b"Pos.system\n.",
    "a buffer outside": b"\x80\x05\x97.",
    "calling data": b"\x80\x02K\x01)R.",
    "state for a number": b"\x80\x02K\x01}b.",
    "items for a tuple": b"\x80\x02)(K\x01e.",
    "pairs for a list": b"\x80\x02](K\x01K\x02u.",
    "half a pair": b"\x80\x02}(K\x01u.",
    "an unhashable key": b"\x80\x02}]K\x01s.",
}


@pytest.mark.parametrize("what", HARMFUL)
def test_malformed_pickles_are_refused_with_their_place(what: str) -> None:
    with pytest.raises(InvalidDataError, match=r"^file: at byte \d+ of the pickle: "):
        read(HARMFUL[what])


# Damage and bombs ----------------------------------------------------------------------------------------------------


@given(VALUES, st.sampled_from(PROTOCOLS), st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_pickle_is_an_error_or_data(value: Any, protocol: int, draw: st.DataObject) -> None:
    data = bytearray(pickle.dumps(value, protocol=protocol))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with suppress(InvalidDataError):
        read(bytes(data))


@given(st.binary(max_size=200))
@settings(max_examples=examples(300), deadline=None)
def test_any_bytes_are_an_error_or_data(data: bytes) -> None:
    with suppress(InvalidDataError):
        read(data)


@given(VALUES, st.sampled_from(PROTOCOLS), st.data())
@settings(max_examples=60, deadline=None)
def test_a_truncated_pickle_is_refused(value: Any, protocol: int, draw: st.DataObject) -> None:
    data = pickle.dumps(value, protocol=protocol)
    with pytest.raises(InvalidDataError):
        read(data[: draw.draw(st.integers(0, len(data) - 1))])


SMALL = Limits(items=5000, memo=5000, depth=20, text=10_000)
LIST_OF_1000 = b"\x80\x04](" + 1000 * b"N" + b"e\x940"
BYTES_9000 = b"\x80\x04B\x28\x23\x00\x00" + 9000 * b"x" + b"\x940"
BOMBS = {
    "many lists": b"\x80\x04" + 10_000 * b"]",
    "many numbered lists": b"\x80\x04" + 10_000 * b"]\x940",
    "lists in lists by marks": b"\x80\x04" + 3000 * b"(",
    "tuples in tuples": b"\x80\x04N" + 1000 * b"\x85" + b".",
    "lists in lists, inside out": b"\x80\x04]\x940" + b"".join(b"]h%ca\x94" % n + b"0" for n in range(200)) + b"h\xc8.",
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "a dictionary in itself": b"\x80\x04}\x94K\x01h\x00s.",
    "a long string announced": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x.",
    "long bytes announced": b"\x80\x04\x8e" + struct.pack("<Q", 2**63 + 5) + b"x.",
    "a long integer": b"\x80\x04\x8b" + struct.pack("<I", 5000) + 5000 * b"\x7f" + b".",
    "a long decimal": b"L" + 5000 * b"9" + b"L\n.",
    "a far memo number": b"\x80\x04Nr\xff\xff\xff\x7f.",
    "copies of a list": LIST_OF_1000 + b"cbuiltins\nlist\n\x940" + 20 * b"h\x01h\x00\x85R" + b".",
    "copies of bytes": BYTES_9000 + b"cbuiltins\nbytearray\n\x940" + 200 * b"h\x01h\x00\x85R" + b".",
    "a long range of an array": b"cbuiltins\nlist\ncbuiltins\nrange\nJ\x00\x00\x00\x7f\x85R\x85R.",
    "a key of nested tuples": b"\x80\x04N" + 12 * b"\x85" + b"\x94}h\x00Ns.",
    "a key of shared tuples": b"\x80\x04N" + b"".join(b"2\x86" for _ in range(15)) + b"\x94}h\x00Ns.",
    "numbered once more and more": b"\x80\x04N" + 6000 * b"\x94" + b".",
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("what", BOMBS)
def test_bombs_are_refused(what: str) -> None:
    with pytest.raises(InvalidDataError, match=r"^file"):
        read(BOMBS[what], limits=SMALL)


@pytest.mark.parametrize("opener", [bz2.open, gzip.open])
def test_a_compressed_bomb_ends_at_the_limit(tmp_path: Path, opener: Callable[..., Any]) -> None:
    path = tmp_path / "bomb.pkl"
    with opener(path, "wb") as file:
        for _ in range(20):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 16
    with open_bounded(path, most=1 << 20) as stream, pytest.raises(InvalidDataError, match="more than 1048576 bytes"):
        stream.read()


@pytest.mark.parametrize("opener", [bz2.open, gzip.open])
def test_a_compressed_file_that_is_cut_off(tmp_path: Path, opener: Callable[..., Any]) -> None:
    path = tmp_path / "cut.pkl"
    with opener(path, "wb") as file:
        pickle.dump(list(np.random.default_rng(0).integers(0, 256, 5000)), file)
    path.write_bytes(path.read_bytes()[:-500])
    with open_bounded(path) as stream, pytest.raises(InvalidDataError, match=r"cut\.pkl"):
        read_pickle(stream, str(path))


# Forgetting ----------------------------------------------------------------------------------------------------------


def test_shrunk_parts_are_replaced_and_freed() -> None:
    parts = [{"all_results": {("a", 1): [1.5] * 3, ("a", 2): [2.5]}, "name": "common"} for _ in range(400)]
    tight = Limits(items=4200, memo=100_000, depth=20, text=1000)
    data = pickle.dumps(parts, protocol=4)
    found = read(data, Rules({}, shrink={"all_results": lambda runs: len(runs[("a", 1)])}), tight)
    assert found == [{"all_results": 3, "name": "common"}] * 400
    with pytest.raises(InvalidDataError, match="more than 4200"):
        read(data, limits=tight)


def test_numbers_and_names_stay_known_after_forgetting() -> None:
    shared = np.float64(0.5)
    data = pickle.dumps([{"all_results": [np.float64(1), shared, "text"]}, np.float64(2), "text"], protocol=4)
    assert read(data, Rules({}, shrink={"all_results": lambda _: None})) == [{"all_results": None}, 2.0, "text"]


# Files of torch.save -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "file.pth"
    base = torch.arange(12.0).reshape(3, 4)
    tensors = [base, base.t(), base[1:, ::2], torch.tensor([1, 2]), torch.tensor(True), torch.zeros(0, 3).half()]
    value = {"tensors": tensors, "shape": base.shape, "state": torch.nn.Linear(2, 3).state_dict(), "x": ["y", None]}
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    found: Any = read_torch(path)
    assert (found["shape"], found["x"]) == ((3, 4), ["y", None])
    assert found["state"]["weight"].array().shape == (3, 2)
    for tensor, expected in zip(found["tensors"], tensors, strict=True):
        assert isinstance(tensor, Tensor)
        np.testing.assert_array_equal(tensor.array(), expected.numpy())
    assert found["tensors"][0].storage is found["tensors"][1].storage


@pytest.mark.parametrize("zipped", [True, False])
def test_a_torch_file_of_a_whole_module_is_refused(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "module.pth"
    torch.save(torch.nn.ReLU(), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidDataError, match="ReLU"):
        read_torch(path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.97])
def test_a_torch_file_that_is_cut_off(tmp_path: Path, zipped: bool, kept: float) -> None:
    path = tmp_path / "file.pth"
    torch.save({"a": torch.arange(100.0)}, path, _use_new_zipfile_serialization=zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    with pytest.raises(InvalidDataError, match=r"file\.pth"):
        read_torch(path)


def test_every_damaged_byte_of_a_torch_archives_directory_is_an_error_or_data(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save({"a": torch.arange(3.0)}, path)
    data = path.read_bytes()
    for at in range(len(data) - 150, len(data)):
        path.write_bytes(data[:at] + b"\xff" + data[at + 1 :])
        with suppress(InvalidDataError):
            read_torch(path)


def test_a_tensor_that_leaves_its_storage_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    torch.save(torch.arange(6.0).reshape(2, 3), path)
    found: Any = read_torch(path)
    for offset, shape, stride in (
        (1, (2, 3), (3, 1)),
        (0, (2, 3), (4, 1)),
        (-1, (1, 1), (1, 1)),
        (0, (99, 99), (0, 0)),
    ):
        with pytest.raises(InvalidDataError, match="does not lie in its storage"):
            Tensor(found.storage, offset, shape, stride).array()
