"""Calibrations: fitted forms, what a checkpoint keeps of them, and whom they apply to."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from gennape.errors import CheckpointError, InvalidDataError
from gennape.predictors.calibration.calibration import CalibrationRecord, calibrated, restored
from gennape.predictors.calibration.features import FEATURES, features, live_edges
from gennape.predictors.calibration.fitting import fit_calibration
from gennape.predictors.evaluation.scale import PERCENT, RELATIVE, scale_of
from gennape.predictors.model.checkpoint import (
    load_checkpoint,
    load_pretrained,
    provenance_of,
    save_calibrated,
    shipped_checkpoint,
)
from gennape.search_spaces.families.nb201 import OPERATIONS, NasBench201
from gennape.search_spaces.families.registry import families, family
from gennape.search_spaces.graphs.normal_form import normal_form

RECORD = CalibrationRecord("made up", "nobody", "none.csv", "0" * 64, 0, 0, 0.0, 0.0, 1.0)


def made_up(space, n=300, seed=0):
    """Genomes, and accuracies whose error is a product of two choices: log error is a sum, which the form can be."""
    genomes = family(space).sample(np.random.default_rng(seed), n)
    x = features(space, genomes)
    weights = np.random.default_rng(1).normal(size=x.shape[1]) / x.shape[1] ** 0.5
    return genomes, 100 - np.exp(2.5 + 0.3 * x @ weights)


@pytest.fixture(scope="module")
def fitted():
    return fit_calibration("ofa_resnet", *made_up("ofa_resnet"), RECORD, np.random.default_rng(0))


def test_a_form_is_learnt_and_its_error_is_measured_on_other_rows(fitted):
    genomes, accuracy = made_up("ofa_resnet", 200, 5)
    assert np.abs(fitted.accuracy(genomes) - accuracy).mean() < 0.05 * accuracy.std()
    assert (fitted.record.networks, fitted.record.held_out) == (300, 60)
    assert fitted.record.srcc > 0.99


def test_another_source_fills_what_the_first_leaves_out():
    """Labels of networks whose last unit is deep, and others of all networks with a fifth less error."""
    genomes, accuracy = made_up("ofa_resnet", 900)
    deep, (others, theirs) = genomes[:, 5] == 2, made_up("ofa_resnet", 600, 7)
    more = others, 100 - 0.8 * (100 - theirs)
    found = [
        fit_calibration("ofa_resnet", genomes[deep], accuracy[deep], RECORD, np.random.default_rng(0), source)
        for source in (None, more)
    ]
    alone, both = (np.abs(one.accuracy(genomes[~deep]) - accuracy[~deep]).mean() for one in found)
    assert both < alone
    assert [one.record.networks for one in found] == [deep.sum(), deep.sum() + 600]


def test_the_same_labels_give_the_same_weights(fitted):
    again = fit_calibration("ofa_resnet", *made_up("ofa_resnet"), RECORD, np.random.default_rng(0))
    assert all(np.array_equal(array, again.state()[name]) for name, array in fitted.state().items())


def test_accuracies_do_not_depend_on_the_batch(fitted):
    genomes, _ = made_up("ofa_resnet", 9, 3)
    alone = np.concatenate([fitted.accuracy(genome[None]) for genome in genomes])
    assert np.allclose(fitted.accuracy(genomes), alone, rtol=0, atol=1e-9)


def test_only_networks_of_the_space_are_calibrated(fitted):
    own, other = family("ofa_resnet"), family("ofa_mbv3")
    rng = np.random.default_rng(0)
    for space in (own, other):
        accuracy, which = calibrated([fitted], normal_form(space.graphs(space.sample(rng, 3))))
        assert (which == 0).all() == (space is own)
        assert np.isfinite(accuracy).all() == (space is own)


def test_too_few_labels_and_unknown_spaces_are_refused():
    with pytest.raises(InvalidDataError, match="50 labels"):
        fit_calibration("ofa_resnet", *made_up("ofa_resnet", 20), RECORD, np.random.default_rng(0))
    with pytest.raises(InvalidDataError, match="hiaml"):
        fit_calibration("hiaml", np.zeros((60, 4), np.int64), np.zeros(60), RECORD, np.random.default_rng(0))


@pytest.mark.parametrize("space", sorted(FEATURES))
def test_features_tell_networks_apart(space):
    genomes = family(space).sample(np.random.default_rng(0), 40)
    x = features(space, genomes)
    _, by_genome = np.unique(live_edges(genomes) if space == "nb201" else genomes, axis=0, return_inverse=True)
    _, by_row = np.unique(x, axis=0, return_inverse=True)
    assert len(set(zip(by_genome.tolist(), by_row.tolist(), strict=True))) == by_row.max() + 1


def test_dead_edges_do_not_count():
    decode = NasBench201().decode
    into_nothing = decode("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|none~1|nor_conv_1x1~2|")
    assert [OPERATIONS[op] for op in live_edges(into_nothing[None])[0]] == [
        *["none"] * 3,
        "skip_connect",
        *["none"] * 2,
    ]


def test_state_is_checked(fitted):
    state = fitted.state()
    again = restored("ofa_resnet", fitted.record, state)
    genomes, _ = made_up("ofa_resnet", 20)
    assert np.allclose(again.accuracy(genomes), fitted.accuracy(genomes), atol=1e-3)  # single precision
    for broken in (
        {name: array for name, array in state.items() if name != "linear"},
        state | {"pairs": state["pairs"][1:]},
        state | {"level": np.array([np.nan], np.float32)},
        state | {"more": state["level"]},
    ):
        with pytest.raises(CheckpointError, match="ofa_resnet"):
            restored("ofa_resnet", fitted.record, broken)
    with pytest.raises(CheckpointError, match="hiaml"):
        restored("hiaml", fitted.record, state)


def test_a_checkpoint_keeps_calibrations(fitted, tmp_path):
    save_calibrated(tmp_path / "one", [fitted])
    predictor = load_checkpoint(tmp_path / "one")
    genomes, _ = made_up("ofa_resnet", 5)
    prediction = predictor.predict(family("ofa_resnet").graphs(genomes))
    assert prediction.calibration.tolist() == [0] * 5
    assert np.allclose(prediction.accuracy, fitted.accuracy(genomes), atol=1e-3)
    assert prediction.deviation == pytest.approx(fitted.record.deviation)
    assert scale_of(provenance_of(tmp_path / "one")).of("ofa_resnet").name == "made up"
    sha256 = save_calibrated(tmp_path / "none", [], tmp_path / "one")
    without = load_checkpoint(tmp_path / "none")
    assert without.sha256 == sha256
    assert without.predict(family("ofa_resnet").graphs(genomes)).calibration is None


def test_an_altered_record_is_noticed(fitted, tmp_path):
    save_calibrated(tmp_path / "one", [fitted])
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    path = tmp_path / "two" / "checkpoint.json"
    fields = json.loads(path.read_text())
    fields["provenance"]["calibrations"]["ofa_resnet"]["deviation"] = 0.001
    path.write_text(json.dumps(fields))
    with pytest.raises(CheckpointError, match="digest"):
        load_checkpoint(tmp_path / "two")


def test_zero_shot_leaves_calibrations_out():
    space = family("nb201")
    graphs = space.graphs(space.sample(np.random.default_rng(0), 3))
    shipped, zero_shot = load_pretrained(), load_pretrained(zero_shot=True)
    assert zero_shot.predict(graphs).deviation is None
    assert not np.allclose(shipped.predict(graphs).accuracy, zero_shot.predict(graphs).accuracy)
    assert shipped.sha256 == zero_shot.sha256


def test_the_shipped_checkpoint_calibrates_its_spaces_and_no_other():
    predictor = load_pretrained()
    known = [calibration.space for calibration in predictor.calibrations]
    assert known == sorted(FEATURES)
    zero_shot = load_pretrained(zero_shot=True)
    for space in families():
        graphs = space.graphs(space.sample(np.random.default_rng(7), 6))
        prediction = predictor.predict(graphs)
        expected = known.index(space.name) if space.name in known else -1
        assert prediction.calibration.tolist() == [expected] * 6
        if expected < 0:
            assert np.array_equal(prediction.accuracy, zero_shot.predict(graphs).accuracy)
            assert np.isnan(prediction.deviation).all()


def test_labels_of_one_s_own_take_the_place_of_a_calibration():
    space = family("ofa_mbv3")
    genomes = space.sample(np.random.default_rng(0), 8)
    graphs, labels = space.graphs(genomes), np.linspace(40, 50, 8)
    tuned = load_pretrained().fit(graphs, labels).predict(graphs)
    assert tuned.calibration is None
    assert np.array_equal(tuned.accuracy, load_pretrained(zero_shot=True).fit(graphs, labels).predict(graphs).accuracy)


def test_scales_of_spaces():
    scale = scale_of(provenance_of(shipped_checkpoint()))
    assert "ImageNet top-1" in scale.of("ofa_mbv3").sentence
    assert scale.of("ofa_mbv3").shown(77.2) == "77.20 %"
    assert (scale.of("hiaml").unit, scale.of("nb101").unit, scale.of(None).unit) == (RELATIVE, PERCENT, RELATIVE)
    assert scale.of("hiaml").shown(91.2) == "91.20"
    assert scale_of(provenance_of(), zero_shot=True).of("ofa_mbv3").unit == RELATIVE
    tuned = replace(scale, tuned=True, tuned_on="nb201")
    assert (tuned.of("nb201").unit, tuned.of("ofa_mbv3").unit) == (PERCENT, RELATIVE)
