"""Files of labels, one a family, of what ``labelling.py`` wrote: ``python benchmarks/label_files.py labels.jsonl``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from gennape.search_spaces.families.registry import family
from gennape.search_spaces.graphs.canonical import canonical_hashes
from gennape.search_spaces.graphs.cost import flops


def main() -> None:
    """Write the labels of one recipe, in the columns that ``gennape label`` writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "labels")
    asked = parser.parse_args()
    rows = [json.loads(line) for line in asked.rows.read_text().splitlines()]
    table = pd.DataFrame([row for row in rows if "test" in row])
    if table["recipe"].nunique() > 1 or table["data"].nunique() > 1:
        parser.error(f"{asked.rows} holds labels of several recipes or images; a file of labels holds one")
    for name, group in table.sort_values(["family", "number", "seed"]).groupby("family"):
        labels_of(str(name), group).to_csv(asked.out / f"{name}.csv", index=False)


def labels_of(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """The table of one family."""
    space = family(name)
    graphs = space.graphs(np.stack([space.decode(architecture) for architecture in rows["architecture"]]))
    return pd.DataFrame(
        {
            "family": name,
            "architecture": [json.dumps(architecture) for architecture in rows["architecture"]],
            "network": canonical_hashes(graphs),
            "seed": rows["seed"].to_numpy(),
            "recipe": rows["recipe"].to_numpy(),
            "data": rows["data"].to_numpy(),
            "accuracy": rows["test"].round(2).to_numpy(),
            "validation_accuracy": [round(found[-1], 2) for found in rows["validation"]],
            "test_accuracy": rows["test"].round(2).to_numpy(),
            "accuracy_by_epoch": [json.dumps([round(value, 2) for value in found]) for found in rows["validation"]],
            "flops": flops(graphs),
            "seconds": rows["seconds"].round(2).to_numpy(),
            "images_per_second": rows["images_per_second"].round(0).to_numpy(),
            "device": rows["device"].to_numpy(),
        }
    )


if __name__ == "__main__":
    main()
