"""What tests of labelling share: images that tell their class by colour, and networks small enough to train at once."""

from __future__ import annotations

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from gennape.platform.labelling.training.device_images import put
from gennape.platform.labelling.training.images import Images, ImageSet
from gennape.platform.labelling.training.recipe import Recipe
from gennape.search_spaces.graphs.blocks import conv_bn_relu
from gennape.search_spaces.graphs.builder import GraphBuilder

CPU = torch.device("cpu")
SIZE = (8, 8)
#: Small enough that an epoch takes a moment.
RECIPE = Recipe(epochs=3, batch=16, peak_rate=0.1, crop=1, cutout=2, validation=0.2, precision="fp32")


def coloured(n, classes=2, seed=0, size=SIZE):
    """Images whose class is their brightest channel."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % classes)
    pixels = rng.integers(0, 120, (n, 3, *size), dtype=np.uint8)
    pixels[np.arange(n), labels] += 120
    return Images(pixels, labels.astype(np.int64), tuple(f"class {i}" for i in range(classes)))


def image_set(n=80, tested=40):
    return ImageSet(coloured(n), coloured(tested, seed=1) if tested else None)


def on_cpu(recipe=RECIPE, **sizes):
    return put(image_set(**sizes), recipe, CPU)


def network(classes=2, size=SIZE, width=4, norm=True):
    b = GraphBuilder()
    x = b.input(3, *size)
    x = conv_bn_relu(b, x, width, 3) if norm else b.relu(b.conv(x, width, 3))
    b.output(b.linear(b.mean(x), classes))
    return b.build()


def encoded(image, kind="PNG"):
    """[3, h, w] as the bytes of a file."""
    out = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(out, kind)
    return out.getvalue()


def write_parquet(path, images, **columns):
    """As CIFAR-10 lies there: encoded images, numbers of classes, their names in the schema."""
    table = pa.table(
        {
            "image": pa.array([encoded(image) for image in images.pixels], pa.binary()),
            "label": pa.array(images.labels, pa.int8()),
            **columns,
        }
    )
    pq.write_table(table.replace_schema_metadata({"classes": ",".join(images.classes)}), path)
    return path
