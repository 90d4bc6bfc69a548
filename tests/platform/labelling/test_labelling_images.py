"""Images come in once and right from every form, and each way they can be wrong has one message."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from labelling_cases import CPU, RECIPE, coloured, encoded, image_set, write_parquet
from safetensors.numpy import save_file

from gennape.errors import ConfigError, InvalidDataError, WorkspaceError
from gennape.platform.labelling.training import images as images_module
from gennape.platform.labelling.training.device_images import put
from gennape.platform.labelling.training.images import Images, ImageSet, read_image_set, read_images
from gennape.platform.labelling.training.recipe import Recipe, Seed, draws, recipe_from


def same(a, b):
    return np.array_equal(a.pixels, b.pixels) and np.array_equal(a.labels, b.labels) and a.classes == b.classes


# Reading -------------------------------------------------------------------------------------------------------------


def test_parquet_gives_the_pixels_that_were_encoded(tmp_path):
    images = coloured(12, classes=3)
    assert same(read_images(write_parquet(tmp_path / "a.parquet", images)), images)


def test_other_forms_of_parquet(tmp_path):
    """Images as structs, as Hugging Face writes them, and labels that are names."""
    images = coloured(6)
    structs = pa.array([{"bytes": encoded(image), "path": None} for image in images.pixels])
    names = pa.array(["cat" if label else "dog" for label in images.labels])
    pq.write_table(pa.table({"image": structs, "label": names}), tmp_path / "a.parquet")
    found = read_images(tmp_path / "a.parquet")
    assert found.classes == ("cat", "dog")
    assert np.array_equal(found.labels, 1 - images.labels)
    assert np.array_equal(found.pixels, images.pixels)


def test_a_folder_for_each_class(tmp_path):
    images = coloured(8)
    for i, (image, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        folder = tmp_path / images.classes[label]
        folder.mkdir(exist_ok=True)
        (folder / f"{i}.png").write_bytes(encoded(image))
    (tmp_path / "class 0" / "notes.txt").write_text("no image")
    found = read_images(tmp_path)
    order = np.argsort(images.labels, kind="stable")
    assert same(found, images.take(order))


def test_grey_images_become_red_green_and_blue_and_sizes_what_is_asked_for(tmp_path):
    from PIL import Image

    (tmp_path / "a").mkdir()
    Image.new("L", (5, 9), 77).save(tmp_path / "a" / "x.png")
    found = read_images(tmp_path, resize=(4, 6))
    assert found.pixels.shape == (1, 3, 4, 6)
    assert (found.pixels == 77).all()


def test_decoded_images_are_kept_and_a_torn_file_is_made_anew(tmp_path, monkeypatch):
    path, cache = write_parquet(tmp_path / "a.parquet", coloured(5)), tmp_path / "cache"
    cache.mkdir()
    first = read_images(path, cache=cache)
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:-7])
    assert same(read_images(path, cache=cache), first)
    with monkeypatch.context() as m:
        m.setattr(images_module, "_decode", None)
        assert same(read_images(path, cache=cache), first)
    read_images(path, resize=(4, 4), cache=cache)
    write_parquet(path, coloured(6))
    assert len(read_images(path, cache=cache).labels) == 6
    assert len(list(cache.iterdir())) == 3


def test_folders_that_look_alike_are_not_taken_for_each_other(tmp_path):
    """Names, sizes and times of two folders may be the same."""
    from PIL import Image

    (tmp_path / "cache").mkdir()
    for folder, value in (("one", 10), ("other", 200)):
        (tmp_path / folder / "cat").mkdir(parents=True)
        Image.new("RGB", (4, 4), (value,) * 3).save(tmp_path / folder / "cat" / "0.bmp")
        os.utime(tmp_path / folder / "cat" / "0.bmp", (1, 1))
    for folder, value in (("one", 10), ("other", 200)):
        assert (read_images(tmp_path / folder, cache=tmp_path / "cache").pixels == value).all()


@pytest.mark.parametrize(
    "content", [{}, {"pixels": np.zeros((5, 4, 4, 3), np.uint8)}, {"labels": np.zeros(9, np.int64)}]
)
def test_a_kept_file_that_holds_something_else_is_made_anew(tmp_path, content):
    path, cache = write_parquet(tmp_path / "a.parquet", coloured(5)), tmp_path / "cache"
    cache.mkdir()
    first = read_images(path, cache=cache)
    (kept,) = cache.iterdir()
    whole = {"pixels": first.pixels, "labels": first.labels}
    save_file(whole | content, kept, {"classes": json.dumps(first.classes)} if content else None)
    assert same(read_images(path, cache=cache), first)


def test_the_hash_is_that_of_pixels_labels_and_names():
    images = image_set()
    train, test = images.train, images.test
    other_pixel, other_label = train.pixels.copy(), train.labels.copy()
    other_pixel[3, 1, 2, 2] ^= 1
    other_label[5] ^= 1
    sets = [
        images,
        ImageSet(train, None),
        ImageSet(Images(other_pixel, train.labels, train.classes), test),
        ImageSet(Images(train.pixels, other_label, train.classes), test),
        ImageSet(Images(train.pixels, train.labels, ("a", "b")), test),
    ]
    assert len({each.sha256 for each in sets}) == len(sets)
    assert image_set().sha256 == images.sha256


# What is wrong -------------------------------------------------------------------------------------------------------


def bad_image(images):
    return {"image": pa.array([encoded(image) for image in images.pixels[:3]] + [b"no image"] * 5, pa.binary())}


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        (
            bad_image,
            r"row 3: not an image that can be read \(it is no PNG, JPEG, WebP, BMP or PPM\); mend or remove it$",
        ),
        (lambda _: {"label": pa.array([0] * 7 + [None])}, "row 7: the label is missing"),
        (lambda _: {"label": pa.array([0] * 7 + [2])}, "row 7: the label is 2; must be 0..1"),
        (lambda _: {"label": pa.array([-1] * 8)}, "row 0: the label is -1"),
        (lambda _: {"label": pa.array([1] * 8)}, "no image of class 'class 0'"),
        (lambda _: {"label": pa.array([0] * 7 + [2**62])}, "row 7: the label is 4611686018427387904"),
        (lambda _: {"label": pa.array([0.5] * 8)}, "label is double; must be whole numbers"),
        (lambda _: {"image": pa.array(["x"] * 8)}, "image is string; must be encoded"),
        (lambda _: {"image": pa.array([None] * 8, pa.binary())}, "row 0: not an image"),
        (
            lambda images: {"image": pa.array([encoded(p[:, : 8 - (k == 4)]) for k, p in enumerate(images.pixels)])},
            "row 4: the image has 7 x 8 pixels, the first of .* 8 x 8 pixels",
        ),
    ],
)
def test_each_wrong_parquet_has_one_message(tmp_path, columns, told):
    images = coloured(8)
    table = pq.read_table(write_parquet(tmp_path / "a.parquet", images))
    for name, column in columns(images).items():
        table = table.set_column(table.column_names.index(name), name, column)
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InvalidDataError, match=told):
        read_images(tmp_path / "a.parquet")


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damaged_images_are_read_or_refused(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "PPM"]))
    content = bytearray(encoded(coloured(1).pixels[0], kind))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(content)))
    with suppress(InvalidDataError):
        images_module._pixels_of(bytes(content[:end]), "here", None)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_images_of_more_than_8_bits_are_refused_rather_than_cut_off(mode):
    from PIL import Image

    out = io.BytesIO()
    Image.new(mode, (4, 4)).save(out, "PNG" if mode == "I;16" else "TIFF")
    with pytest.raises(InvalidDataError, match="here: more than 8 bits a pixel" if mode == "I;16" else "not an image"):
        images_module._pixels_of(out.getvalue(), "here", None)


def test_images_too_large_are_refused():
    from PIL import Image

    out = io.BytesIO()
    Image.new("1", (4097, 4096)).save(out, "PNG")
    with pytest.raises(InvalidDataError, match="here: 4097 x 4096 pixels"):
        images_module._pixels_of(out.getvalue(), "here", None)


def test_other_wrong_sources_are_named(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", coloured(4))
    pq.write_table(pq.read_table(path).drop(["label"]), path)
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 torn")
    (tmp_path / "none").mkdir()
    (tmp_path / "classes" / "cat" / "thumbs.png").mkdir(parents=True)
    (tmp_path / "links" / "cat").mkdir(parents=True)
    (tmp_path / "links" / "cat" / "x.png").symlink_to("nowhere.png")
    pq.write_table(
        pa.table({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int8())}), tmp_path / "0.parquet"
    )
    for name, told in {
        "a.parquet": "no column 'label'",
        "torn.parquet": "cannot be read as Parquet",
        "none": "holds no folders",
        "classes": "cat holds no image",
        "links": r"x.png cannot be read: No such file",
        "absent": "does not exist",
        "0.parquet": "holds no images",
    }.items():
        with pytest.raises(InvalidDataError, match=told):
            read_images(tmp_path / name)


def test_images_to_test_on_have_to_be_like_those_to_train_on(tmp_path):
    train = write_parquet(tmp_path / "train.parquet", coloured(6))
    for other, told in ((coloured(6, size=(4, 4)), "8 x 8 pixels"), (coloured(6, classes=3), "different classes")):
        with pytest.raises(InvalidDataError, match=told):
            read_image_set(train, write_parquet(tmp_path / "test.parquet", other))
    assert read_image_set(train).test is None


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(WorkspaceError, match="cache"):
        read_images(write_parquet(tmp_path / "a.parquet", coloured(4)), cache=tmp_path / "cache")


# On the device -------------------------------------------------------------------------------------------------------


def test_no_image_both_trains_and_validates():
    images = image_set(n=50)
    data = put(images, RECIPE, CPU)
    crop = RECIPE.crop
    trained = {image.numpy().tobytes() for image in data.framed[:, crop:-crop, crop:-crop].contiguous()}
    validated = {image.numpy().tobytes() for image in data.validation.pixels}
    assert len(validated) == 10
    assert len(trained) == 40
    assert not trained & validated
    assert trained | validated == {image.transpose(1, 2, 0).tobytes() for image in images.train.pixels}


def test_normalised_images_have_mean_0_and_deviation_1():
    data = put(image_set(), RECIPE, CPU)
    crop = RECIPE.crop
    images = data.normalised(data.framed[:, crop:-crop, crop:-crop].contiguous())
    assert torch.allclose(images.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(images.std((0, 2, 3), unbiased=False), torch.ones(3), atol=1e-5)
    assert images.is_contiguous(memory_format=torch.channels_last)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), crop=st.integers(0, 3), cutout=st.integers(0, 9))
def test_batches_are_changed_as_written_down(seed, crop, cutout):
    """Against loops over single pixels."""
    recipe = Recipe(batch=16, crop=crop, cutout=cutout, validation=0.2)
    data = put(image_set(n=24, tested=0), recipe, CPU)
    (batch,) = draws(np.random.default_rng(seed), 19, 16, crop, (8, 8))
    images, labels = data.changed(torch.from_numpy(batch), cutout)
    framed, mean, deviation = data.framed.numpy(), data.mean.numpy(), data.deviation.numpy()
    for i, (row, down, right, mirrored, y, x) in enumerate(batch.tolist()):
        part = framed[row, down : down + 8, right : right + 8][:, ::-1] if mirrored else framed[
            row, down : down + 8, right : right + 8
        ]  # fmt: skip
        wanted = (part.astype(np.float32) - mean) / deviation
        for r in range(8):
            for c in range(8):
                if 0 <= r - (y - cutout // 2) < cutout and 0 <= c - (x - cutout // 2) < cutout:
                    wanted[r, c] = 0
        assert np.allclose(images[i].numpy(), wanted.transpose(2, 0, 1), atol=1e-6)
        assert labels[i] == data.labels[row]


def test_too_few_images_for_a_batch_are_refused():
    with pytest.raises(ConfigError, match="do not fill one batch of 16"):
        put(image_set(n=15), RECIPE, CPU)


# The recipe ----------------------------------------------------------------------------------------------------------


def test_an_epoch_shows_each_image_once_and_depends_on_the_seed_alone():
    seed = Seed(1, "ab", 2)
    first = draws(seed.generator(1), 100, 16, 4, (32, 20))
    assert first.shape == (6, 16, 6)
    assert len(set(first[..., 0].ravel().tolist())) == 96
    assert (first.reshape(-1, 6).max(0) < [100, 9, 9, 2, 32, 20]).all()
    assert (first >= 0).all()
    assert np.array_equal(first, draws(seed.generator(1), 100, 16, 4, (32, 20)))
    others = [
        seed.generator(2),
        Seed(2, "ab", 2).generator(1),
        Seed(1, "ac", 2).generator(1),
        Seed(1, "ab", 3).generator(1),
    ]
    assert not any(np.array_equal(first, draws(rng, 100, 16, 4, (32, 20))) for rng in others)


def test_the_rate_rises_and_falls_once():
    rates = Recipe(peak_rate=2.0, warm_up=0.25).rates(1000)
    assert rates[0] == pytest.approx(2.0 * (0.25 + 0.75 * 0.0005 / 0.25))
    assert rates.argmax() in (249, 250)
    assert rates.max() == pytest.approx(2.0, rel=0.01)
    assert rates[-1] == pytest.approx(2.0 * 0.0005 / 0.75)
    assert (np.diff(rates[:249]) > 0).all()
    assert (np.diff(rates[251:]) < 0).all()


def test_recipes_have_the_same_hash_only_if_they_are_the_same():
    recipes = [Recipe(), Recipe(epochs=31), Recipe(mirror=False), Recipe(precision="fp32"), Recipe(average=0.5)]
    assert len({recipe.sha256 for recipe in recipes}) == len(recipes)
    assert Recipe().sha256 == Recipe(epochs=30).sha256


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"batch": 1}, {"peak_rate": float("nan")}, {"precision": "int8"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_recipes_are_read_from_settings():
    assert recipe_from({"epochs": 5, "peak_rate": 1}) == Recipe(epochs=5, peak_rate=1.0)
    assert recipe_from({"peak_rate": 1}).sha256 == Recipe(peak_rate=1.0).sha256
    for wrong, told in (
        ({"epoch": 5}, "no 'epoch'; it has epochs, batch"),
        ({"epochs": 5.0}, "epochs of a recipe is 5.0; must be like 30"),
        ({"mirror": 1}, "mirror of a recipe is 1; must be like True"),
        ({"peak_rate": True}, "must be like 0.4"),
        ({"precision": "int8"}, "must be bf16 or fp32"),
    ):
        with pytest.raises(ConfigError, match=told):
            recipe_from(wrong)


@pytest.mark.cluster
def test_training_needs_neither_ray_nor_pydantic():
    code = (
        "import sys, gennape.platform.labelling.training.network_training, gennape.platform.labelling.training.images\n"
        "print([name for name in ('pydantic', 'ray', 'mlflow', 'torch_geometric', 'pandas') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
