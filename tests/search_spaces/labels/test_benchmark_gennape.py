"""GENNAPE's caches and JSON families, made here in their published form with stand-ins for its classes."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gennape.errors import InvalidDataError
from gennape.search_spaces.families.nb101 import graph_hash
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.files.bounded import bounded
from gennape.search_spaces.labels import json_families
from gennape.search_spaces.labels.labels import read_labels

Genotype = namedtuple("Genotype", "normal normal_concat reduce reduce_concat")
Genotype.__module__ = "model_src.darts.model_darts"


class ComputeGraph:
    __module__ = "model_src.comp_graph.tf_comp_graph"

    def __init__(self, number: int) -> None:
        self.name, self.edge_pairs = f"Net{number}", [(i, i + 1) for i in range(50)]
        self.regular_nodes = [{"label": "relu", "resolution": [32, 32, 32, 32, 16, 16]} for _ in range(50)]


@pytest.fixture(autouse=True)
def modules() -> Iterator[None]:
    """GENNAPE's modules, so that Python's pickle finds the classes under their published names as it writes."""
    names = ("model_src", "model_src.comp_graph", "model_src.darts", ComputeGraph.__module__, Genotype.__module__)
    made = {name: ModuleType(name) for name in names}
    vars(made[ComputeGraph.__module__])["ComputeGraph"] = ComputeGraph
    vars(made[Genotype.__module__])["Genotype"] = Genotype
    sys.modules.update(made)
    yield
    for name in names:
        del sys.modules[name]


CONFIGS = {
    "nb101": (["input", "conv3x3-bn-relu", "output"], np.array([[0, 1, 0], [0, 0, 1], [0, 0, 0]])),
    "nb201": (("nor_conv_3x3", "skip_connect") * 3, ((0,), (0,), (1,), (0,), (1,), (2, 3))),
    "nb301": Genotype(
        normal=[("sep_conv_3x3", i % 2) for i in range(8)],
        normal_concat=range(2, 6),
        reduce=[("max_pool_3x3", i % 2) for i in range(8)],
        reduce_concat=range(2, 6),
    ),
    "proxylessnas": (224, [["mbconv2_e6_k7", "mbconv2_e3_k3"]] * 5 + [["mbconv2_e4_k5"]]),
    "ofa_mbv3": (192, [["mbconv3_e6_k7", "mbconv3_e3_k3", "mbconv3_e4_k5"]] * 5),
    "ofa_resnet": (208, {"d": [2, 0, 1, 2, 0], "e": [0.2, 0.25, 0.35] * 6, "w": [0, 1, 2, 0, 1, 2]}),
}
ENCODED: dict[str, Any] = {
    "nb101": {"matrix": [[0, 1, 0], [0, 0, 1], [0, 0, 0]], "ops": ["input", "conv3x3-bn-relu", "output"]},
    "nb201": "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|skip_connect~2|",
    "nb301": {
        "normal": [["sep_conv_3x3", i % 2] for i in range(8)],
        "reduce": [["max_pool_3x3", i % 2] for i in range(8)],
    },
    "proxylessnas": {"resolution": 224, "units": [[[6, 7], [3, 3]]] * 5 + [[[4, 5]]]},
    "ofa_mbv3": {"resolution": 192, "units": [[[6, 7], [3, 3], [4, 5]]] * 5},
    "ofa_resnet": {
        "resolution": 208,
        "stem_residual": True,
        "width": [0, 1, 2, 0, 1, 2],
        # Slots of 4, 4, 6, 4 blocks, of which 2, 3, 6, 2 are used.
        "expand": [[0.2, 0.25], [0.25, 0.35, 0.2], [0.35, 0.2, 0.25, 0.35, 0.2, 0.25], [0.35, 0.2]],
    },
}


def entry(config: Any, accuracy: float = 0.9, number: int = 0) -> dict[str, Any]:
    graph = ComputeGraph(number)
    return {"compute graph": graph, "acc": accuracy, "flops": 1e9, "n_params": 1e6, "original config": config}


def cache(path: Path, *entries: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(list(entries), protocol=protocol))
    return path


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_cache_of_every_family(tmp_path: Path, name: str, protocol: int) -> None:
    entries = [entry(CONFIGS[name], 0.9 + number / 100, number) for number in range(3)]
    labels = read_labels(
        cache(tmp_path / f"gpi_{name}_comp_graph_cache.pkl", *entries, protocol=protocol), family(name)
    )
    space = family(name)
    assert [space.encode(genome) for genome in labels.genomes] == [ENCODED[name]] * 3
    np.testing.assert_allclose(labels.accuracy, [90, 91, 92])
    assert labels.table["n_params"].tolist() == [1e6] * 3


def test_one_cache_holds_both_families_of_units(tmp_path: Path) -> None:
    path = cache(tmp_path / "gpi_ofa.pkl", entry(CONFIGS["ofa_mbv3"], 0.77), entry(CONFIGS["proxylessnas"], 0.76))
    assert read_labels(path, family("ofa_mbv3")).accuracy.tolist() == [77]
    assert read_labels(path, family("proxylessnas")).accuracy.tolist() == [76]
    with pytest.raises(InvalidDataError, match="not of hiaml"):
        read_labels(path, family("hiaml"))


def test_cells_split_alike_in_every_file(tmp_path: Path) -> None:
    labels = read_labels(cache(tmp_path / "gpi_nb101.pkl", entry(CONFIGS["nb101"])), family("nb101"))
    assert labels.identity == [graph_hash(labels.genomes[0])]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (5, "two parts expected"),
        (("a", object()), "only serves as a name"),
        ((["input"], range(10**6)), "more than 4096 values"),
        ((["input"], np.zeros((100, 100))), "more than 4096 values"),
        (CONFIGS["nb201"], "entry 1: nb101"),
    ],
)
def test_bad_configurations_are_named(tmp_path: Path, config: Any, message: str) -> None:
    path = cache(tmp_path / "gpi_nb101.pkl", entry(CONFIGS["nb101"]), entry(config))
    with pytest.raises(InvalidDataError, match=message):
        read_labels(path, family("nb101"))


def test_shared_values_do_not_grow_without_end(tmp_path: Path) -> None:
    """Thirty lists, each holding the one before twice: some bytes that stand for a thousand million values."""
    config: Any = ["x"]
    for _ in range(30):
        config = [config, config]
    with pytest.raises(InvalidDataError, match="more than 4096 values"):
        read_labels(cache(tmp_path / "gpi_nb101.pkl", entry(config)), family("nb101"))


def test_a_graph_without_labels_is_refused(tmp_path: Path) -> None:
    path = cache(tmp_path / "unlabelled.pkl", {"compute graph": ComputeGraph(0), "original config": CONFIGS["nb101"]})
    with pytest.raises(InvalidDataError, match="no usual column of accuracies"):
        read_labels(path, family("nb101"))
    path.write_bytes(pickle.dumps({"some": "dictionary"}))
    with pytest.raises(InvalidDataError, match="not a list of labelled graphs"):
        read_labels(path, family("nb101"))


# JSON families -------------------------------------------------------------------------------------------------------

BLOCKS = ["hiaml_z", "hiaml_a22", "hiaml_b23", "hiaml_l20"]


def labelled(config: Any, best: Any = 92.5) -> dict[str, Any]:
    return {"net_config": config, "max_perf": best, "perfs": [91.5, 92.5], "cg": {"name": "x", "edge_pairs": [[0, 1]]}}


@pytest.mark.parametrize("config", [BLOCKS, json.dumps(BLOCKS), "_z_a22_b23_l20"])
@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_a_json_family(tmp_path: Path, config: Any, suffix: str) -> None:
    path = tmp_path / f"gpi_test_hiaml_cifar10_labelled_cg_data{suffix}"
    text = json.dumps({"net 1": labelled(config), "net 2": labelled(BLOCKS, 93)}).encode()
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    space = family("hiaml")
    labels = read_labels(path, space)
    assert [space.encode(genome) for genome in labels.genomes] == [BLOCKS, BLOCKS]
    assert labels.accuracy.tolist() == [92.5, 93]
    assert labels.table["acc_mean"].tolist() == [92, 92]


@pytest.mark.parametrize("name", ["two_path", "inception"])
def test_the_other_json_families(tmp_path: Path, name: str) -> None:
    space = family(name)
    genomes = space.sample(np.random.default_rng(0), 5)
    path = tmp_path / "labelled.json"
    path.write_text(json.dumps({str(i): labelled(space.encode(genome)) for i, genome in enumerate(genomes)}))
    np.testing.assert_array_equal(read_labels(path, space).genomes, genomes)


@pytest.mark.parametrize("chunk", [1, 7, 1 << 20])
def test_members_come_one_at_a_time(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_families, "_CHUNK", chunk)
    value = {"a": {"x": [1, 2.5, None]}, 'b"\\': 12345, "": {}, "é": "}{,"}
    for text in (json.dumps(value), json.dumps(value, indent=3), json.dumps(value, ensure_ascii=False)):
        assert dict(json_families.members(bounded(io.BytesIO(text.encode()), "file"), "file")) == value
    assert dict(json_families.members(bounded(io.BytesIO(b" { } "), "file"), "file")) == {}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": {}',
        '{"a": {}, }',
        '{"a" {}}',
        "{1: 2}",
        '{"a": {"b": ]}}',
        "[1]",
        "",
        '{"a": ' + "[" * 100_000,
        '{"a": {}; ',
    ],
)
def test_damaged_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidDataError, match=r"^file: after character"):
        list(json_families.members(bounded(io.BytesIO(text.encode()), "file"), "file"))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"net_config": BLOCKS}, "entry 'bad': needs net_config and max_perf"),
        (labelled(["hiaml_x"] * 4), "entry 'bad': hiaml"),
        (labelled(BLOCKS, None), "acc is 'None'"),
        (labelled(BLOCKS, True), "acc is 'True'"),
    ],
)
def test_bad_entries_are_named(tmp_path: Path, changed: Any, message: str) -> None:
    path = tmp_path / "labelled.json"
    path.write_text(json.dumps({"good": labelled(BLOCKS), "bad": changed}))
    with pytest.raises(InvalidDataError, match=message):
        read_labels(path, family("hiaml"))
    heard: list[str] = []
    assert len(read_labels(path, family("hiaml"), rejected=heard.append).genomes) == 1
    assert len(heard) == 1
