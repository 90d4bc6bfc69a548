"""Check that this machine has the memory a local Ray needs, since Ray would be killed without a message."""

from __future__ import annotations

from gennape.errors import ServiceError
from gennape.search_spaces.files.memory import address_limit, available, in_words

#: Address space that each process of Ray needs (workers with PyTorch peak at 1.9 GB, Ray's servers above 2 GB), and the
#: memory that Ray and one copy of the predictor take together.
ADDRESSES, MEMORY = 6 * 10**9, 1_500_000_000


def refuse_small_machine() -> None:
    """Raise :class:`ServiceError` if a local Ray would be killed or crash for lack of memory."""
    limit, left = address_limit(), available()
    if limit is not None and limit < ADDRESSES:
        raise ServiceError(
            f"a process may have {in_words(limit)} of memory here (ulimit -v), and Ray needs {in_words(ADDRESSES)} of "
            "addresses to start; raise the limit, or name a cluster elsewhere with --address"
        )
    if left is not None and left < MEMORY:
        raise ServiceError(
            f"{in_words(left)} of memory are left, and Ray with a predictor needs {in_words(MEMORY)}; "
            "end other programs, or name a cluster elsewhere with --address"
        )
