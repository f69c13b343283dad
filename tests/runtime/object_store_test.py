"""The lease of a URL: one holder, taken over only from the dead, and lost with a word."""

import threading
import time
from contextlib import closing

import pytest

from gptjax.errors import UserError
from gptjax.runtime import object_store
from gptjax.runtime.object_store import Lease, Lost, Store


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Seconds for minutes."""
    monkeypatch.setattr(object_store, "RENEW_S", 0.2)
    monkeypatch.setattr(object_store, "DEAD_S", 1.5)
    monkeypatch.setattr(object_store, "WATCH_S", 0.05)


@pytest.fixture
def store(memory_bucket):
    made, turn = Store(f"memory://{memory_bucket}/run"), threading.Lock()
    made.write("run.json", b"{}")
    unguarded = made.write

    def write(*what, **how):  # fsspec's store in memory looks first, and then creates
        with turn:
            unguarded(*what, **how)

    made.write = write
    return made


def lease(store, who, said=None):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(object_store.socket, "gethostname", lambda: who)
        return Lease(store, f"disk of {who}", (said if said is not None else []).append)


def halt(held):
    """The holder stops renewing, as one that is killed or halted does."""
    held._end.set()
    held._thread.join()


def claims(store):
    return set(store.files("lock"))


def test_a_second_writer_is_told_who_has_it_and_the_first_goes_on_and_leaves_nothing(store):
    said = []
    with closing(lease(store, "anna")) as first:
        with pytest.raises(
            UserError, match="in use by process [0-9]+ on anna since 20.*: wait for it"
        ):
            lease(store, "bert", said)
        first.require()
        time.sleep(0.5)
        first.require()
        assert len(claims(store)) == 1
    assert len(said) == 1 and "on anna since 20" in said[0] and ": if that lives" in said[0]
    assert claims(store) == set()
    with closing(lease(store, "bert")):
        pass


def test_the_dead_are_followed_after_a_while_and_at_once_where_they_ran(store):
    for next_one, least in (("bert", 1.4), ("anna", 0.0)):
        dead = lease(store, "anna")
        halt(dead)
        began = time.monotonic()
        with closing(lease(store, next_one)) as held:
            assert least <= time.monotonic() - began < least + 1
            held.require()


def test_who_was_taken_over_finds_out_though_the_other_has_ended(store):
    for ended in (False, True):
        halted = lease(store, "anna")
        halt(halted)
        taker = lease(store, "bert")
        if ended:
            taker.close()
        halted.renew()
        with pytest.raises(Lost):
            halted.require()
        if not ended:
            assert " on bert since 20" in halted.taker
            taker.renew()
            taker.require()
            taker.close()
        assert claims(store) == set(), "a claim of the loser is left"


def test_of_many_that_start_at_once_one_has_it(store):
    held, refused, start = [], [], threading.Barrier(6)

    def race(who):
        start.wait()
        try:
            held.append(Lease(store, who, str))
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=race, args=(f"host {i}",)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(held) == 1 and len(refused) == 5
    held[0].require()
    held[0].close()


def test_a_claim_on_an_old_view_is_withdrawn_and_of_two_views_one_wins(store, monkeypatch):
    """A late starter believes that claim 7 is dead; meanwhile another has come and begun at 1."""
    with closing(lease(store, "new")) as new:
        with monkeypatch.context() as once, pytest.raises(UserError, match="on new since"):
            once.setattr(Lease, "_dead", lambda self, say: {7})
            lease(store, "late")
        new.renew()
        new.require()


def test_an_answer_that_is_lost_loses_no_claim(store, monkeypatch):
    with closing(lease(store, "anna")) as held:
        halt(held)
        number, write = held._number, store.write

        def lost(name, data, mode="overwrite"):
            write(name, data, mode)
            raise TimeoutError("no answer")

        with monkeypatch.context() as once:
            once.setattr(store, "write", lost)
            with pytest.raises(TimeoutError):
                held.renew()
        held.renew()
        held.require()
        assert held._number == number + 1 and claims(store) == {f"lock/{number + 1}"}


def test_who_cannot_renew_stops_writing_before_another_may_take_over(store, monkeypatch):
    with closing(lease(store, "anna")) as held:
        halt(held)
        held.require()
        now = time.time()
        monkeypatch.setattr(time, "time", lambda: now + 1.31)
        with pytest.raises(OSError, match="could not be renewed for 1 s"):
            held.require()


def test_a_claim_that_somebody_else_wrote_is_no_reason_to_fail(store):
    for text in (b"", b"[1]", b"\xff", b"x" * 3000):
        store.write("lock/3", text)
        with closing(lease(store, "anna")) as held:
            held.require()
        assert claims(store) == set()
