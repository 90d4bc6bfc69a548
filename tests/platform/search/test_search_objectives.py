"""Objectives and settings: what is read, and how the rest is refused."""

from __future__ import annotations

import numpy as np
import pytest

from gennape.errors import ConfigError
from gennape.platform.search.config import refuse_contradictions, search_config
from gennape.platform.search.measures import measure
from gennape.platform.search.objectives import NAMES, Objective, minimised, parse_objectives
from gennape.predictors.predictor import Prediction
from gennape.search_spaces.graphs.builder import GraphBuilder
from gennape.search_spaces.graphs.graph import pack


def test_objectives_are_read_in_order():
    assert parse_objectives("accuracy:max, flops:min") == (Objective("accuracy", "max"), Objective("flops", "min"))
    assert str(Objective("params", "min")) == "params:min"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("latency:min", "unknown objective 'latency'; known are accuracy, flops, macs, params"),
        ("", "unknown objective ''"),
        ("accuracy:max,", "unknown objective ''"),
        ("accuracy", "'accuracy' needs a direction, accuracy:max or accuracy:min"),
        ("flops:less", "'flops:less' needs a direction"),
        ("flops:min:max", "needs a direction"),
        ("accuracy:max,accuracy:min", "once"),
    ],
)
def test_objectives_that_cannot_be_meant_are_refused(text, says):
    with pytest.raises(ConfigError, match=says):
        parse_objectives(text)


def test_measures_of_a_network_counted_by_hand():
    b = GraphBuilder()
    b.output(b.linear(b.mean(b.conv(b.input(3, 4, 4), 5, 3)), 2))
    graphs = pack([b.build()])
    values = measure(graphs, Prediction(np.array([91.5]), np.ones((1, 1))))
    # Convolution: 3 * 5 * 9 weights at 16 positions. Linear: 5 * 2 weights; its bias is a parameter, not a MAC.
    macs, params = 135 * 16 + 10, 135 + 10 + 2
    expected = {"accuracy": 91.5, "flops": 2 * macs, "macs": macs, "params": params}
    assert dict(zip(NAMES, values[0].tolist(), strict=True)) == expected
    assert minimised(values, parse_objectives("flops:min,accuracy:max")).tolist() == [[2 * macs, -91.5]]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "setting 'space' is required"),
        ({"space": "mobilenet"}, "unknown search space 'mobilenet'; known are .*hiaml"),
        ({"space": "hiaml", "searcher": "pso"}, "unknown searcher 'pso'"),
        ({"space": "hiaml", "objectives": "speed:max"}, "unknown objective 'speed'"),
        ({"space": "hiaml", "evaluations": 0}, "setting 'evaluations'.*greater than or equal to 1, got 0"),
        ({"space": "hiaml", "population": 1}, "setting 'population'.*got 1"),
        ({"space": "hiaml", "seed": "seven"}, "setting 'seed'.*integer, got 'seven'"),
        ({"space": "hiaml", "budget": 5}, "unknown setting 'budget'; known are space, objectives, evaluations"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, says):
    with pytest.raises(ConfigError, match=says):
        search_config(**settings)


def test_settings_survive_json_and_contradictions_are_named():
    config = search_config(space="hiaml", objectives="accuracy:max, params:min", seed=3)
    assert search_config(**config.model_dump(mode="json")) == config
    assert config.objectives == "accuracy:max,params:min"
    refuse_contradictions(config, {"seed": 3, "space": None, "objectives": "accuracy:max,params:min"})
    with pytest.raises(ConfigError, match=r"seed is 3, got 4; islands is 2, got 5\. Leave these options out"):
        refuse_contradictions(config, {"seed": 4, "islands": 5, "space": "hiaml"})
