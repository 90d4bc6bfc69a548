"""NAS-Bench-101's TFRecord files, in the small: records and messages are written here byte by byte."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.files import tfrecord
from gennape.search_spaces.labels.labels import label_blocks, read_labels, reader_of
from gennape.search_spaces.labels.nb101 import last_evaluation, message_fields

SPACE = family("nb101")
HASH = "00005c142e6f48ac74fdcf73e3439874"
OPS = "input,conv3x3-bn-relu,output"
CHAIN = "010001000"


def crc32c(data: bytes) -> int:
    """The definition, bit by bit: reflected polynomial 0x1EDC6F41."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


def evaluation(epoch: float, seconds: float, train: float, validation: float, test: float) -> bytes:
    numbers = (epoch, seconds, train, validation, test)
    fields = b"".join(bytes([field << 3 | 1]) + struct.pack("<d", x) for field, x in enumerate(numbers, 1))
    return b"\x0a" + bytes([len(fields)]) + fields


def metrics(validation: float, test: float = 0.5) -> bytes:
    runs = (
        evaluation(0, 0, 0.1, 0.1, 0.1),
        evaluation(54, 500, 0.9, 0.7, 0.7),
        evaluation(108, 1000, 1, validation, test),
    )
    return b"".join(runs) + b"\x10\x8a\xb9\xa4\x01" + b"\x19" + struct.pack("<d", 1234.5)  # 2,694,282 parameters


def run(validation: float, digest: str = HASH, epochs: int = 108, adjacency: str = CHAIN, ops: str = OPS) -> bytes:
    text = base64.b64encode(metrics(validation, validation / 2)).decode()
    return json.dumps([digest, epochs, adjacency, ops, text]).encode()


def write(path: Path, *records: bytes) -> Path:
    path.write_bytes(b"".join(map(record, records)))
    return path


# Checksums and records -----------------------------------------------------------------------------------------------


def test_checksums_of_rfc_3720() -> None:
    vectors = {bytes(32): 0x8A9136AA, b"\xff" * 32: 0x62A8AB43, bytes(range(32)): 0x46DD794E, b"123456789": 0xE3069283}
    assert tfrecord.crc32c(list(vectors)).tolist() == list(vectors.values())


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_checksums_agree_with_the_definition(data: list[bytes]) -> None:
    assert tfrecord.crc32c(data).tolist() == [crc32c(part) for part in data]


@given(data=st.lists(st.binary(max_size=30), max_size=5))
@settings(max_examples=50, deadline=None)
def test_records_come_back_with_their_offsets(tmp_path_factory: pytest.TempPathFactory, data: list[bytes]) -> None:
    path = write(tmp_path_factory.mktemp("records") / "a.tfrecord", *data)
    offsets = np.cumsum([0, *(len(part) + 16 for part in data)])[: len(data)].tolist()
    assert list(tfrecord.records(path)) == list(zip(offsets, data, strict=True))


def test_many_records_come_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord, "_CHUNK_RECORDS", 3)
    path = write(tmp_path / "a.tfrecord", *(bytes([i]) for i in range(8)))
    assert [data[0] for _, data in tfrecord.records(path)] == list(range(8))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda data: data[:-1], "the record at byte 20 is cut off"),
        (lambda data: data[:25], "the record at byte 20 is cut off"),
        (lambda data: data[:33] + b"X" + data[34:], "the record at byte 20 does not have its checksum"),
        (lambda data: data[:20] + b"\x05" + data[21:], "the record at byte 20 has a damaged length"),
        (lambda data: b"\x04" + bytes(6) + b"\x7f" + data[8:], "the record at byte 0 has a damaged length"),
    ],
)
def test_damaged_records_are_named(tmp_path: Path, change: Any, what: str) -> None:
    path = write(tmp_path / "a.tfrecord", b"four", b"four")
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(InvalidDataError, match=what):
        list(tfrecord.records(path))


def test_a_length_beyond_any_record_is_refused(tmp_path: Path) -> None:
    length = struct.pack("<Q", 1 << 50)
    path = tmp_path / "a.tfrecord"
    path.write_bytes(length + masked(length) + b"rest")
    with pytest.raises(InvalidDataError, match="damaged length"):
        list(tfrecord.records(path))


# Messages ------------------------------------------------------------------------------------------------------------


def test_fields_of_a_message() -> None:
    data = b"\x08\x96\x01" + b"\x12\x02hi" + b"\x19" + struct.pack("<d", 2.5)  # 150 as in protobuf's own documentation
    assert message_fields(data) == [(1, 150), (2, b"hi"), (3, 2.5)]


@pytest.mark.parametrize("data", [b"\x08", b"\x08\x80", b"\x12\x05hi", b"\x19\x00", b"\x0b", b"\x08" + b"\x80" * 11])
def test_bad_messages_are_refused(data: bytes) -> None:
    with pytest.raises(InvalidDataError, match="protocol buffer"):
        message_fields(data)


def test_both_ways_through_a_message_agree() -> None:
    usual = metrics(0.9, 0.8)
    reordered = usual[141:] + usual[:141]  # the same fields, the count of parameters first
    expected = ({1: 108.0, 2: 1000.0, 3: 1.0, 4: 0.9, 5: 0.8}, 2694282)
    assert last_evaluation(usual) == last_evaluation(reordered) == expected


# The file ------------------------------------------------------------------------------------------------------------


def test_means_over_runs_in_percent(tmp_path: Path) -> None:
    other = "ffff5c142e6f48ac74fdcf73e3439874"
    path = write(
        tmp_path / "nasbench.tfrecord",
        run(0.90),
        run(0.5, other, adjacency="0100", ops="input,output"),
        run(0.92),
        run(0.4, epochs=4),
    )
    labels = read_labels(path, SPACE)
    assert reader_of(path).name == "NAS-Bench-101"
    assert (labels.column, labels.identity) == ("val108", [HASH, other])
    np.testing.assert_allclose(labels.accuracy, [91, 50])
    assert SPACE.encode(labels.genomes[0]) == {
        "matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]],
        "ops": ["input", "conv3x3-bn-relu", "output"],
    }
    row = labels.table.iloc[0].to_dict()
    assert row["runs"] == 2
    assert row["params"] == 2694282
    np.testing.assert_allclose(
        [row["val4"], row["test108"], row["train108"], row["train_time108"]], [40, 45.5, 100, 1000]
    )
    assert labels.sampled.all()
    assert not labels.picked.any()


def test_another_column_leaves_out_what_lacks_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", run(0.9), run(0.4, epochs=4), run(0.9, "f" * 32))
    np.testing.assert_allclose(read_labels(path, SPACE, "val4").accuracy, [40])
    with pytest.raises(InvalidDataError, match=r"no column of numbers 'val36'; name one of \['val108'"):
        read_labels(path, SPACE, "val36")


BAD = {
    "not JSON": (b"{", "not a record"),
    "too few parts": (b"[1, 2]", "not a record"),
    "other epochs": (run(0.9, epochs=5), "not a record"),
    "no hash": (run(0.9, digest="x" * 32), "must be 32 hexadecimal digits"),
    "bad base 64": (json.dumps([HASH, 108, CHAIN, OPS, "ä"]).encode(), "not a record"),
    "no evaluations": (json.dumps([HASH, 108, CHAIN, OPS, ""]).encode(), "0 evaluations"),
    "cut message": (
        json.dumps([HASH, 108, CHAIN, OPS, base64.b64encode(metrics(1)[:60]).decode()]).encode(),
        "truncated",
    ),
    "another cell": (run(0.9, adjacency="0" * 9), "belongs to another cell at byte 0"),
    "deep JSON": (b"[" * 10_000, "not a record"),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_records_are_named_by_their_byte(tmp_path: Path, what: str) -> None:
    bad, reason = BAD[what]
    first = run(0.9)
    path = write(tmp_path / "a.tfrecord", first, bad, run(0.8, "f" * 32))
    place = f"the record at byte {len(first) + 16}: .*{reason}"
    with pytest.raises(InvalidDataError, match=place):
        read_labels(path, SPACE)
    heard: list[str] = []
    assert len(read_labels(path, SPACE, rejected=heard.append).genomes) == 2
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("adjacency", "ops"),
    [("01", OPS), ("010001002", OPS), ("000000000", OPS), (CHAIN, "input,pool,output"), (CHAIN, "")],
)
def test_bad_cells_are_named_by_their_byte(tmp_path: Path, adjacency: str, ops: str) -> None:
    path = write(tmp_path / "a.tfrecord", run(0.9, adjacency=adjacency, ops=ops), run(0.9, "f" * 32))
    with pytest.raises(InvalidDataError, match="the record at byte 0: "):
        read_labels(path, SPACE)
    heard: list[str] = []
    assert sum(len(block.genomes) for block in label_blocks(path, SPACE, rejected=heard.append)) == 1
    assert len(heard) == 1


def test_another_family_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tfrecord", run(0.9))
    with pytest.raises(InvalidDataError, match="holds architectures of nb101, not of hiaml"):
        read_labels(path, family("hiaml"))
