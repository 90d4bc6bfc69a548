"""Own search spaces: made known by name, refused where they are ill-made, offered by packages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gennape as gp
from gennape.errors import ConfigError, ConformanceError, InvalidArchitectureError
from gennape.search_spaces.families import registry
from gennape.search_spaces.families.registry import FAMILIES, families, family, register_space
from gennape.search_spaces.families.space import Gene, SearchSpace
from gennape.search_spaces.families.well_formed import well_formed
from gennape.search_spaces.graphs.blocks import conv_bn_relu


class Small(SearchSpace):
    """One convolution of two sizes in each of two places."""

    name = "small"
    genes = (Gene("first", (3, 5)), Gene("second", (3, 5)))

    def emit(self, b: Any, genome: Any) -> Any:
        x = b.input(3, 32, 32)
        for kernel in self.values(genome):
            x = conv_bn_relu(b, x, 8, kernel)
        return b.linear(b.mean(x), 10)


pytestmark = pytest.mark.usefixtures("own_folder")


def changed(**attributes: Any) -> type[Small]:
    return type("Changed", (Small,), attributes)


def test_a_registered_space_is_found_by_its_name() -> None:
    space = gp.register(Small())
    assert family("small") is space is family(space)
    assert families() == (*FAMILIES, space)
    again = gp.register(changed())  # a cell that is run again: the class anew
    assert family("small") is again
    assert repr(space) == "Small('small': 2 genes, 4 genomes)"
    assert "<td>first</td><td>3, 5</td>" in space._repr_html_()


def test_architectures_are_values_by_name_unless_said_otherwise() -> None:
    space = Small()
    assert space.encode(np.array([0, 1])) == {"first": 3, "second": 5}
    assert space.decode({"second": 3, "first": 5}).tolist() == [1, 0]
    for wrong, told in (
        ({"first": 3}, "missing \\['second'\\]"),
        ({"first": 4, "second": 3}, "first is 4, must be one of"),
    ):
        with pytest.raises(InvalidArchitectureError, match=told):
            space.decode(wrong)


def test_what_ships_keeps_its_name() -> None:
    with pytest.raises(ConfigError, match="called 'hiaml' ships with gennape; give yours another name"):
        register_space(changed(name="hiaml"))


@pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)
def test_every_space_that_ships_is_well_formed(space: SearchSpace) -> None:
    assert well_formed(space) is space


def raises(*_: Any) -> Any:
    raise KeyError("kernel")


def in_place(_: Any, genomes: Any) -> Any:
    genomes[:, 0] = 0
    return genomes


@pytest.mark.parametrize(
    ("thing", "told"),
    [
        (3, "got 3; what is registered is a SearchSpace, a Measure, or a class of Searcher"),
        (SearchSpace, "SearchSpace leaves out emit"),
        (changed(name=""), "Changed.name is ''"),
        (changed(name="a/b"), "Changed.name is 'a/b'; must be a text of letters"),
        (changed(name=None), "Changed.name is None"),
        (changed(genes=()), r"Changed.genes is \(\); must be a tuple of Gene"),
        (changed(genes=[Gene("x", (1, 2))]), "must be a tuple of Gene"),
        (changed(genes=(Gene("x", ()), Gene("y", (1,)))), r"the gene 'x' has the values \(\)"),
        (changed(genes=(Gene("x", (1, 2), (2,)), Gene("y", (1,)))), r"the gene 'x' samples \(2,\)"),
        (changed(genes=(Gene("x", (1, 2, 1)), Gene("y", (1,)))), "the gene 'x' holds 1 twice"),
        (changed(emit=lambda *_: None), "small: emit gives None, must return the value of the last layer"),
        (changed(decode=lambda *_: np.array([0], np.int64)), r"has shape \[1\], must be \[2\]"),
        (
            changed(canonical=lambda _self, genomes: genomes * 0),
            "canonical sets gene 'first' of .* only genes that do not",
        ),
        (changed(canonical=in_place), "canonical changes the genomes that it is given"),
        (changed(encode=raises), r"Changed is not a search space yet: KeyError: 'kernel' \(test_registration.py, line"),
        (changed(emit=lambda _self, b, _genome: b.input(3, 8, 8)), "not a search space yet: a network costs nothing"),
        (
            changed(decode=lambda *_: np.zeros(2, np.int64)),
            "decode is not the inverse of encode: gene .* was 1 and became 0",
        ),
        (changed(decode=raises), "KeyError: 'kernel'"),
        (changed(__init__=lambda _self, _size: None), r"Changed\(\) raises TypeError: .* register an object"),
    ],
)
def test_an_ill_made_space_is_refused_by_the_sentence_of_the_suite(thing: Any, told: str) -> None:
    with pytest.raises(ConformanceError, match=told):
        gp.register(thing)
    assert families() == FAMILIES


def test_a_searcher_is_registered_alike() -> None:
    from gennape.platform.search.searchers.random_search import RandomSearch
    from gennape.platform.search.searchers.registry import searcher

    class Sampler(RandomSearch):
        name = "sampler"

    assert gp.register(Sampler) is searcher("sampler") is Sampler

    class Forgetful(RandomSearch):
        name = "forgetful"

        def restore(self, state: Any) -> None:
            self.rng = np.random.default_rng(len(state))

    with pytest.raises(ConformanceError, match="Forgetful is not a searcher yet: restored after 0 generations"):
        gp.register(Forgetful)

    class Broken(RandomSearch):
        name = "broken"

        def ask(self) -> Any:
            raise KeyError("k")

    with pytest.raises(ConformanceError, match=r"KeyError: 'k' \(test_registration.py, line \d+\); it must hold that"):
        gp.register(Broken)
    with pytest.raises(ConformanceError, match="a searcher gives name, ask and tell"):
        gp.register(gp.Searcher)
    with pytest.raises(ConformanceError, match="is registered is a SearchSpace, a Measure, or a class of Searcher"):
        gp.register(int)  # type: ignore[arg-type]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place of installed packages, with one that offers search spaces."""
    monkeypatch.syspath_prepend(tmp_path)
    offers = ("good = offered:Good", "other = offered:Good", "bad = offered:Bad", "gone = offered_elsewhere:Gone")
    (tmp_path / "offered-1.0.dist-info").mkdir()
    (tmp_path / "offered-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: offered\nVersion: 1.0\n")
    text = "[gennape.families]\n" + "\n".join(offers) + "\n"
    (tmp_path / "offered-1.0.dist-info" / "entry_points.txt").write_text(text)
    (tmp_path / "offered.py").write_text(
        "from gennape.search_spaces.families.hiaml import HiAML\n\n\n"
        "class Good(HiAML):\n    name = 'good'\n\n\nclass Bad(HiAML):\n    name = 'bad'\n    genes = ()\n"
    )
    return tmp_path


@pytest.mark.usefixtures("packages")
def test_an_installed_package_offers_spaces_by_name() -> None:
    assert family("good").name == "good"
    assert registry.REGISTRY.registered == (family("good"),)  # so that other processes are given it


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("other", ConfigError, "gives a search space called 'good'; both names must be the same"),
        ("bad", ConformanceError, r"Bad.genes is \(\)"),
        (
            "gone",
            ConfigError,
            "gone = offered_elsewhere:Gone of gennape.families cannot be loaded: ModuleNotFoundError",
        ),
        ("goood", ConfigError, "known are .*good.*; did you mean good"),
    ],
)
def test_a_bad_offer_is_told_when_it_is_asked_for(name: str, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        family(name)
    assert registry.REGISTRY.registered == ()


@pytest.mark.usefixtures("packages")
def test_a_bad_offer_does_not_hide_the_others() -> None:
    with pytest.warns(UserWarning, match="Bad|cannot be loaded|both names") as warned:
        assert [space.name for space in families()][len(FAMILIES) :] == ["good"]
    assert len(warned) == 3
