"""What tests of conversion share: small samples, files that hang or kill who reads them, what a folder holds."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from gennape.errors import InvalidDataError
from gennape.platform.conversion import convert as conversion
from gennape.platform.conversion.convert import ConversionConfig
from gennape.platform.conversion.inputs import FamilySample, onnx_folder
from gennape.platform.conversion.parts import OnnxPart, Watch
from gennape.platform.conversion.pool import write_shard
from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.parquet import read_graphs

NO_WATCH = Watch(Path("unused"), 60)
SAMPLE = FamilySample("hiaml", 53, 3)
SMALL = ConversionConfig(spectrum=5, shard_size=10)


def shards_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.parquet"))}


def rejections(folder):
    with (folder / "_rejected.csv").open(newline="") as file:
        return [(r["source"], int(r["row"]) if r["row"] else None, r["reason"]) for r in csv.DictReader(file)]


def rows_of(folder):
    """Rows that became graphs and rejected rows, each in the order of the files."""
    return read_graphs(folder)[1]["row"].to_pylist(), [row for _, row, _ in rejections(folder)]


def write_in_process(monkeypatch):
    """Shards are written in this process, one after another; returns the list of the names of those begun."""
    begun = []

    def write_jobs(jobs, _workers, spectrum, what):
        for job in jobs:
            begun.append(job.path.name)
            part = job.inputs.part(job.index, job.rows)
            yield job, write_shard(job.path, part.convert(spectrum, job.watch, {}), json.dumps(what, sort_keys=True)), 0

    monkeypatch.setattr(conversion, "write_jobs", write_jobs)
    monkeypatch.setattr(conversion, "local_ray", lambda *_: nullcontext())
    monkeypatch.setattr(conversion, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": 2.0}))
    return begun


def write_labels(path, n):
    space = family("hiaml")
    genomes = space.sample(np.random.default_rng(1), n)
    table = {
        "architecture": [json.dumps(space.encode(genome)) for genome in genomes],
        "acc": np.linspace(80, 90, n),
        "epochs": np.arange(n),
        "text": ["a"] * n,
    }
    pd.DataFrame(table).to_csv(path, index=False)
    return space, genomes


def read_stand_in(path, max_bytes):
    """Does what the file says: a graph, an error, a hang that nothing in Python can end, a death."""
    import ctypes

    word, _, number = path.read_text().partition(" ")
    if word == "hang":
        ctypes.PyDLL(None).sleep(600)  # keeps the interpreter's lock
    if word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if word == "bad":
        raise InvalidDataError('no model, "really";\nnothing at all')
    if word == "lengthy":
        raise InvalidDataError(f"no such operation: {number}")
    if word == "bug":
        raise KeyError("lost")
    assert max_bytes == 2**31 - 1
    space = family("hiaml")
    return space.graph(space.sample(np.random.default_rng(int(number)), 1)[0])


@dataclass(frozen=True)
class StandInPart(OnnxPart):
    """Files read by :func:`read_stand_in`."""

    def convert(self, spectrum, watch, skip):
        module = ModuleType("gennape.search_spaces.importing.onnx")
        module.read_onnx = read_stand_in
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(sys.modules, module.__name__, module)
            return OnnxPart.convert(self, spectrum, watch, skip)


class StandInFolder:
    """A folder whose files are read by :func:`read_stand_in`."""

    def __init__(self, folder, contents):
        folder.mkdir()
        for index, content in enumerate(contents):
            (folder / f"{index:02d}.onnx").write_text(content)
        self.inner = onnx_folder(folder)
        self.unread = ()

    @classmethod
    def of(cls, folder):
        """Of a folder that is there."""
        made = cls.__new__(cls)
        made.inner, made.unread = onnx_folder(folder), ()
        return made

    def __len__(self):
        return len(self.inner)

    def describe(self):
        return self.inner.describe()

    def part(self, index, rows):
        part = self.inner.part(index, rows)
        return StandInPart(part.folder, part.names, part.rows, part.max_bytes)
