"""A checkpoint is believed only where all of it is what was written: digests, names, sizes, kinds and limits."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import shutil
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from gennape.errors import CheckpointError
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.model.checkpoint import (
    DESCRIPTION,
    WEIGHTS,
    learnt_numbers,
    load_checkpoint,
    load_encoder,
    provenance_of,
    save_encoder,
    save_ensemble,
    save_tuned,
    shipped_checkpoint,
)
from gennape.predictors.model.checkpoint_files import digest
from gennape.predictors.model.fuzzy_ensemble import Fitted
from gennape.search_spaces.graphs.graph import PackedGraphs

Edit = Callable[[dict[str, Any]], object]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A copy of the shipped one."""
    return Path(shutil.copytree(shipped_checkpoint(), tmp_path / "checkpoint"))


def _rewrite(folder: Path, edit: Edit, weights: dict[str, torch.Tensor] | None = None) -> None:
    """An edited checkpoint with the digests of a writer that means it."""
    fields = json.loads((folder / DESCRIPTION).read_text())
    if weights is not None:
        save_file(weights, folder / WEIGHTS)
        import hashlib

        fields["weights_sha256"] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    edit(fields)
    if fields["format"] == 4:
        fields["sha256"] = digest(fields)
    (folder / DESCRIPTION).write_text(json.dumps(fields))


def test_no_character_of_a_description_can_change(saved: Path) -> None:
    """Four hundred edits of the shipped one: each is refused, or leaves the same values (a space, a 0 at the end)."""
    path = saved / DESCRIPTION
    text, rng, refused = path.read_text(), random.Random(5), 0  # noqa: S311
    for _ in range(400):
        at = rng.randrange(len(text))
        with_ = rng.choice(["0123456789", "abcdef", ' ,:{}[]"-.eE+\\', "\u00e9\x00\n"])
        edit = text[:at] + rng.choice(["", rng.choice(with_), rng.choice(with_) + text[at]]) + text[at + 1 :]
        path.write_text(edit)
        try:
            provenance_of(saved)
        except CheckpointError as error:
            refused += 1
            assert str(saved) in str(error)  # noqa: PT017 (whether it is raised depends on the edit)
        else:
            assert json.loads(edit) == json.loads(text)
    assert refused > 250


def test_no_digit_of_a_description_can_change(saved: Path) -> None:
    path = saved / DESCRIPTION
    text = path.read_text()
    digits = [at for at, character in enumerate(text) if character.isdigit()]
    for at in random.Random(6).sample(digits, 150):  # noqa: S311
        edit = f"{text[:at]}{(int(text[at]) + 1) % 10}{text[at + 1 :]}"
        path.write_text(edit)
        if _value(edit) == json.loads(text):
            continue  # the seventeenth digit may not count
        with pytest.raises(CheckpointError, match=r"altered|checkpoint format|cannot read"):
            load_checkpoint(saved)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def test_every_field_must_be_there(saved: Path) -> None:
    text = (saved / DESCRIPTION).read_text()
    for name in json.loads(text):
        fields = json.loads(text)
        del fields[name]
        (saved / DESCRIPTION).write_text(json.dumps(fields))
        with pytest.raises(CheckpointError, match=r"altered|checkpoint format"):
            load_checkpoint(saved)
        (saved / DESCRIPTION).write_text(json.dumps(fields | {"sha256": digest(fields)}))  # nor when it is signed anew
        if name != "sha256":
            with pytest.raises(CheckpointError, match=name):
                load_checkpoint(saved)


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_no_byte_of_either_file_is_cut_off_or_changed(saved: Path, name: str) -> None:
    content, rng = (saved / name).read_bytes(), random.Random(7)  # noqa: S311
    changed = [content[:-2], content[: len(content) // 2], b"", content[:7], b"[]", b"null", b"\xff\xfe", content * 2]
    for _ in range(60):
        at = rng.randrange(len(content) - 1)
        bit = 1 << rng.randrange(8)
        changed.append(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
    original = json.loads((saved / DESCRIPTION).read_bytes())
    for data in changed:
        (saved / name).write_bytes(data)
        try:
            load_checkpoint(saved)
        except CheckpointError:
            continue
        assert name == DESCRIPTION
        assert json.loads(data) == original  # a space that became another


def test_files_of_two_checkpoints_are_not_mixed(tmp_path: Path, saved: Path, fitted: Fitted) -> None:
    save_ensemble(tmp_path / "other", fitted, {"seed": 2})
    shutil.copy(tmp_path / "other" / DESCRIPTION, saved / DESCRIPTION)
    with pytest.raises(CheckpointError, match=r"is not what checkpoint\.json describes"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("config", "encoder", "hidden"), 65536),  # 18 TB and more, were they made first
        (("config", "encoder", "layers"), 100),
        (("config", "clusters"), 65536),
        (("members", "members", 0, "hidden"), 65536),
        (("members", "members", 2, "anchors"), 65536),
        (("members", "members", 4, "network", "hidden"), 65536),
        (("members", "members", 4, "network", "layers"), 100),
    ],
)
def test_sizes_are_compared_with_the_weights_before_memory_is_taken(
    saved: Path, place: tuple[str | int, ...], value: int
) -> None:
    _rewrite(saved, lambda fields: _put(fields, place, value))
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=r"do not fit the sizes|the encoder's sizes"):
            load_checkpoint(saved)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def _put(fields: Any, place: tuple[str | int, ...], value: object) -> None:
    for name in place[:-1]:
        fields = fields[name]
    fields[place[-1]] = value


@pytest.mark.parametrize(
    "place",
    [
        ("law", "decay"),
        ("law", "weights", 1),
        ("config", "fuzzifier"),
        ("config", "encoder", "dropout"),
        ("members", "weights", 0),
        ("members", "answer", "x", 3),
        ("members", "scales", 1, "y", 0),
        ("members", "uncertainty", "factor"),
        ("members", "members", 0, "target", "deviation"),
        ("members", "members", 0, "target", "mean"),
        ("members", "members", 2, "line", 0),
        ("members", "members", 5, "slope"),
        ("within", "uncertainty", "floor"),
        ("members", "members", 0, "clusters"),
        ("provenance", "metrics"),
    ],
    ids=lambda place: ".".join(map(str, place)),
)
def test_numbers_that_are_none_or_absurd_are_refused(saved: Path, place: tuple[str | int, ...]) -> None:
    for value in (float("nan"), float("inf"), -float("inf"), 1e30, "1", None, [], {}, True):
        if place == ("provenance", "metrics") and value in (None, {}):
            continue  # which may be empty
        _rewrite(saved, lambda fields, value=value: _put(fields, place, value))  # type: ignore[misc]
        with pytest.raises(CheckpointError, match=r"checkpoint.json: |member|weights|curve"):
            load_checkpoint(saved)


def test_scales_below_zero_and_unordered_curves_are_refused(saved: Path) -> None:
    for place, value in [
        (("members", "members", 0, "target", "deviation"), -1.0),
        (("members", "members", 0, "target", "deviation"), 0),
        (("within", "weights"), [2.0, -1.0]),
        (("members", "answer", "x"), [1.0, 0.0]),
        (("members", "answer", "y"), []),
        (("members", "members", 0, "embedding"), 7),
        (("members", "members", 0, "kind"), "Oracle"),
        (("members", "members", 0, "kind"), ["Oracle"]),
        (("members", "members"), [1]),
        (("members", "members"), []),
        (("within", "members"), {}),
    ]:
        text = (saved / DESCRIPTION).read_text()
        _rewrite(saved, lambda fields, place=place, value=value: _put(fields, place, value))  # type: ignore[misc]
        with pytest.raises(CheckpointError):
            load_checkpoint(saved)
        (saved / DESCRIPTION).write_text(text)


@pytest.mark.parametrize(
    "place", [(), ("law",), ("config",), ("config", "encoder"), ("members",), ("within", "answer")]
)
def test_unknown_fields_are_refused_by_name(saved: Path, place: tuple[str, ...]) -> None:
    _rewrite(saved, lambda fields: _put(fields, (*place, "colour"), "red"))
    with pytest.raises(CheckpointError, match="colour is unknown"):
        load_checkpoint(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w | {"centroids": w["centroids"] * float("nan")}, "centroids holds numbers that are not finite"),
        (lambda w: w | {"centroids": w["centroids"] + 1e20}, "centroids holds numbers that are not finite, or above"),
        (lambda w: w | {"centroids": w["centroids"].double()}, r"centroids is .* of float64, should be .* of float32"),
        (lambda w: w | {"more": w["centroids"].clone()}, "more is unknown"),
        (lambda w: w | {"members.ghost.x": w["centroids"].clone()}, "members.ghost.x belongs to no member"),
        (lambda w: {name: tensor for name, tensor in w.items() if name != "centroids"}, "centroids is missing"),
        (lambda w: w | {"learnt_architectures": torch.tensor([2, 1])}, "must be ascending whole numbers"),
        (lambda w: w | {"learnt_architectures": torch.tensor([1.0])}, "must be ascending whole numbers"),
        (lambda w: w | {"tuned.line": torch.zeros(3).double()}, "what was learnt from labels is incomplete"),
        (lambda w: w | {"members.cl_t.cost_statistics": torch.zeros(5)}, "not above 0"),
    ],
)
def test_weights_that_are_not_of_this_ensemble_are_refused(
    saved: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], message: str
) -> None:
    _rewrite(saved, lambda _: None, change(load_file(saved / WEIGHTS)))
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_what_labels_taught_is_checked(
    saved: Path, tmp_path: Path, cells: PackedGraphs, cell_accuracy: np.ndarray
) -> None:
    save_tuned(tmp_path / "t", load_checkpoint(saved).fit(cells, cell_accuracy), {"family": "nb101"}, saved)
    weights = load_file(tmp_path / "t" / WEIGHTS)
    for name in sorted(name for name in weights if name.startswith("tuned.")):
        for tensor in (weights[name] * float("nan"), weights[name][:-1]):
            _rewrite(tmp_path / "t", lambda _: None, weights | {name: tensor.contiguous()})
            with pytest.raises(CheckpointError, match="what was learnt from labels"):
                load_checkpoint(tmp_path / "t")
        _rewrite(tmp_path / "t", lambda _: None, {other: weights[other] for other in weights if other != name})
        with pytest.raises(CheckpointError, match="what was learnt from labels"):
            load_checkpoint(tmp_path / "t")


def test_an_encoder_is_checked_alike(tmp_path: Path, encoder: GraphEncoder) -> None:
    save_encoder(tmp_path / "e", encoder, {})
    text = (tmp_path / "e" / DESCRIPTION).read_text()
    (tmp_path / "e" / DESCRIPTION).write_text(text.replace('"layers": ', '"layers": 1'))
    with pytest.raises(CheckpointError, match="altered"):
        load_encoder(tmp_path / "e")
    (tmp_path / "e" / DESCRIPTION).write_text(text)
    _rewrite(tmp_path / "e", lambda fields: _put(fields, ("config", "hidden"), 65536))
    with pytest.raises(CheckpointError, match="do not fit the sizes"):
        load_encoder(tmp_path / "e")


def test_a_checkpoint_of_an_older_version_is_read_under_its_name_and_told(
    saved: Path, cells: PackedGraphs, caplog: pytest.LogCaptureFixture
) -> None:
    """Format 3 is the same without the digest; its name was the SHA-256 of the file as it lay there."""
    import hashlib

    expected = load_checkpoint(saved)
    fields = json.loads((saved / DESCRIPTION).read_text())
    del fields["sha256"]
    old = json.dumps({**fields, "format": 3}, indent=2, sort_keys=True) + "\n"
    (saved / DESCRIPTION).write_text(old)
    with caplog.at_level(logging.WARNING):
        found = load_checkpoint(saved)
        learnt_numbers(saved)
    assert found.sha256 == hashlib.sha256(old.encode()).hexdigest() == expected.sha256
    assert found.predict(cells).accuracy.tobytes() == expected.predict(cells).accuracy.tobytes()
    assert len(caplog.messages) == 1  # and not with every file
    assert "without a digest" in caplog.messages[0]
    # What can be told without a digest still is.
    _rewrite(saved, lambda fields: _put(fields, ("law", "decay"), -1))
    with pytest.raises(CheckpointError, match=r"law.decay: Input should be greater than 0"):
        load_checkpoint(saved)
    (saved / DESCRIPTION).write_text(json.dumps({**fields, "format": 3, "sha256": expected.sha256}))
    with pytest.raises(CheckpointError, match="sha256 is unknown"):  # a digest is not got rid of by its format
        load_checkpoint(saved)


def test_the_shipped_checkpoint_is_named_by_its_description() -> None:
    """The SHA-256 of its description as format 3 wrote it, which had no digest within."""
    fields = json.loads((shipped_checkpoint() / DESCRIPTION).read_text())
    recorded = fields.pop("sha256")
    text = json.dumps(fields | {"format": 3}, indent=2, sort_keys=True) + "\n"
    assert load_checkpoint().sha256 == recorded == hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
@pytest.mark.timeout(60)
def test_what_is_no_regular_file_is_refused_at_once(saved: Path, name: str) -> None:
    path = saved / name
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="it is a device"):
        load_checkpoint(saved)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CheckpointError, match="it is a pipe"):
        load_checkpoint(saved)
    path.unlink()
    path.mkdir()
    with pytest.raises(CheckpointError, match="it is a folder"):
        load_checkpoint(saved)
    path.rmdir()
    path.symlink_to(name)
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(saved)
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 35)
    with pytest.raises(CheckpointError, match=r"it holds 34,359,738,368 bytes"):
        load_checkpoint(saved)
