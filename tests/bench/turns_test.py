"""Turns are interleaved, the first does not count, and the median speaks for the rest."""

from gptjax.bench import turns


def test_turns_are_interleaved_and_the_first_does_not_count():
    made, clock, heard = [], iter(range(100)), []

    def contender(name):
        return lambda: (made.append(name), float(next(clock)))[1]

    calls = {"a": contender("a"), "b": contender("b")}
    seconds = turns.interleave(calls, 3, lambda *told: heard.append(told))
    assert "".join(made) == "abababab"
    assert seconds == {"a": [2, 4, 6], "b": [3, 5, 7]}
    assert heard[0] == ("a", 0, 8) and heard[-1] == ("b", 7, 8)


def test_what_is_said_of_turns():
    found = turns.spread([4e-3, 1e-3, 3e-3], unit=1e-3)
    assert found == {"median": 3, "fastest": 1, "slowest": 4}
    assert turns.times_as_fast([2.0, 9.0, 8.0], [1.0, 3.0, 4.0]) == 2  # of 2, 3, 2
