"""Read files as their targets do, with an end to memory: ``python fuzz_replay.py FOLDER FILE...``.

A file's target is the name of the folder that it lies in. Prints a JSON object for each: seconds, and mebibytes by
which the process has grown since it began.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from fuzz_targets import TARGETS

#: Beyond what the process has when it begins, in bytes of addresses; libraries reserve more than they use.
MAX_BYTES = 12 * 2**30


def _resident() -> int:
    """The most mebibytes that this process ever had in memory."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak // (2**20 if sys.platform == "darwin" else 2**10)


def _addresses() -> int:
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 0


def main() -> None:
    """Read each file in turn; whatever is no error of gennape ends the process."""
    folder, files = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (_addresses() + MAX_BYTES, hard))
    before = _resident()
    for path in files:
        started = time.monotonic()
        TARGETS[path.parent.name].run(path.read_bytes(), folder)
        row = {"file": path.name, "seconds": time.monotonic() - started, "mebibytes": _resident() - before}
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
