"""The paper's closed form of the semi-context circuit's accuracy."""

from __future__ import annotations

from math import comb


def paper_formula(K: int, N: int = 4) -> float:
    """The SCC's accuracy in the simplified world: K = L, two disjoint tables (paper, Sec. 4.3 and App. D).

    p + (1 - p) / 2, where p = 1 - C(K - 2, N) / C(K - 1, N) is the probability that the context holds
    the query's label under the other task, which rules that task out.

    Raises:
        ValueError: unless 1 <= N < K.
    """
    if not 1 <= N < K:
        raise ValueError(f"N = {N} is not allowed (1 <= N < K = {K}).")
    p = 1 - comb(K - 2, N) / comb(K - 1, N)
    return p + (1 - p) / 2
