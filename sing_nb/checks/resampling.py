"""Samples of whole clusters, and medians and means of samples that are never made."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

__all__ = ["Means", "Medians", "Rows"]

AT_ONCE = 10**7  # values of all samples that are held together


class Rows:
    """Samples (samples, n, ...) of rows, from drawn clusters (samples, clusters)."""

    columns_at = 2  # axis of a sample that is the second one of the values

    def __init__(self, values: np.ndarray, members: np.ndarray) -> None:
        self.values, self.sizes = values, np.bincount(members)
        self.even = bool((self.sizes == self.sizes[0]).all())
        rows = np.split(np.argsort(members, kind="stable"), np.cumsum(self.sizes)[:-1])
        self.rows = np.stack(rows) if self.even else rows

    @property
    def at_once(self) -> int:
        """How many samples fit; those of clusters of several sizes have several lengths."""
        return max(1, AT_ONCE // max(1, self.values.size)) if self.even else 1

    def batches(self, number: int) -> Iterator[slice]:
        """The samples, as many at once as fit."""
        for start in range(0, number, self.at_once):
            yield slice(start, min(start + self.at_once, number))

    def __call__(self, drawn: np.ndarray) -> np.ndarray:
        if self.even:
            return self.values[self.rows[drawn].reshape(len(drawn), -1)]
        return self.values[np.concatenate([self.rows[i] for i in drawn[0]])][None]

    @staticmethod
    def whole(values: np.ndarray) -> np.ndarray:
        """What is made of the values themselves."""
        return values


class Means(Rows):
    """Means over rows (samples, ...), from sums of clusters."""

    columns_at = 1

    def __init__(self, values: np.ndarray, members: np.ndarray) -> None:
        super().__init__(values, members)
        self.sums = np.zeros((len(self.sizes), *values.shape[1:]))
        np.add.at(self.sums, members, values)

    def batches(self, number: int) -> Iterator[slice]:
        yield slice(0, number)

    def __call__(self, drawn: np.ndarray) -> np.ndarray:
        times = _times(drawn)
        found = times.astype(float) @ self.sums.reshape(len(self.sizes), -1)
        found /= (times @ self.sizes)[:, None]
        return found.reshape(len(times), *self.values.shape[1:])

    @staticmethod
    def whole(values: np.ndarray) -> np.ndarray:
        return values.mean(0)


def _times(drawn: np.ndarray) -> np.ndarray:
    """How often each sample holds each cluster, of drawn clusters (samples, clusters)."""
    samples, count = drawn.shape
    flat = (np.arange(samples)[:, None] * count + drawn).ravel()
    return np.bincount(flat, minlength=drawn.size).reshape(samples, count)


class Medians(Means):
    """Medians over rows (samples, ...), those of :func:`numpy.median` to the bit."""

    def __init__(self, values: np.ndarray, members: np.ndarray) -> None:
        Rows.__init__(self, values, members)
        flat = values.reshape(len(values), -1).astype(float)
        order = np.argsort(flat, axis=0)
        self.sorted, self.members = np.take_along_axis(flat, order, axis=0).T, members[order].T
        self.missing = np.zeros((len(self.sizes), flat.shape[1]))
        np.add.at(self.missing, members, np.isnan(flat))

    def __call__(self, drawn: np.ndarray) -> np.ndarray:
        times = _times(drawn)
        samples, count = times.shape
        n, total = self.sorted.shape[1], times @ self.sizes
        width = max(1, int(np.sqrt(n)))
        blocks = -(-n // width)
        which, step = np.arange(samples), np.arange(width)
        # Rows that fill up the last block belong to a cluster that no sample holds. Counts below
        # 2**24 are exact in float32.
        weights = times.astype(np.float32)
        padded = np.pad(times, [(0, 0), (0, 1)])
        found = np.empty((samples, len(self.sorted)))
        for column, (values, members) in enumerate(zip(self.sorted, self.members)):
            members = np.pad(members, (0, blocks * width - n), constant_values=count)
            held = np.bincount(members * blocks + np.arange(len(members)) // width,
                               minlength=(count + 1) * blocks).reshape(-1, blocks)[:count]
            passed = weights @ held.cumsum(1).astype(np.float32)  # (samples, blocks)
            ends = []
            for place in ((total - 1) // 2, total // 2):
                block = (passed <= place[:, None]).sum(1)
                before = np.where(block > 0, passed[which, block - 1], 0)
                inside = padded[which[:, None], members[block[:, None] * width + step]].cumsum(1)
                within = (inside + before[:, None] <= place[:, None]).sum(1)
                ends.append(values[block * width + within])
            found[:, column] = (ends[0] + ends[1]) / 2
        found[times @ self.missing > 0] = np.nan
        return found.reshape(samples, *self.values.shape[1:])

    @staticmethod
    def whole(values: np.ndarray) -> np.ndarray:
        return np.median(values, axis=0)
