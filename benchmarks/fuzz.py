"""Search for input that a reader fails on: ``python benchmarks/fuzz.py TARGET --minutes N``.

Damages small valid files guided by which lines of gennape they reach (atheris, libFuzzer), in a process of its own that
is started again after a crash, a hang (10 s) or too much memory (4 GiB). Targets are those of tests/fuzzing; every
finding is kept in the folder printed at the end, one for each place in the code. With ``all`` the minutes are divided.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from random import Random

FUZZING = Path(__file__).resolve().parent.parent / "tests" / "fuzzing"
SECONDS_EACH, MEGABYTES = 10, 4096
_MEMORY = Path("/dev/shm")  # noqa: S108 - files in memory, where there is such a folder
_FIGURES = re.compile(r"#(\d+)\s+\S+\s+cov: (\d+) ft: (\d+)")


def main() -> None:
    """Fuzz the targets one after another; the exit status is 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--found", type=Path, help="folder for findings, default a new one")
    parser.add_argument("--corpus", type=Path, help="folder that keeps what reached new lines, default a new one")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    sys.path.insert(0, str(FUZZING))
    if given.child is not None:
        _child(given.target, given.found, given.corpus, given.child)
        return
    from fuzz_targets import TARGETS  # noqa: PLC0415 - found by the path above

    names = list(TARGETS) if given.target == "all" else [given.target]
    if unknown := set(names) - set(TARGETS):
        sys.exit(f"unknown target {unknown.pop()}; known are {', '.join(TARGETS)} and all")
    found = given.found or Path(tempfile.mkdtemp(prefix="gennape-fuzz-"))
    corpus = given.corpus or Path(tempfile.mkdtemp(prefix="gennape-corpus-"))
    for name in names:
        _fuzz(name, 60 * given.minutes / len(names), found / name, corpus / name)
    findings = [path for path in found.rglob("*") if path.is_file()]
    sys.stdout.write(f"{len(findings)} findings in {found}\n")
    sys.exit(1 if findings else 0)


def _fuzz(name: str, seconds: float, found: Path, corpus: Path) -> None:
    """Run children until the time is over, and print a row of figures."""
    found.mkdir(parents=True, exist_ok=True)
    corpus.mkdir(parents=True, exist_ok=True)
    end, executed, lines, started = time.monotonic() + seconds, 0, 0, 0
    while (left := end - time.monotonic()) > 1:
        started += 1
        command = [sys.executable, __file__, name, "--found", str(found), "--corpus", str(corpus)]
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
            done = subprocess.run(  # noqa: S603
                [*command, "--child", str(round(left))],
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                check=False,
                env=os.environ | {"TMPDIR": folder},
            )
        figures = [tuple(map(int, match)) for match in _FIGURES.findall(done.stderr)]
        executed += figures[-1][0] if figures else 0
        lines = max([lines, *(covered for _, covered, _ in figures)])
        if not figures:
            sys.exit(done.stderr[-4000:])
    sys.stdout.write(
        f"{name:<18}{executed:>9} inputs{executed / seconds:>8.0f}/s  {lines:>6} edges of gennape reached  "
        f"{started} starts  {len(list(found.iterdir()))} findings\n"
    )
    sys.stdout.flush()


def _child(name: str, found: Path, corpus: Path, seconds: int) -> None:
    """Fuzz one target in this process, which libFuzzer ends."""
    try:
        import atheris  # noqa: PLC0415 - only where it is asked for
    except ImportError:
        sys.exit("coverage-guided fuzzing needs atheris, which the project does not: pip install atheris")
    with atheris.instrument_imports(include=["gennape.search_spaces"]):
        from fuzz_targets import TARGETS  # noqa: PLC0415 - gennape must be imported here
    target = TARGETS[name]
    for data in target.seeds():
        (corpus / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
    folder = Path(tempfile.mkdtemp())
    places = {path.name.rpartition("-")[0] for path in found.iterdir()}

    def failure(data: bytes) -> str | None:
        try:
            target.run(data, folder)
        except Exception as error:  # noqa: BLE001 - any other error than a typed one is what is looked for
            return _place(error)
        return None

    def one(data: bytes) -> None:
        place = failure(data)
        if place is not None and place not in places:
            places.add(place)
            least = _smallest(data, lambda shorter: failure(shorter) == place)
            (found / f"{place}-{hashlib.sha256(least).hexdigest()[:8]}").write_bytes(least)

    def mutated(data: bytes, most: int, seed: int) -> bytes:
        rng = Random(seed)  # noqa: S311 - chosen by libFuzzer
        out = atheris.Mutate(data, most) if rng.random() < 0.3 else target.damage(data, rng)
        return bytes(out)[:most]

    options = [
        f"-max_total_time={seconds}", f"-rss_limit_mb={MEGABYTES}", f"-timeout={SECONDS_EACH}", "-max_len=20000",
        f"-artifact_prefix={found}/", "-print_final_stats=1", "-len_control=0",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], one, custom_mutator=mutated)
    atheris.Fuzz()


def _smallest(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """What is left of the data when no run of bytes can be left out any more, or the time for it is over."""
    end, size = time.monotonic() + SECONDS_EACH / 2, len(data) // 2
    while size:
        for start in range(0, len(data), size):
            shorter = data[:start] + data[start + size :]
            if time.monotonic() < end and len(shorter) < len(data) and fails(shorter):
                data = shorter
                break
        else:
            size //= 2
    return data


def _place(error: Exception) -> str:
    """The kind of an error and the last line of gennape that it passed, as part of a file's name."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "/gennape/" in f.filename
    ] or traceback.extract_tb(error.__traceback__)
    return f"{type(error).__name__}-{Path(frames[-1].filename).stem}-{frames[-1].lineno}"


if __name__ == "__main__":
    main()
