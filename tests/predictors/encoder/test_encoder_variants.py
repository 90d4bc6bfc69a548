"""The encoders that ``python benchmarks/encoders.py`` compares are what their rows say, and are measured alike."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gennape.predictors.encoder.contrastive import Views
from gennape.predictors.encoder.encoder import GraphEncoder
from gennape.predictors.encoder.features import featurize
from gennape.predictors.encoder.settings import EncoderConfig
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.graph import PackedGraphs, concatenate, pack

BENCHMARKS = Path(__file__).resolve().parents[3] / "benchmarks"


def _load(name: str) -> Any:
    """A script beside others, one of which it may import by its name."""
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


variants = _load("encoder_variants")
_load("encoder_data")
encoders = _load("encoders")
KINDS = [name for name in variants.VARIANTS if name not in {variants.AGAIN, variants.UNTRAINED}]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Of networks this small, threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def mixed() -> PackedGraphs:
    """Networks of three families, of different lengths."""
    rng = np.random.default_rng(2)
    spaces = [family(name) for name in ("nb101", "hiaml", "two_path")]
    return concatenate([space.graphs(space.sample(rng, 3)) for space in spaces])


def _quarter(name: str) -> Any:
    """The kind, of a quarter of its width."""
    kind = variants.VARIANTS[name]
    return replace(kind, sizes=replace(kind.sizes, hidden=kind.sizes.hidden // 4))


def _random(kind: Any) -> Any:
    """An encoder of random weights, also of those that start at 0."""
    torch.manual_seed(8)
    made = variants.VariantEncoder(kind).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def test_the_first_is_the_shipped_encoder(mixed: PackedGraphs) -> None:
    mine, shipped = _random(variants.VARIANTS[variants.SHIPPED]), GraphEncoder(EncoderConfig()).double()
    shipped.load_state_dict({re.sub(r"^message\.(\d+)\.mix", r"mix.\1", k): v for k, v in mine.state_dict().items()})
    batch = featurize(mixed)
    for training in (True, False):
        found = []
        for encoder in (mine, shipped):
            torch.manual_seed(1)
            found.append(encoder.train(training)(batch))
        torch.testing.assert_close(*found, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", KINDS)
def test_no_embedding_depends_on_node_order_or_company(name: str, mixed: PackedGraphs) -> None:
    encoder = _random(_quarter(name)).eval()
    rng = np.random.default_rng(3)
    shuffled = pack([mixed[i].relabel(rng.permutation(mixed[i].n_nodes)) for i in range(len(mixed))])
    with torch.inference_mode():
        together = encoder(featurize(mixed))
        alone = torch.cat([encoder(featurize(mixed.take(np.array([i])))) for i in range(len(mixed))])
        other_order = encoder(featurize(shuffled))
    assert together.std(0).min() > 1e-3
    torch.testing.assert_close(alone, together, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(other_order, together, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", KINDS)
def test_a_step_of_training_reaches_all_weights(name: str, mixed: PackedGraphs) -> None:
    torch.manual_seed(9)
    encoder = variants.VariantEncoder(_quarter(name))
    before = {key: value.detach().clone() for key, value in encoder.named_parameters()}
    graphs = torch.arange(len(mixed)).repeat(2)
    spectra = torch.rand(len(mixed), 21)[graphs]
    rate = encoders.pretrain(encoder, [(featurize(mixed.take(graphs.numpy())), Views(graphs, graphs // 3, spectra))])
    assert rate > 0
    assert not [key for key, value in encoder.named_parameters() if not value.isfinite().all()]
    assert not [key for key, value in encoder.named_parameters() if torch.equal(value, before[key])]


def test_a_step_of_attention_hears_its_own_graph_unless_that_is_too_long(mixed: PackedGraphs) -> None:
    torch.manual_seed(10)
    steps = variants.steps_of(featurize(mixed))
    x = torch.randn(len(steps.owner), 8, dtype=torch.float64)
    changed = x.clone()
    changed[0, 0] += 1
    own = int(steps.batch.offsets[1])
    for most, reached in ((own, own), (own - 1, 1)):
        layer = variants.GraphAttention(8, most).double()
        different = (layer(x, steps) != layer(changed, steps)).any(1)
        assert torch.equal(different, torch.arange(len(x)) < reached)


def test_positions_of_a_path_by_hand() -> None:
    """Of three in a row: from an end back after 2, 4, ... steps by chance 1/2, from the middle always, never after 3.

    The eigenvectors after the constant one are (1, 0, -1) and (1, -sqrt 2, 1), up to length and sign.
    """
    path = np.array([[0.0, 1, 0], [1, 0, 1], [0, 1, 0]])
    back = np.array([[0.5, 0, 0.5], [1, 0, 1], [0.5, 0, 0.5]])
    np.testing.assert_allclose(variants.walks(path)[:, :3], back)
    root = 3**0.5
    expected = root * np.array([[0.5**0.5, 0.5], [0, 0.5**0.5], [0.5**0.5, 0.5]])
    np.testing.assert_allclose(variants.eigenvectors(path)[:, :2], expected, atol=1e-7)


def test_table_shows_differences_and_a_further_run_knows_what_is_done(tmp_path: Path) -> None:
    budget = encoders.Budget(rows=10)

    def result(name: str, seed: int, level: float) -> dict[str, Any]:
        drawn = {target: [level, level + 0.1] for target in encoders.TARGETS}
        figures = {"nb101": level + seed / 10, "alone": drawn, "beside": drawn}
        return {"variant": name, "seed": seed, "budget": asdict(budget), "rate": 700.0, "parameters": 1234, **figures}

    results = [result(variants.SHIPPED, 0, 0.5), result(variants.SHIPPED, 1, 0.5), result("GIN", 0, 0.6)]
    path = tmp_path / "results.jsonl"
    assert encoders.kept(path, budget) == []
    path.write_text("".join(encoders.json.dumps(line) + "\n" for line in results))
    assert encoders.kept(path, budget) == results
    assert encoders.kept(path, encoders.Budget(rows=11)) == []
    _, _, shipped, gin = encoders.table(results).splitlines()
    assert shipped.split(" | ")[1:5] == ["1,234", "700", "0.550 ± 0.071", "0.550 ± 0.058"]
    assert gin.split(" | ")[1:5] == ["1,234", "700", "+0.100", "+0.100 ± 0.000"]
