"""One thread that does all that models do, many jobs in turns.

In: functions that make an iterator; whatever they compute, they compute between two of its items.
Out: the items, awaited one by one. No job waits for another's end: each has a turn, one item long,
and every second turn is a new job's. Knows nothing of models or HTTP.
"""

import asyncio
import collections
import contextlib
import math
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

UNREAD = 8  # items that nobody has taken: a job of a slow reader has no turn meanwhile


class Busy(Exception):
    """As many jobs as the worker takes are under way."""


class Overdue(Exception):
    """A job took longer than it may, waiting for its turns included."""


class _Job:
    """What is left of an iterator; ``give`` gets ("item", item), ("error", error) or ("end",)."""

    def __init__(self, make: Callable[[], Iterator[Any]], until: float, give: Callable[..., None]):
        self.make, self.until, self.give = make, until, give  # until: s of the monotonic clock
        self.iterator: Iterator[Any] | None = None
        self.unread, self.gone = 0, False  # both under the worker's lock

    def step(self) -> bool:
        """Have the turn; whether there may be another."""
        try:
            if self.iterator is None:
                self.iterator = iter(self.make())
            item = next(self.iterator)
        except StopIteration:
            self.give("end")
        except Exception as error:  # of whatever kind: it is the asker's, and the worker goes on
            self.give("error", error)
        else:
            self.give("item", item)
            return True
        return False

    def close(self) -> None:
        """Give up what the iterator holds."""
        if hasattr(self.iterator, "close"):
            with contextlib.suppress(Exception):
                self.iterator.close()


class Worker:
    """A thread, from ``start`` to ``stop``; ``most_jobs`` at a time, ``seconds`` for each."""

    def __init__(self, most_jobs: int = 64, seconds: float = 120.0):
        self.most_jobs, self.seconds = most_jobs, seconds
        self._new: collections.deque[_Job] = collections.deque()  # which had no turn yet
        self._jobs: collections.deque[_Job] = collections.deque()  # the others, in their order
        self._at_work: _Job | None = None
        self._new_first = True  # whether the next turn is for a new job, if there is one
        self._changed = threading.Condition()
        self._ends = False
        self._thread = threading.Thread(target=self._work, name="model worker", daemon=True)

    def start(self) -> None:
        """Begin with the jobs that are there."""
        self._thread.start()

    def stop(self, seconds: float = 1.0) -> bool:
        """End after the turn at hand; whether that was within ``seconds``."""
        with self._changed:
            self._ends = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def n_jobs(self) -> int:
        """How many are under way."""
        with self._changed:
            return self._count()

    def _count(self) -> int:
        return len(self._new) + len(self._jobs) + (self._at_work is not None)

    def begin(self, make: Callable[[], Iterator[Any]], give: Callable[..., None]) -> None:
        """A job that nobody awaits, without a limit of time; ``give`` is as in ``_Job``."""
        with self._changed:
            self._jobs.append(_Job(make, math.inf, give))
            self._changed.notify()

    async def run(
        self, make: Callable[[], Iterator[Any]], seconds: float | None = None
    ) -> AsyncIterator[Any]:
        """The items of the iterator that ``make`` returns, both called in the worker's thread.

        Close it (``contextlib.aclosing``) to stop early: so does a task that is cancelled. Raises
        ``Busy`` at once, ``Overdue`` after ``seconds`` (the worker's), or what the iterator raised.
        """
        given: asyncio.Queue[tuple] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def give(*what: Any) -> None:
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits
                loop.call_soon_threadsafe(given.put_nowait, what)

        job = self._take(make, self.seconds if seconds is None else seconds, give)
        try:
            while (what := await given.get())[0] == "item":
                with self._changed:
                    job.unread -= 1
                    self._changed.notify()
                yield what[1]
            if what[0] == "error":
                raise what[1]
        finally:
            with self._changed:
                job.gone = True
                self._changed.notify()

    async def ask(self, question: Callable[[], Any], seconds: float | None = None) -> Any:
        """What one function returns, called in the worker's thread; raises as ``run``."""
        async with contextlib.aclosing(self.run(lambda: iter([question()]), seconds)) as answers:
            async for answer in answers:
                return answer

    def _take(
        self, make: Callable[[], Iterator[Any]], seconds: float, give: Callable[..., None]
    ) -> _Job:
        with self._changed:
            if self._ends:
                raise Busy("the server is ending")
            if (n := self._count()) >= self.most_jobs:
                raise Busy(f"{n} questions are being answered, and no more are taken")
            job = _Job(make, time.monotonic() + seconds, give)
            self._new.append(job)
            self._changed.notify()
            return job

    def _work(self) -> None:
        while (job := self._next()) is not None:
            overdue = time.monotonic() >= job.until
            goes_on = not job.gone and not overdue and job.step()
            if overdue:
                job.give("error", Overdue())
            if not goes_on:
                job.close()
            with self._changed:
                self._at_work = None
                if goes_on:
                    job.unread += job.until < math.inf  # of what somebody reads
                    self._jobs.append(job)

    def _next(self) -> _Job | None:
        """Wait for a job that can have its turn, or is over; None at the end."""
        with self._changed:
            while not self._ends:
                now = time.monotonic()
                # In turns: whoever types does not wait for the end of long texts, nor they for his.
                queues = (self._new, self._jobs) if self._new_first else (self._jobs, self._new)
                for queue in queues:
                    for job in queue:
                        if job.gone or job.until <= now or job.unread < UNREAD:
                            queue.remove(job)
                            self._at_work, self._new_first = job, queue is not self._new
                            return job
                wake = min((job.until for job in self._jobs), default=math.inf)
                self._changed.wait(None if wake == math.inf else max(wake - now, 0.0))
            for job in (*self._new, *self._jobs):
                job.give("error", Busy("the server is ending"))
            return None
