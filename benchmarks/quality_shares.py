"""A share with its interval, as the quality gate's figures print it."""

from __future__ import annotations

from typing import NamedTuple


class Share(NamedTuple):
    """How many of n, with Wilson's 95% interval."""

    hits: int
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high bound (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
        z, p = 1.959964, self.hits / self.n
        middle = (p + z * z / (2 * self.n)) / (1 + z * z / self.n)
        half = z / (1 + z * z / self.n) * (p * (1 - p) / self.n + z * z / (4 * self.n**2)) ** 0.5
        return max(0.0, float(middle - half)), min(1.0, float(middle + half))

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.hits}/{self.n} = {100 * self.hits / self.n:.1f}% [{100 * low:.1f}, {100 * high:.1f}]"
