from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gennape.errors import CheckpointError
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.model import checkpoint_files
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
from gennape.predictors.model.fuzzy_ensemble import Fitted, FuzzyEnsemble
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.graph import PackedGraphs


@pytest.fixture
def saved(tmp_path: Path, fitted: Fitted) -> Path:
    save_ensemble(tmp_path / "checkpoint", fitted, {"seed": 1})
    return tmp_path / "checkpoint"


def test_what_is_loaded_predicts_what_was_saved(saved: Path, fitted: Fitted, cells: PackedGraphs) -> None:
    expected = FuzzyEnsemble(fitted, "").predict(cells)
    found = load_checkpoint(saved).predict(cells)
    assert found.accuracy.tobytes() == expected.accuracy.tobytes()
    assert provenance_of(saved) == {"seed": 1}
    assert sorted(path.name for path in saved.iterdir()) == sorted([WEIGHTS, DESCRIPTION])


def test_the_same_ensemble_has_the_same_hash(tmp_path: Path, fitted: Fitted) -> None:
    hashes = {save_ensemble(tmp_path / name, fitted, {}) for name in ("a", "b", "a")}
    assert len(hashes) == 1
    assert load_checkpoint(tmp_path / "a").sha256 in hashes


def test_encoder_round_trip(tmp_path: Path, encoder: GraphEncoder) -> None:
    sha256 = save_encoder(tmp_path / "e", encoder, {})
    loaded, found = load_encoder(tmp_path / "e")
    assert found == sha256
    assert all((loaded.state_dict()[name] == tensor).all() for name, tensor in encoder.state_dict().items())


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*checkpoint.json is missing"):
        load_checkpoint(tmp_path / "nowhere")


def test_altered_weights_are_noticed(saved: Path) -> None:
    weights = bytearray((saved / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (saved / WEIGHTS).write_bytes(weights)
    with pytest.raises(CheckpointError, match="altered or damaged"):
        load_checkpoint(saved)


def _edit(saved: Path, **fields: object) -> None:
    description = json.loads((saved / DESCRIPTION).read_text())
    changed = {**description, **fields}
    (saved / DESCRIPTION).write_text(json.dumps(changed | {"sha256": digest(changed)}))  # as another writer would


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": 0}, "checkpoint format 0, this version of gennape reads 4 and 3"),
        ({"format": 99}, "checkpoint format 99"),
        ({"kind": "encoder"}, "holds an encoder, but an ensemble is needed"),
        ({"features": 3}, "made for 3 features per step"),
        ({"config": {"clusters": "many"}}, r"clusters: Input should be a valid integer.*got 'many'"),
        ({"within": None}, "lacks its members"),
        ({"config": {"clusters": -1}}, "clusters: Input should be greater than or equal to 1, got -1"),
        ({"config": {"clusters": 10**12}}, "clusters: Input should be less than or equal to"),
        ({"config": {"fuzzifier": 1.0}}, "fuzzifier: Input should be greater than 1"),
        ({"config": {"encoder": {"hidden": 0}}}, "encoder.hidden: Input should be greater than or equal to 1"),
        (
            {"law": {"weights": [math.nan] * 3, "level": 1.0, "decay": 1.0}},
            r"law.weights.0: Input should be a finite number",
        ),
        ({"weights_sha256": 5}, "weights_sha256"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(saved: Path, fields: dict[str, object], message: str) -> None:
    _edit(saved, **fields)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(saved)


def test_sizes_that_contradict_the_weights_are_refused(saved: Path) -> None:
    config = json.loads((saved / DESCRIPTION).read_text())["config"]
    _edit(saved, config={**config, "clusters": 5})
    with pytest.raises(CheckpointError, match=r"clusters is 3, the encoder's sizes give \[1, 5\]"):
        load_checkpoint(saved)


def test_no_json(saved: Path) -> None:
    (saved / DESCRIPTION).write_text("{")
    with pytest.raises(CheckpointError, match="cannot read"):
        load_checkpoint(saved)


def test_only_a_checkpoint_is_overwritten(tmp_path: Path, fitted: Fitted) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    with pytest.raises(CheckpointError, match=r"holds \['cat.jpg'\], not a checkpoint"):
        save_ensemble(tmp_path / "photos", fitted, {})
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_a_rewrite_that_is_cut_off_leaves_the_old_checkpoint(
    tmp_path: Path, encoder: GraphEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_encoder(tmp_path / "encoder", encoder, {"version": "old"})
    real, moves = os.replace, []

    def interrupted(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == 2:
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(checkpoint_files.os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_encoder(tmp_path / "encoder", encoder, {"version": "new"})
    assert provenance_of(tmp_path / "encoder") == {"version": "old"}
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_of_two_writers_the_last_wins(tmp_path: Path, encoder: GraphEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    save_encoder(tmp_path / "encoder", encoder, {"version": "old"})
    real, moves = os.replace, []

    def overtaken(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == 2:  # the old one is away, the new one not there yet
            save_encoder(tmp_path / "encoder", encoder, {"version": "other"})
        real(source, target)

    monkeypatch.setattr(checkpoint_files.os, "replace", overtaken)
    save_encoder(tmp_path / "encoder", encoder, {"version": "new"})
    assert provenance_of(tmp_path / "encoder") == {"version": "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


def test_a_place_that_cannot_be_written(tmp_path: Path, encoder: GraphEncoder) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*; choose a place that can be written"):
        save_encoder(tmp_path / "file" / "encoder", encoder, {})


def test_the_shipped_checkpoint_ranks_by_more_than_chance() -> None:
    """Known cells of NAS-Bench-101: the README cell reaches 93-94 %, pools alone reach far less."""
    space = family("nb101")
    inception = {
        "matrix": [[0, 1, 1, 1, 0, 1, 0], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 1, 0, 0],
                   [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 1], [0, 0, 0, 0, 0, 0, 0]],
        "ops": ["input", "conv1x1-bn-relu", "conv3x3-bn-relu", "conv3x3-bn-relu", "conv3x3-bn-relu", "maxpool3x3",
                "output"],
    }  # fmt: skip
    pools = {"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", "maxpool3x3", "output"]}
    good, bad = (
        load_checkpoint().predict(space.graphs(np.stack([space.decode(inception), space.decode(pools)]))).accuracy
    )
    assert 91 < good < 96
    assert bad < good - 3


def test_the_shipped_checkpoint_is_small_and_says_where_it_comes_from() -> None:
    folder = shipped_checkpoint()
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000_000
    record = provenance_of()
    assert {"data", "seed", "version", "commit", "encoder", "metrics"} <= set(record)
    assert len(record["data"]["sha256"]) == 64


def test_a_checkpoint_tells_which_architectures_it_learnt_from(tmp_path: Path, fitted: Fitted) -> None:
    save_ensemble(tmp_path / "c", fitted, {}, ["b", "a", "b"])
    # The first eight bytes of the SHA-256 of "a" is ca978112ca1bbdca, of "b" 3e23e8160039594a.
    expected = [
        int.from_bytes(bytes.fromhex(digits), "little", signed=True)
        for digits in ("ca978112ca1bbdca", "3e23e8160039594a")
    ]
    assert learnt_numbers(tmp_path / "c").tolist() == sorted(expected)
    assert load_checkpoint(tmp_path / "c").law == fitted.law


def test_what_labels_taught_is_saved_and_loaded_bit_for_bit(
    saved: Path, tmp_path: Path, cells: PackedGraphs, cell_accuracy: np.ndarray
) -> None:
    few = np.arange(20)
    tuned = load_checkpoint(saved).fit(cells.take(few), 160 - cell_accuracy[few])
    sha256 = save_tuned(tmp_path / "tuned", tuned, {"labels": 20}, saved)
    loaded = load_checkpoint(tmp_path / "tuned")
    expected, found = tuned.predict(cells), loaded.predict(cells)
    assert found.accuracy.tobytes() == expected.accuracy.tobytes()
    assert found.deviation is not None
    assert expected.deviation is not None
    assert found.deviation.tobytes() == expected.deviation.tobytes()
    assert loaded.sha256 == sha256
    assert provenance_of(tmp_path / "tuned") == {"seed": 1, "tuned": {"labels": 20}}
    # Fitted anew it forgets, and is saved anew.
    again = loaded.fit(cells.take(few), cell_accuracy[few])
    save_tuned(tmp_path / "again", again, {}, tmp_path / "tuned")
    assert (
        load_checkpoint(tmp_path / "again").predict(cells).accuracy.tobytes() == again.predict(cells).accuracy.tobytes()
    )
    # No labels give back what was there before any.
    none = loaded.fit(cells.take(few[:0]), cell_accuracy[:0])
    assert none.predict(cells).accuracy.tobytes() == load_checkpoint(saved).predict(cells).accuracy.tobytes()


def test_only_what_was_taught_and_comes_from_the_base_is_saved_as_tuned(
    saved: Path, tmp_path: Path, fitted: Fitted, cells: PackedGraphs, cell_accuracy: np.ndarray
) -> None:
    with pytest.raises(CheckpointError, match="learnt from no labels"):
        save_tuned(tmp_path / "tuned", load_checkpoint(saved), {}, saved)
    save_ensemble(tmp_path / "other", fitted, {"seed": 2})
    tuned = load_checkpoint(tmp_path / "other").fit(cells, cell_accuracy)
    with pytest.raises(CheckpointError, match="does not come from"):
        save_tuned(tmp_path / "tuned", tuned, {}, saved)
    assert not (tmp_path / "tuned").exists()


@pytest.mark.cluster
def test_predicting_imports_neither_torch_geometric_nor_the_compiler() -> None:
    """They take a second and more until the first answer; few graphs and many are pooled in different ways."""
    program = (
        "import sys\n"
        "import numpy as np\n"
        "import gennape as gp\n"
        "from gennape.predictors.model.checkpoint import load_pretrained\n"
        "space = gp.family('nb101')\n"
        "for n in (1, 40):\n"
        "    answers = load_pretrained().predict(space.graphs(space.sample(np.random.default_rng(0), n)))\n"
        "    assert np.isfinite(answers.accuracy).all()\n"
        "assert 'torch' in sys.modules\n"
        "print([name for name in ('torch_geometric', 'torch._dynamo') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr
