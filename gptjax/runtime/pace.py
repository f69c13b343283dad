"""How much of a long work to do at a time: about half a second's worth.

In: how long a piece took. Out: the size of the next, so that signals and screens are seen to. It
decides when something is computed, and never what.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator

Busy = Callable[[float, float], None] | None  # told how much of a work is done, of how much
Told = Callable[[str, float, float], None]  # what is being done, how much of it, of how much
SECONDS = 0.5


@dataclasses.dataclass
class Pace:
    """The size ``n`` of the next piece; ``most``: no piece is larger."""

    n: int
    most: int

    def took(self, n: int, seconds: float) -> None:
        """Learn from a piece of ``n``: the next is at most four times as large."""
        self.n = max(1, min(self.most, 4 * n, int(n * SECONDS / max(seconds, 1e-9))))


def pieces(total: int, first: int, most: int, steady: bool = False) -> Iterator[tuple[int, int]]:
    """Cut ``total`` into pieces, (begin, end) each; one must be done when the next is asked for.

    ``steady``: all as large as the first. So cut several processes alike, whose clocks differ.
    """
    pace, begin = Pace(min(first, most), most), 0
    while begin < total:
        end, began = min(begin + pace.n, total), time.monotonic()
        yield begin, end
        if not steady:
            pace.took(end - begin, time.monotonic() - began)
        if not begin:  # it may have compiled: that it was slow says nothing of the next
            pace.n = max(pace.n, end)
        begin = end
