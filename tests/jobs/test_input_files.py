"""What is said of files that cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gennape.errors import InvalidDataError
from gennape.jobs.shared.input_files import require_file
from gennape.search_spaces.labels.labels import reader_of


def test_what_is_no_file_is_told_with_what_was_meant(tmp_path: Path) -> None:
    (tmp_path / "Model.onnx").write_bytes(b"x")
    (tmp_path / "empty.csv").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, told in {
        "model.onx": f"did you mean {tmp_path / 'Model.onnx'}?",
        "other": "other does not exist$",
        "absent/x.onnx": "nor does the folder",
        ".": "is a folder",
        "empty.csv": "is empty",
        "pipe": "is no regular file",
    }.items():
        with pytest.raises(InvalidDataError, match=told):
            require_file(tmp_path / name)
    require_file(tmp_path / "Model.onnx")


def test_labelled_files_too(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("")
    with pytest.raises(InvalidDataError, match=r"did you mean .*labels\.csv\?$"):
        reader_of(tmp_path / "label.csv")
    with pytest.raises(InvalidDataError, match="it is empty"):
        reader_of(tmp_path / "labels.csv")
    with pytest.raises(InvalidDataError, match="`gennape data` lists sources"):
        reader_of(tmp_path / "something else")
