"""The modules beside this file are shared with ``benchmarks/fuzz.py`` and imported by their names."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
