"""Whether this machine has the memory that a local Ray needs: told before it starts, since Ray ends without words."""

from __future__ import annotations

from gennape.errors import ServiceError
from gennape.search_spaces.files.memory import address_limit, available, in_words

#: Addresses that each of Ray's processes must be able to take (its workers peak at 1.9 GB of them, with PyTorch in it,
#: its own servers above 2 GB), and memory that Ray and one copy of the predictor take together.
ADDRESSES, MEMORY = 6 * 10**9, 1_500_000_000


def refuse_small_machine() -> None:
    """Raise :class:`ServiceError` where a local Ray would be killed, or would end in a stack of C++."""
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
