"""Sources of the benchmarks' files, as their projects publish them."""

from __future__ import annotations

from dataclasses import dataclass

from gennape.errors import ConfigError
from gennape.search_spaces.files.nearby import did_you_mean

UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Source:
    """One published file.

    ``url`` is the file itself, empty if it is only available through a web page; ``page`` is the project's page;
    ``sha256`` is the hash that the project publishes, else empty.
    """

    key: str
    file: str
    what: str
    families: str
    page: str
    size: str
    licence: str
    url: str = ""
    sha256: str = ""


_NB101 = "https://github.com/google-research/nasbench"
_NB201 = "https://github.com/D-X-Y/NAS-Bench-201"
_NATS = "https://github.com/D-X-Y/NATS-Bench"
_GENNAPE = "https://huggingface.co/datasets/kgmills/GENNAPE"
_MIT = "MIT (of the repository)"
_APACHE = "Apache-2.0 (of the repository)"

SOURCES: tuple[Source, ...] = (
    Source(
        "nb101-108",
        "nasbench_only108.tfrecord",
        "NAS-Bench-101, runs of 108 epochs: 423,624 cells, three runs each, CIFAR-10",
        "nb101",
        _NB101,
        "499 MB",
        _APACHE,
        "https://storage.googleapis.com/nasbench/nasbench_only108.tfrecord",
        "4c39c3936e36a85269881d659e44e61a245babcb72cb374eacacf75d0e5f4fd1",
    ),
    Source(
        "nb101-full",
        "nasbench_full.tfrecord",
        "NAS-Bench-101, runs of 4, 12, 36 and 108 epochs",
        "nb101",
        _NB101,
        "1.95 GB",
        _APACHE,
        "https://storage.googleapis.com/nasbench/nasbench_full.tfrecord",
        "3d64db8180fb1b0207212f9032205064312b6907a3bbc81eabea10db2f5c7e9c",
    ),
    Source(
        "nats-simple",
        "NATS-tss-v1_0-3ffb9-simple.tar",
        "NATS-Bench topology space, a file a cell: 15,625 cells, CIFAR-10, CIFAR-100, ImageNet16-120",
        "nb201",
        f"{_NATS} (Google Drive: https://drive.google.com/file/d/17_saCsj_krKjlCBLOJEpNtzPXArMCqxU/view)",
        UNKNOWN,
        _MIT,
    ),
    Source(
        "nats",
        "NATS-tss-v1_0-3ffb9.pickle.pbz2",
        "the same in one file",
        "nb201",
        f"{_NATS} (Google Drive: https://drive.google.com/file/d/1vzyK0UVH2D3fTpa1_dSWnp1gvGpAxRul/view)",
        UNKNOWN,
        _MIT,
    ),
    Source(
        "nb201",
        "NAS-Bench-201-v1_1-096897.pth",
        "NAS-Bench-201, which NATS-Bench supersedes",
        "nb201",
        f"{_NB201} (Google Drive: https://drive.google.com/file/d/16Y0UwGisiouVRxW-W5hEtbxmcHw_0hF_/view)",
        "4.7 GB",
        _MIT,
    ),
    Source(
        "nb301",
        "nb_301_v13_lc_iclr_final.zip",
        "NAS-Bench-301: the trained DARTS networks behind its surrogates, with learning curves, CIFAR-10",
        "nb301",
        "https://figshare.com/articles/dataset/nasbench301_full_data/13286105",
        UNKNOWN,
        "Apache-2.0",
    ),
    Source(
        "nb301-light",
        UNKNOWN,
        "NAS-Bench-301: the same without learning curves",
        "nb301",
        "https://figshare.com/articles/dataset/NAS-Bench-301_Dataset_v1_0/13246952",
        UNKNOWN,
        UNKNOWN,
    ),
    Source(
        "gennape-caches",
        "gpi_<family>_comp_graph_cache.pkl",
        "GENNAPE's labelled graphs of nb101, nb201, nb301 and the OFA families",
        "nb101, nb201, nb301, ofa_mbv3, proxylessnas, ofa_resnet",
        _GENNAPE,
        UNKNOWN,
        UNKNOWN,
    ),
    Source(
        "gennape-families",
        "gpi_test_hiaml_cifar10_labelled_cg_data.json",
        "GENNAPE's labelled networks of its own families; also gpi_test_two_path_… and inception_…",
        "hiaml, two_path, inception",
        _GENNAPE,
        UNKNOWN,
        UNKNOWN,
    ),
)


def source(key: str) -> Source:
    """The file of a key; raises :class:`ConfigError` with a list of keys if it is unknown."""
    for known in SOURCES:
        if known.key == key:
            return known
    keys = [one.key for one in SOURCES]
    raise ConfigError(f"unknown file {key!r}; known are {', '.join(keys)}, or give a URL{did_you_mean(key, keys)}")
