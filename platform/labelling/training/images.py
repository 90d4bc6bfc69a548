"""Labelled images: read once from Parquet or a folder, kept as one array of bytes."""

from __future__ import annotations

import hashlib
import io
import json
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, UInt8
from PIL import Image, UnidentifiedImageError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gennape.errors import InvalidDataError
from gennape.search_spaces.files.atomic import replacing
from gennape.search_spaces.files.bounded import open_regular, read_regular, require_regular
from gennape.search_spaces.files.memory import available, in_words
from gennape.search_spaces.files.parquet_pages import UNREADABLE, read_batches

_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm")
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM")
#: Most pixels of one image.
MAX_PIXELS = 2**24
#: Bytes of an encoded image: more than the pixels without compression.
_MAX_BYTES = 4 * MAX_PIXELS
#: What decoders raise for damaged images.
_UNREADABLE = (
    OSError, ValueError, SyntaxError, EOFError, IndexError, OverflowError, struct.error, Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)  # fmt: skip
_FORMAT = "1"


@dataclass(frozen=True, slots=True, eq=False)
class Images:
    """``pixels`` uint8 [n, 3, h, w], red, green, blue; ``labels`` [n], numbers of ``classes``."""

    pixels: UInt8[np.ndarray, "n 3 h w"]
    labels: Int64[np.ndarray, " n"]
    classes: tuple[str, ...]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def take(self, rows: Int64[np.ndarray, " k"]) -> Images:
        """Some of the images."""
        return Images(self.pixels[rows], self.labels[rows], self.classes)


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """Images to train on (and validate with), and images to test on, if there are any."""

    train: Images
    test: Images | None

    @property
    def sha256(self) -> str:
        """Hash over all pixels, labels and names of classes."""
        digest = hashlib.sha256()
        for part in (self.train, self.test):
            if part is not None:
                digest.update(json.dumps([part.pixels.shape, part.classes]).encode())
                digest.update(np.ascontiguousarray(part.pixels).data)
                digest.update(np.ascontiguousarray(part.labels).data)
        return digest.hexdigest()


def read_image_set(
    train: Path, test: Path | None = None, resize: tuple[int, int] | None = None, cache: Path | None = None
) -> ImageSet:
    """Images to train on and, if given, to test on, whose sizes and classes have to be the same.

    See :func:`read_images` for what the paths may be.
    """
    first = read_images(train, resize, cache)
    if test is None:
        return ImageSet(first, None)
    second = read_images(test, resize, cache)
    if first.size != second.size:
        raise InvalidDataError(
            f"images of {train} have {_pixels(first.size)}, those of {test} {_pixels(second.size)}; resize one to both"
        )
    if first.classes != second.classes:
        other = sorted(set(first.classes) ^ set(second.classes))
        raise InvalidDataError(f"{train} and {test} have different classes ({other[:8]}); give both the same")
    return ImageSet(first, second)


def read_images(path: Path, resize: tuple[int, int] | None = None, cache: Path | None = None) -> Images:
    """The images of a Parquet file (columns ``image``, encoded bytes, and ``label``) or of a folder of one per class.

    Labels of a file are whole numbers from 0, named by the entry ``classes`` of the schema's metadata if there is one,
    or names. ``resize``: height and width that all images are scaled to (bilinear). ``cache``: a folder in which
    decoded images are kept for the next time (it has to exist).

    Raises :class:`InvalidDataError` with the first image that cannot be read or has another size, and for labels or
    classes that are missing.
    """
    if not path.exists():
        raise InvalidDataError(f"{path} does not exist; give a Parquet file of images, or a folder with one per class")
    kept = None if cache is None else cache_file(path, resize, cache)
    if kept is not None and (known := kept_images(kept)) is not None:
        return known
    images = _from_folder(path, resize) if path.is_dir() else _from_parquet(path, resize)
    if kept is not None:
        metadata = {"format": _FORMAT, "classes": json.dumps(images.classes)}
        with replacing(kept) as temporary:
            try:
                save_file({"pixels": images.pixels, "labels": images.labels}, temporary, metadata)
            except SafetensorError as error:
                raise OSError(str(error)) from error
    return images


def _from_parquet(path: Path, resize: tuple[int, int] | None) -> Images:
    try:
        require_regular(path)
        with pq.ParquetFile(path) as file:
            table = pa.Table.from_batches(read_batches(path, file), file.schema_arrow)
        table.validate(full=True)  # texts may be none
    except UNREADABLE as error:
        raise InvalidDataError(f"{path} cannot be read as Parquet: {error}") from error
    missing = {"image", "label"} - set(table.column_names)
    if missing:
        raise InvalidDataError(
            f"{path} has no column {sorted(missing)[0]!r}, but {table.column_names[:10]}; it needs image and label"
        )
    column = table["image"]
    if pa.types.is_struct(column.type) and "bytes" in [field.name for field in column.type]:
        column = pa.chunked_array([chunk.field("bytes") for chunk in column.chunks])  # as Hugging Face writes images
    if not (pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type)):
        raise InvalidDataError(f"{path}: image is {column.type}; must be encoded images, as bytes")
    labels, classes = _labels(table, path)
    places = (f"{path}, row {row}" for row in range(len(labels)))
    return Images(_decode((value.as_py() for value in column), places, len(labels), resize, path), labels, classes)


def _labels(table: pa.Table, path: Path) -> tuple[Int64[np.ndarray, " n"], tuple[str, ...]]:
    column = table["label"]
    if len(column) == 0:
        raise InvalidDataError(f"{path} holds no images")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InvalidDataError(f"{path}, row {row}: the label is missing")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        names = tuple(sorted(set(column.to_pylist())))
        number = {name: i for i, name in enumerate(names)}
        return np.array([number[name] for name in column.to_pylist()], np.int64), names
    if not pa.types.is_integer(column.type):
        raise InvalidDataError(f"{path}: label is {column.type}; must be whole numbers from 0, or names")
    labels = column.to_numpy().astype(np.int64)
    stored = (table.schema.metadata or {}).get(b"classes")
    if not stored and labels.max() >= len(labels):
        row = int(labels.argmax())
        raise InvalidDataError(
            f"{path}, row {row}: the label is {labels[row]}, more than there are images; "
            "labels are 0, 1, ... with images of each"
        )
    named = stored.decode(errors="replace").split(",") if stored else [str(i) for i in range(max(labels.max(), 0) + 1)]
    outside = np.flatnonzero((labels < 0) | (labels >= len(named)))
    if len(outside):
        row = outside[0]
        raise InvalidDataError(f"{path}, row {row}: the label is {labels[row]}; must be 0..{len(named) - 1}")
    present = np.bincount(labels, minlength=len(named)) > 0
    if not present.all():
        raise InvalidDataError(f"{path} has no image of class {named[int(np.argmin(present))]!r}; add some")
    return labels, tuple(named)


def _from_folder(path: Path, resize: tuple[int, int] | None) -> Images:
    classes = tuple(sorted(entry.name for entry in path.iterdir() if entry.is_dir()))
    if not classes:
        raise InvalidDataError(f"{path} holds no folders; put the images of each class into one named after it")
    files: list[Path] = []
    labels: list[int] = []
    for number, name in enumerate(classes):
        own = sorted(file for file in (path / name).iterdir() if file.suffix.lower() in _ENDINGS and not file.is_dir())
        if not own:
            raise InvalidDataError(f"{path / name} holds no image ({', '.join(_ENDINGS)}); every class needs some")
        files += own
        labels += [number] * len(own)
    pixels = _decode(map(_bytes_of, files), map(str, files), len(files), resize, path)
    return Images(pixels, np.array(labels, np.int64), classes)


def _bytes_of(file: Path) -> bytes:
    try:
        return read_regular(file, _MAX_BYTES)
    except OSError as error:
        raise InvalidDataError(f"{file} cannot be read: {error.strerror or error}; mend or remove it") from error


def _decode(
    encoded: Iterable[bytes | None], places: Iterable[str], n: int, resize: tuple[int, int] | None, path: Path
) -> UInt8[np.ndarray, "n 3 h w"]:
    """All images, by as many threads as there are processors (decoders work beside each other)."""
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        try:
            return _stack(pool.map(lambda data, place: _pixels_of(data, place, resize), encoded, places), n, path)
        except InvalidDataError:
            pool.shutdown(cancel_futures=True)  # one message says enough
            raise


def _stack(decoded: Iterator[tuple[str, UInt8[np.ndarray, "h w 3"]]], n: int, path: Path) -> np.ndarray:
    out: np.ndarray | None = None
    for i, (place, image) in enumerate(decoded):
        if out is None:
            _refuse_too_much(3 * n * image.shape[0] * image.shape[1], n, path)
            out = np.empty((n, 3, *image.shape[:2]), np.uint8)
        if image.shape[:2] != out.shape[2:]:
            raise InvalidDataError(
                f"{place}: the image has {_pixels(image.shape[:2])}, the first of {path} {_pixels(out.shape[2:])}; "
                "all need one size: --resize scales them"
            )
        out[i] = image.transpose(2, 0, 1)
    if out is None:
        raise InvalidDataError(f"{path} holds no images")
    return out


def _refuse_too_much(size: int, n: int, path: Path) -> None:
    if (left := available()) is not None and size > left:
        raise InvalidDataError(
            f"{path}: {n} images take {in_words(size)} of memory, and {in_words(left)} are left; "
            "have them resized, or take fewer"
        )


def _pixels_of(
    data: bytes | None, place: str, resize: tuple[int, int] | None
) -> tuple[str, UInt8[np.ndarray, "h w 3"]]:
    try:
        with Image.open(io.BytesIO(data or b""), formats=_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise InvalidDataError(f"{place}: {image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
            if image.mode.startswith(("I", "F")):  # conversion would cut off what is above 255
                raise InvalidDataError(f"{place}: more than 8 bits a pixel ({image.mode}); have it scaled to 8 bits")
            colours = image.convert("RGB")
    except _UNREADABLE as error:
        why = "it is no PNG, JPEG, WebP, BMP or PPM" if isinstance(error, UnidentifiedImageError) else str(error)
        raise InvalidDataError(f"{place}: not an image that can be read ({why}); mend or remove it") from error
    if resize is not None and colours.size != resize[::-1]:
        colours = colours.resize(resize[::-1], Image.Resampling.BILINEAR)
    return place, np.asarray(colours)


def _pixels(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]} pixels"


def cache_file(path: Path, resize: tuple[int, int] | None, cache: Path) -> Path:
    """Where :func:`read_images` keeps a source: by the bytes of a file; of a folder by where it is and what it holds.

    That is names, sizes, places on the disk and times of change; times of modification can be set at will."""
    digest = hashlib.sha256(f"{_FORMAT} {resize}".encode())
    if path.is_dir():
        digest.update(f"{path.resolve()}\n".encode())
        for file in sorted(path.glob("*/*")):
            known = file.lstat()
            digest.update(f"{file.relative_to(path)} {known.st_size} {known.st_ino} {known.st_ctime_ns}\n".encode())
    else:
        with open_regular(path) as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return cache / f"images-{digest.hexdigest()[:32]}.safetensors"


def kept_images(path: Path) -> Images | None:
    """What was decoded before, of a :func:`cache_file`; nothing where that is absent or not whole."""
    try:
        with safe_open(path, "numpy") as file:
            classes = json.loads((file.metadata() or {})["classes"])
            pixels, labels = file.get_tensor("pixels"), file.get_tensor("labels")
            return Images(pixels, labels, tuple(classes)) if pixels.shape[:2] == (len(labels), 3) else None
    except (OSError, SafetensorError, KeyError, ValueError):
        return None
