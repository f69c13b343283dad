"""The worker alone: turns, limits, ends. Its jobs here are lists and generators."""

import asyncio
import contextlib
import threading
import time

import pytest

from gptjax.serving.worker import UNREAD, Busy, Overdue, Worker


def run(scenario, **how):
    """Await ``scenario(worker)`` beside a worker; it must end in good time."""
    worker = Worker(**how)
    worker.start()
    try:
        return asyncio.run(asyncio.wait_for(scenario(worker), 20))
    finally:
        assert worker.stop(5)


async def every(items):
    return [item async for item in items]


async def until(condition):
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came to that")


def test_items_come_in_order_from_one_thread():
    threads = set()

    def work(n):
        for i in range(n):
            threads.add(threading.current_thread().name)
            yield i

    async def scenario(worker):
        return await asyncio.gather(*(every(worker.run(lambda n=n: work(n))) for n in (3, 5, 40)))

    assert run(scenario) == [[*range(3)], [*range(5)], [*range(40)]]
    assert threads == {"model worker"}


def test_a_question_waits_for_one_turn_of_a_long_job_and_not_for_its_end():
    order, may_go_on = [], threading.Event()

    def long():
        for i in range(6):
            order.append(i)
            if i == 1:
                assert may_go_on.wait(10)  # the question is asked during this turn
            yield i

    async def scenario(worker):
        whole = asyncio.ensure_future(every(worker.run(long)))
        await until(lambda: order == [0, 1])
        answer = asyncio.ensure_future(worker.ask(lambda: order.append("asked")))
        await until(lambda: worker.n_jobs == 2)
        may_go_on.set()
        await answer
        return await whole

    assert run(scenario) == [*range(6)]
    assert order == [0, 1, "asked", 2, 3, 4, 5]


def test_long_jobs_are_not_kept_waiting_by_new_ones():
    order, begun = [], threading.Event()

    def job(name, n):
        for _ in range(n):
            order.append(name)
            begun.wait(10)
            yield None

    async def scenario(worker):
        jobs = [asyncio.ensure_future(every(worker.run(lambda: job("long", 5))))]
        await until(lambda: order)
        jobs += [asyncio.ensure_future(worker.ask(lambda: order.append("new"))) for _ in range(9)]
        await until(lambda: worker.n_jobs == 10)
        begun.set()
        await asyncio.gather(*jobs)

    run(scenario)
    assert order[:4] == ["long", "long", "new", "long"]
    assert order[-1] == "new" and sorted(order) == ["long"] * 5 + ["new"] * 9


def test_two_long_jobs_take_turns():
    order, begun = [], threading.Event()

    def long(name):
        for _ in range(4):
            order.append(name)
            begun.wait(10)
            yield None

    async def scenario(worker):
        both = [asyncio.ensure_future(every(worker.run(lambda n=n: long(n)))) for n in "ab"]
        await until(lambda: worker.n_jobs == 2)
        begun.set()
        await asyncio.gather(*both)

    run(scenario)
    assert sorted(order) == [*"aaaabbbb"]
    # Every second turn is a new job's: the first had one more before the other's first.
    assert order == [*"aababab" + "b"], order


def test_more_jobs_than_allowed_are_busy():
    go = threading.Event()

    def wait():
        go.wait(10)
        yield 1

    async def scenario(worker):
        both = [asyncio.ensure_future(every(worker.run(wait))) for _ in range(2)]
        await until(lambda: worker.n_jobs == 2)
        with pytest.raises(Busy, match="2 questions"):
            await every(worker.run(wait))
        go.set()
        assert await asyncio.gather(*both) == [[1], [1]]
        return await worker.ask(lambda: "free again")

    assert run(scenario, most_jobs=2) == "free again"


def test_a_job_ends_when_nobody_wants_it_any_more():
    closed = threading.Event()

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    async def scenario(worker):
        async with contextlib.aclosing(worker.run(endless)) as items:
            async for _ in items:
                break
        await until(closed.is_set)
        closed.clear()
        task = asyncio.ensure_future(every(worker.run(endless)))
        await asyncio.sleep(0.05)
        task.cancel()
        await until(closed.is_set)
        await until(lambda: worker.n_jobs == 0)

    run(scenario)
    assert closed.is_set()


def test_nobody_makes_what_is_not_read():
    made = []

    def endless():
        while True:
            made.append(1)
            yield len(made)

    async def scenario(worker):
        items = worker.run(endless)
        assert await anext(items) == 1
        await until(lambda: len(made) > UNREAD)
        await asyncio.sleep(0.1)
        assert len(made) == UNREAD + 1  # and one was read
        assert await worker.ask(lambda: "others go on") == "others go on"
        assert await anext(items) == 2
        await until(lambda: len(made) == UNREAD + 2)
        await items.aclose()

    run(scenario)


def test_a_job_has_its_time_also_one_that_nobody_reads():
    def endless():
        while True:
            time.sleep(0.005)
            yield 1

    async def scenario(worker):
        with pytest.raises(Overdue):
            await every(worker.run(endless))
        unread = worker.run(endless, seconds=0.2)
        await anext(unread)
        await until(lambda: worker.n_jobs == 0)

    run(scenario, seconds=0.3)


def test_what_goes_wrong_is_the_askers_and_the_worker_lives():
    def wrong():
        yield 1
        raise KeyError("mine")

    async def scenario(worker):
        seen = []
        with pytest.raises(KeyError, match="mine"):
            async for item in worker.run(wrong):
                seen.append(item)
        with pytest.raises(ZeroDivisionError):
            await worker.ask(lambda: 1 / 0)
        return seen, await worker.ask(lambda: 5)

    assert run(scenario) == ([1], 5)


def test_what_waits_when_the_worker_ends_is_told():
    worker, said = Worker(), []

    async def scenario():
        items = worker.run(lambda: iter(range(10**9)))
        await anext(items)
        assert worker.stop(5)
        with pytest.raises(Busy, match="ending"):
            async for item in items:
                said.append(item)
        with pytest.raises(Busy, match="ending"):
            await worker.ask(lambda: 1)

    worker.start()
    asyncio.run(scenario())
    assert len(said) <= UNREAD


def test_a_job_that_nobody_awaits_tells_how_it_ended():
    told, worker = [], Worker()
    worker.begin(lambda: iter(range(3 * UNREAD)), lambda *what: told.append(what))
    worker.begin(lambda: (1 / 0 for _ in range(1)), lambda *what: told.append(what))
    worker.start()
    deadline = time.monotonic() + 5
    while len(told) < 3 * UNREAD + 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert worker.stop(5)
    assert [what[1] for what in told if what[0] == "item"] == [*range(3 * UNREAD)]
    assert ("end",) in told
    assert [type(what[1]) for what in told if what[0] == "error"] == [ZeroDivisionError]
