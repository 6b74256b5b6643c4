"""Plateaus of a one-dimensional signal under total variation: how they merge in time, and what they are at one time.

Both loops are plain Python on lists. Where numba is installed (the extra `fast`), long signals go through the same
functions compiled; not a bit of the result differs.
"""

from __future__ import annotations

import heapq
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

COMPILE_FROM = 2048
"""Samples from which on compiling pays."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Tree(NamedTuple):
    """Runs of equal values and what they merged into; the first are those at time 0, in the order of the signal."""

    start: Integers  # first sample
    stop: Integers  # one past the last
    mass: Floats  # sum of the weights of its samples
    mean: Floats  # of the signal over its samples
    speed: Floats  # du/dt
    born: Floats
    died: Floats  # inf for what is never absorbed
    parent: Integers  # -1 for the same


def merge_tree(signal: Floats, weights: Floats, until: float) -> Tree:
    """All merging events up to `until`, in O(n log n)."""
    cuts = np.flatnonzero(np.diff(signal)) + 1
    starts = np.concatenate([[0], cuts])
    count = len(starts)
    signs = np.concatenate([[0.0], np.sign(signal[cuts] - signal[cuts - 1]), [0.0]])
    size = 2 * count - 1
    first, last, parent = np.zeros(size, np.int64), np.zeros(size, np.int64), np.full(size, -1)
    total, mass, mean, speed = np.zeros(size), np.ones(size), np.zeros(size), np.zeros(size)
    born, died = np.zeros(size), np.full(size, np.inf)
    first[:count] = last[:count] = np.arange(count)
    total[:count], mass[:count] = np.add.reduceat(signal * weights, starts), np.add.reduceat(weights, starts)
    mean[:count], speed[:count] = signal[starts], (signs[1:] - signs[:-1]) / mass[:count]
    arrays = (signs, first, last, parent, total, mass, mean, speed, born, died)
    fast = compiled("merge") if len(signal) >= COMPILE_FROM else None
    if fast is None:
        lists = [array.tolist() for array in arrays]
        used = merge(*lists, until)
        for array, values in zip(arrays, lists, strict=True):
            array[:] = values
    else:
        used = fast(*arrays, until)
    ends = np.append(starts, len(signal))
    kept = slice(0, used)
    return Tree(
        ends[first[kept]],
        ends[last[kept] + 1],
        mass[kept],
        mean[kept],
        speed[kept],
        born[kept],
        died[kept],
        parent[kept],
    )


def merge(
    signs: Any,
    first: Any,
    last: Any,
    parent: Any,
    total: Any,
    mass: Any,
    mean: Any,
    speed: Any,
    born: Any,
    died: Any,
    until: float,
) -> int:
    """Fill the arrays of a merge tree whose first runs are there; how many runs there are in the end.

    The mean of a run at time t is `mean + t * speed`, from the data and the signs at its ends, so that nothing
    accumulates; the sign of a gap never changes while it is open. Two runs meet where these lines cross.
    """
    count = len(signs) - 1
    owner = list(range(count))  # the run to the right of each gap
    before = list(range(-1, count))
    after = list(range(1, count + 2))
    when = [-1.0] * (count + 1)
    heap = [(0.0, 0) for _ in range(0)]
    for gap in range(1, count):
        rate = speed[gap - 1] - speed[gap]
        if rate != 0.0:
            when[gap] = (mean[gap] - mean[gap - 1]) / rate
            heap.append((when[gap], gap))
    heapq.heapify(heap)
    node = count
    while len(heap) > 0:
        now, gap = heapq.heappop(heap)
        if now > until:
            break
        if when[gap] != now:
            continue
        when[gap] = -1.0
        left, right = before[gap], after[gap]
        a, b = owner[left], owner[gap]
        parent[a] = parent[b] = node
        died[a] = died[b] = born[node] = now
        first[node], last[node] = first[a], last[b]
        total[node], mass[node] = total[a] + total[b], mass[a] + mass[b]
        mean[node], speed[node] = total[node] / mass[node], (signs[right] - signs[left]) / mass[node]
        owner[left] = node
        after[left], before[right] = right, left
        for beside in (left, right):
            if beside == 0 or beside == count:
                continue
            x, y = owner[before[beside]], owner[beside]
            rate, gulf = speed[x] - speed[y], mean[y] - mean[x]
            if rate != 0.0:
                meet = max(gulf / rate, now)
            elif gulf * signs[beside] <= 0.0:
                meet = now  # static neighbours that two events at one time brought together
            else:
                when[beside] = -1.0
                continue
            if when[beside] != meet:
                when[beside] = meet
                heapq.heappush(heap, (meet, beside))
        node += 1
    return node


def plateaus_at(signal: Floats, weights: Floats, t: float) -> tuple[Integers, Floats, Floats]:
    """Starts, masses and jump signs (one more than starts, 0 at both ends) of the plateaus at time t, in O(n)."""
    size = len(signal)
    place = np.concatenate([[0.0], np.cumsum(weights)])
    centred = signal - signal @ weights / place[-1]
    sums = np.concatenate([[0.0], np.cumsum(centred * weights)])
    cuts, signs = np.zeros(size + 1, np.int64), np.zeros(size + 1)
    scratch = [np.zeros(size + 2, np.int64) for _ in range(2)]
    fast = compiled("taut_string") if size >= COMPILE_FROM else None
    if fast is None:
        lists = [array.tolist() for array in (place, sums, *scratch, cuts, signs)]
        count = taut_string(*lists, t)
        cuts, signs = np.array(lists[4]), np.array(lists[5])
    else:
        count = fast(place, sums, *scratch, cuts, signs, t)
    starts = cuts[: count - 1]
    return starts, np.add.reduceat(weights, starts), signs[:count]


def taut_string(place: Any, sums: Any, upper: Any, lower: Any, cuts: Any, signs: Any, t: float) -> int:
    """The shortest line within t above and below the points (place, sums), pinned at both ends.

    It bends where it leans on the upper (sign +1) or lower bound (-1). `upper` and `lower` are stacks of the
    points that the convex and the concave hull from the last bend go through.
    """
    end = len(place) - 1
    apex, height, bends = 0, sums[0], 1
    cuts[0], signs[0] = 0, 0.0
    up = down = up_top = down_top = 0  # the stacks are upper[up:up_top] and lower[down:down_top]
    for i in range(1, end + 1):
        slack = t if i < end else 0.0
        high, low = sums[i] + slack, sums[i] - slack
        while up_top > up:
            k = upper[up_top - 1]
            j, y = (upper[up_top - 2], sums[upper[up_top - 2]] + t) if up_top - up > 1 else (apex, height)
            if (sums[k] + t - y) * (place[i] - place[k]) < (high - sums[k] - t) * (place[k] - place[j]):
                break
            up_top -= 1
        upper[up_top] = i
        up_top += 1
        while down_top > down:
            k = lower[down_top - 1]
            j, y = (lower[down_top - 2], sums[lower[down_top - 2]] - t) if down_top - down > 1 else (apex, height)
            if (sums[k] - t - y) * (place[i] - place[k]) > (low - sums[k] + t) * (place[k] - place[j]):
                break
            down_top -= 1
        lower[down_top] = i
        down_top += 1
        while True:
            p, q = upper[up], lower[down]
            top = high if p == i else sums[p] + t
            bottom = low if q == i else sums[q] - t
            if (bottom - height) * (place[p] - place[apex]) <= (top - height) * (place[q] - place[apex]):
                break
            if p == i:
                apex, height, side = q, bottom, -1.0
                down += 1
            else:
                apex, height, side = p, top, 1.0
                up += 1
            cuts[bends], signs[bends] = apex, side
            bends += 1
    cuts[bends], signs[bends] = end, 0.0
    return bends + 1


@cache
def compiled(name: str) -> Callable[..., int] | None:
    """One of the loops above, compiled; None where numba is not installed."""
    if importlib.util.find_spec("numba") is None:
        return None
    import numba

    return numba.njit(cache=True)({"merge": merge, "taut_string": taut_string}[name])
