"""Check that this machine has the memory a search or a local Ray needs: both would be killed without a message."""

from __future__ import annotations

from gennape.errors import ServiceError
from gennape.search_spaces.files.memory import address_limit, available, in_words

#: Address space that each process of Ray needs (workers with PyTorch peak at 1.9 GB, Ray's servers above 2 GB), and the
#: memory that Ray and one copy of the predictor take together.
ADDRESSES, MEMORY = 6 * 10**9, 1_500_000_000
#: The same of a search in one process, which peaks at 2.6 GB of addresses and, with MLflow beside it, 0.8 GB of memory.
LOCAL_ADDRESSES, LOCAL_MEMORY = 3 * 10**9, 900_000_000


def refuse_small_machine() -> None:
    """Raise :class:`ServiceError` if a local Ray would be killed or crash for lack of memory."""
    _refuse_less("Ray", ADDRESSES, "Ray with a predictor", MEMORY)


def refuse_small_process() -> None:
    """Raise :class:`ServiceError` if a search in this process would be killed or crash for lack of memory."""
    _refuse_less("a search", LOCAL_ADDRESSES, "a search", LOCAL_MEMORY)


def _refuse_less(starts: str, addresses: int, runs: str, memory: int) -> None:
    limit, left = address_limit(), available()
    if limit is not None and limit < addresses:
        raise ServiceError(
            f"a process may have {in_words(limit)} of memory here (ulimit -v), and {starts} needs "
            f"{in_words(addresses)} of addresses to start; raise the limit, or name a cluster elsewhere with --address"
        )
    if left is not None and left < memory:
        raise ServiceError(
            f"{in_words(left)} of memory are left, and {runs} needs {in_words(memory)}; "
            "end other programs, or name a cluster elsewhere with --address"
        )
