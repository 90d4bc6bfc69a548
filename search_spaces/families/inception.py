"""Inception: four stages of repeated multi-path blocks on CIFAR-10 (GENNAPE, AAAI-23)."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int64

from gennape.errors import InvalidArchitectureError
from gennape.search_spaces.families import op_lists
from gennape.search_spaces.families.space import Architecture, Gene, SearchSpace, index_of, require_keys, shown
from gennape.search_spaces.graphs.blocks import fragment
from gennape.search_spaces.graphs.builder import GraphBuilder, Value

# Input channels, output channels, stride of each stage's first block.
STAGES = ((32, 32, 1), (32, 64, 2), (64, 128, 2), (128, 256, 2))
REPEATS = (2, 3, 4, 5, 6)
PATHS = 4  # at most, in a block
SLOTS = 4  # operations of a path, at most
SHORTEST = (1, 1, 2, 2)  # operations of a path, at least, by the number of paths
SPARE = 2  # operations that the paths of a block may have together beyond their shortest: 3, 4, 8, 10 in all
FLOOR = 16  # channels of a path, at least
# Channels inside a path, as a ratio to its output's, and how often the published sampler draws each.
INTERNAL = (1.0, 0.5, 2.0)
INTERNAL_ODDS = (0.6, 0.3, 0.1)
_PATH = 2 + SLOTS  # genes of a path: spare operations, operations, internal channels
_STAGE = 3 + PATHS * _PATH  # genes of a stage: repeats, number of paths, the wide path, paths


def _conv(b: GraphBuilder, x: Value, c: int, s: int, k: int) -> Value:
    return b.relu6(b.batchnorm(b.conv(x, c, k, s, bias=True)))


def _depthwise(b: GraphBuilder, x: Value, c: int, s: int, k: int) -> Value:
    x = x if x.c == c else b.conv(x, c)
    return b.relu6(b.batchnorm(b.depthwise(x, k, s, bias=True)))


def _line(b: GraphBuilder, x: Value, c: int, kernel: tuple[int, int], s: int) -> Value:
    """A 1xk or kx1 convolution that strides along its kernel."""
    stride = (s, 1) if kernel[0] > 1 else (1, s)
    return b.batchnorm(b.conv(x, c, kernel, stride, bias=True))


def _serial(b: GraphBuilder, x: Value, c: int, s: int, k: int) -> Value:
    x = b.relu6(_line(b, x, c, (1, k), s))
    return b.relu6(_line(b, x, c, (k, 1), s))


def _parallel(b: GraphBuilder, x: Value, c: int, s: int, k: int) -> Value:
    wide, tall = _line(b, x, c // 2, (1, k), s), _line(b, x, c - c // 2, (k, 1), s)
    if s > 1:
        # Each branch has strided along one axis only and takes a second step along the other.
        wide, tall = _line(b, wide, wide.c, (k, 1), s), _line(b, tall, tall.c, (1, k), s)
    return b.relu6(b.concat(wide, tall))


def _double(b: GraphBuilder, x: Value, c: int, s: int) -> Value:
    return _conv(b, _conv(b, x, c, 1, 1), c, s, 1)


#: Convolutions.
CONV: dict[str, op_lists.Operation] = {
    "conv3x3": partial(_conv, k=3),
    "inception_s3x3": partial(_serial, k=3),
    "inception_p3x3": partial(_parallel, k=3),
    "depthwise3x3": partial(_depthwise, k=3),
    "conv5x5": partial(_conv, k=5),
    "depthwise5x5": partial(_depthwise, k=5),
    "inception_s5x5": partial(_serial, k=5),
    "inception_p5x5": partial(_parallel, k=5),
}
#: Supplementary operations, of which a path has at most one; the pools come last.
SUPP: dict[str, op_lists.Operation] = {
    "conv1x1": partial(_conv, k=1),
    "double1x1": _double,
    "avgpool3x3": op_lists.avgpool,
    "maxpool3x3": op_lists.maxpool,
}
NAMES = (*CONV, *SUPP)
_OPS = (*CONV.values(), *SUPP.values())
_FIRST_POOL = NAMES.index("avgpool3x3")  # operations before it may change channels


def _split(c: int, paths: int, wide: int) -> tuple[int, ...]:
    """Output channels of the paths of a block with ``c``: equal parts, or, of three, one of half the channels."""
    parts = [c // 4 * (2 if p == wide else 1) for p in range(3)] if paths == 3 else [c // paths] * paths
    return tuple(max(part, FLOOR) for part in parts)


#: Output channels of each path by stage, number of paths - 1 and wide path; 0 where there is no path.
CHANNELS = np.array(
    [
        [[[*_split(c, n, wide), *[0] * (PATHS - n)] for wide in range(3)] for n in range(1, PATHS + 1)]
        for _, c, _ in STAGES
    ]
)
_CHANNEL_LISTS = CHANNELS.tolist()


class Path(NamedTuple):
    """Codes of a path's operations, the channels inside and at its end."""

    ops: tuple[int, ...]
    internal: int
    c_out: int


@fragment
def _operation(b: GraphBuilder, x: Value, op: int, c: int, stride: int) -> Value:
    return _OPS[op](b, x, c, stride)


def _path(b: GraphBuilder, x: Value, path: Path, stride: int) -> Value:
    """The first and last operation that can set the channels; the first convolution takes the stride."""
    capable = [i for i, op in enumerate(path.ops) if op < _FIRST_POOL]
    striding = next(i for i, op in enumerate(path.ops) if op < len(CONV))
    for i, op in enumerate(path.ops):
        c = path.c_out if i == capable[-1] else path.internal if i == capable[0] else x.c
        x = _operation(b, x, op, c, stride if i == striding else 1)
    return x


def _block(b: GraphBuilder, x: Value, paths: tuple[Path, ...], c: int, stride: int) -> Value:
    ends = [_path(b, x, path, stride) for path in paths]
    y = b.concat(*ends) if len(ends) > 1 else ends[0]
    if y.c != c:
        # Where paths are widened to the least number of channels, they give more than the block's.
        y = b.batchnorm(b.conv(y, c, bias=True))
    return b.add(y, x) if stride == 1 and c == x.c else y


_repeated_block = fragment(_block)


@fragment
def _head(b: GraphBuilder, x: Value) -> Value:
    x = b.mean(_conv(b, x, 512, 1, 3))
    # The published graph keeps the dropout, which passes its input on.
    return b.linear(b.identity(x) if b.published else x, 10)


def _stage_genes(stage: int) -> tuple[Gene, ...]:
    places = [f"path {p + 1} of stage {stage}" for p in range(PATHS)]
    paths = (
        (
            Gene(f"spare operations of {place}", tuple(range(SPARE + 1))),
            *(Gene(f"operation {i + 1} of {place}", NAMES) for i in range(SLOTS)),
            Gene(f"internal channels of {place}", INTERNAL),
        )
        for place in places
    )
    return (
        Gene(f"repeats of stage {stage}", REPEATS),
        Gene(f"paths of stage {stage}", tuple(range(1, PATHS + 1))),
        Gene(f"wide path of stage {stage}", (1, 2, 3)),
        *(gene for path in paths for gene in path),
    )


class Inception(SearchSpace):
    """Genome: per stage its repeats, number of paths, which of three paths is wide, then four paths.

    A path is its number of operations beyond the shortest, four operations, and the ratio of internal to output
    channels. Genes that do not matter are 0.
    """

    name = "inception"
    genes = tuple(gene for stage in range(1, len(STAGES) + 1) for gene in _stage_genes(stage))

    def canonical(self, genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n g"]:
        """Absent paths and operations are 0, as are the wide path and internal ratio where they change nothing."""
        out = genomes.copy()
        heads, paths = _views(out)
        used_paths, used_ops = _used(out)
        heads[..., 2] *= (heads[..., 1] == 2) & np.array([c // 4 >= FLOOR for _, c, _ in STAGES])
        ops = paths[..., 1 : 1 + SLOTS]
        inner = ((ops < _FIRST_POOL) & used_ops).sum(-1) > 1
        channels = CHANNELS[np.arange(len(STAGES)), heads[..., 1], heads[..., 2]]
        halved_below_floor = (paths[..., -1] == INTERNAL.index(0.5)) & (channels <= FLOOR)
        paths[..., 0] *= used_paths
        ops *= used_ops
        paths[..., -1] *= used_paths & inner & ~halved_below_floor
        return out

    def feasible(self, genomes: Int64[np.ndarray, "n g"]) -> Bool[np.ndarray, " n"]:
        """Each path has a convolution and at most one supplementary operation; a block's paths are not too long."""
        _, paths = _views(genomes)
        used_paths, used_ops = _used(genomes)
        lawful = op_lists.lawful(paths[..., 1 : 1 + SLOTS], used_ops, len(CONV)) | ~used_paths
        short = (paths[..., 0] * used_paths).sum(2) <= SPARE
        return (lawful.all(2) & short).all(1)

    def sample(self, rng: np.random.Generator, n: int) -> Int64[np.ndarray, "n g"]:
        """``n`` canonical genomes, distributed as the published sampler's.

        Repeats and the number of paths are uniform, as is the place of the wide path; the paths' lengths are uniform
        one after another over what is left; operations as by :func:`op_lists.draw`; ratios by :data:`INTERNAL_ODDS`.
        """
        genomes = np.zeros((n, len(self.genes)), np.int64)
        heads, paths = _views(genomes)
        heads[:] = rng.integers([len(REPEATS), PATHS, 3], size=heads.shape)
        left = np.full((n, len(STAGES)), SPARE)
        for p in range(PATHS):
            paths[:, :, p, 0] = np.where(p <= heads[..., 1], rng.integers(left + 1), 0)
            left -= paths[:, :, p, 0]
        paths[..., 1 : 1 + SLOTS] = op_lists.draw(rng, _lengths(genomes), SLOTS, len(CONV), len(SUPP))
        paths[..., -1] = rng.choice(len(INTERNAL), p=INTERNAL_ODDS, size=paths.shape[:-1])
        return self.canonical(genomes)

    def encode(self, genome: Int64[np.ndarray, " g"]) -> Architecture:
        """``{"stages": [{"block": {"paths": [...]}, "n_blocks", "C_in", "C_out", "stride"}]}``.

        A path is ``{"ops", "op_types", "C_internal", "C_out"}``.
        """
        return {
            "stages": [
                {
                    "block": {"paths": [_encode_path(path) for path in paths]},
                    "n_blocks": repeats,
                    "C_in": c_in,
                    "C_out": c_out,
                    "stride": stride,
                }
                for (c_in, c_out, stride), (repeats, paths) in zip(STAGES, _stages(genome), strict=True)
            ]
        }

    def decode(self, architecture: Architecture) -> Int64[np.ndarray, " g"]:
        """Reads what ``encode`` writes."""
        stages = require_keys(architecture, ("stages",), self.name)["stages"]
        if not isinstance(stages, list) or len(stages) != len(STAGES):
            raise InvalidArchitectureError(f"{self.name}: stages must be a list of {len(STAGES)}, got {shown(stages)}")
        genes = [gene for s, stage in enumerate(stages) for gene in self._read_stage(stage, s)]
        canonical: Int64[np.ndarray, " g"] = self.canonical(np.array([genes], np.int64))[0]
        return canonical

    def _read_stage(self, stage: Any, s: int) -> list[int]:
        """The genes of a stage."""
        where = f"{self.name}: stage {s + 1}"
        fields = require_keys(stage, ("block", "n_blocks", "C_in", "C_out", "stride"), where)
        given = (fields["C_in"], fields["C_out"], fields["stride"])
        if given != STAGES[s]:
            raise InvalidArchitectureError(f"{where}: C_in, C_out, stride must be {STAGES[s]}, got {shown(given)}")
        repeats = index_of(self.genes[s * _STAGE], fields["n_blocks"], self.name)
        paths = require_keys(fields["block"], ("paths",), where)["paths"]
        if not isinstance(paths, list) or not 1 <= len(paths) <= PATHS:
            raise InvalidArchitectureError(f"{where}: a block has a list of 1 to {PATHS} paths, got {shown(paths)}")
        read = [_read_path(path, f"{where}, path {p + 1}") for p, path in enumerate(paths)]
        shortest, lengths = SHORTEST[len(read) - 1], [len(path.ops) for path in read]
        if min(lengths) < shortest or sum(lengths) > shortest * len(read) + SPARE:
            raise InvalidArchitectureError(
                f"{where}: {len(read)} paths have at least {shortest} operations each and at most "
                f"{shortest * len(read) + SPARE} together, got {lengths}"
            )
        genes = [repeats, len(read) - 1, _wide(read, s, where)]
        for path in read:
            ratio = _ratio(path, where)
            genes += [len(path.ops) - shortest, *path.ops, *[0] * (SLOTS - len(path.ops)), ratio]
        return genes + [0] * (_STAGE - len(genes))

    def emit(self, b: GraphBuilder, genome: Int64[np.ndarray, " g"]) -> Value:
        """Stem, four stages of repeated blocks, a convolution, classifier."""
        x = _operation(b, b.input(3, 32, 32), NAMES.index("conv3x3"), 32, 1)
        for (_, c, stride), (repeats, paths) in zip(STAGES, _stages(genome), strict=True):
            if stride > 1:  # occurs once and is not worth caching
                x = _block(b, x, paths, c, stride)
            for _ in range(repeats - (stride > 1)):
                x = _repeated_block(b, x, paths, c, 1)
        return _head(b, x)


def _encode_path(path: Path) -> dict[str, Any]:
    return {
        "ops": [NAMES[op] for op in path.ops],
        "op_types": op_lists.types(path.ops, len(CONV)),
        "C_internal": path.internal,
        "C_out": path.c_out,
    }


def _read_path(path: Any, where: str) -> Path:
    fields = require_keys(path, ("ops", "op_types", "C_internal", "C_out"), where)
    ops = op_lists.read(fields["ops"], fields["op_types"], list(CONV), list(SUPP), where)
    return Path(tuple(ops), fields["C_internal"], fields["C_out"])


def _wide(paths: list[Path], s: int, where: str) -> int:
    """The gene of the wide path."""
    given = [path.c_out for path in paths]
    splits = CHANNELS[s, len(paths) - 1, :, : len(paths)].tolist()
    if given not in splits:
        allowed = [list(split) for split in dict.fromkeys(map(tuple, splits))]
        raise InvalidArchitectureError(f"{where}: C_out of the paths must be one of {allowed}, got {shown(given)}")
    wide: int = splits.index(given)
    return wide


def _ratio(path: Path, where: str) -> int:
    """The gene of the internal channels."""
    inner = sum(op < _FIRST_POOL for op in path.ops) > 1
    allowed = [max(FLOOR, int(path.c_out * ratio)) for ratio in (INTERNAL if inner else INTERNAL[:1])]
    if path.internal not in allowed:
        raise InvalidArchitectureError(
            f"{where}: C_internal of {_encode_path(path)['ops']} must be one of {sorted(set(allowed))}, "
            f"got {shown(path.internal)}"
        )
    return allowed.index(path.internal)


def _stages(genome: Int64[np.ndarray, " g"]) -> list[tuple[int, tuple[Path, ...]]]:
    """Of each stage, how often it has its block, and the block's paths."""
    values = genome.tolist()
    stages = []
    for s in range(len(STAGES)):
        repeats, more, wide = values[s * _STAGE : s * _STAGE + 3]
        channels = _CHANNEL_LISTS[s][more][wide]
        paths = []
        for p in range(more + 1):
            spare, *ops, ratio = values[s * _STAGE + 3 + p * _PATH : s * _STAGE + 3 + (p + 1) * _PATH]
            internal = max(FLOOR, int(channels[p] * INTERNAL[ratio]))
            paths.append(Path(tuple(ops[: SHORTEST[more] + spare]), internal, channels[p]))
        stages.append((REPEATS[repeats], tuple(paths)))
    return stages


def _views(
    genomes: Int64[np.ndarray, "n g"],
) -> tuple[Int64[np.ndarray, "n stages 3"], Int64[np.ndarray, "n stages paths genes"]]:
    """Repeats, paths - 1 and wide path of each stage; its paths. Views where ``genomes`` is contiguous."""
    stages = genomes.reshape(len(genomes), len(STAGES), _STAGE)
    return stages[..., :3], stages[..., 3:].reshape(len(genomes), len(STAGES), PATHS, _PATH)


def _lengths(genomes: Int64[np.ndarray, "n g"]) -> Int64[np.ndarray, "n stages paths"]:
    """Operations of each path, whether it exists or not."""
    heads, paths = _views(genomes)
    return np.array(SHORTEST)[heads[..., 1], None] + paths[..., 0]


def _used(
    genomes: Int64[np.ndarray, "n g"],
) -> tuple[Bool[np.ndarray, "n stages paths"], Bool[np.ndarray, "n stages paths slots"]]:
    """Which paths and which operations exist."""
    used_paths = op_lists.within(_views(genomes)[0][..., 1] + 1, PATHS)
    return used_paths, op_lists.within(_lengths(genomes), SLOTS) & used_paths[..., None]
