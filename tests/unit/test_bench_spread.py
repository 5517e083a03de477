from random import Random

from flows.bench.spread import within


def test_the_interval_of_a_median_is_that_of_the_tables() -> None:
    assert within(range(1, 11)) == (2, 9)  # n = 10: the second and the ninth, 97.9 %
    assert within(range(1, 21)) == (6, 15)  # n = 20: the sixth and the fifteenth, 95.9 %
    assert within([3.0, 1.0, 2.0]) == (1.0, 3.0)


def test_the_interval_holds_the_median_nineteen_times_in_twenty() -> None:
    chance = Random(3)
    held = 0
    for _ in range(500):
        low, high = within([chance.expovariate(1.0) for _ in range(30)])
        held += low <= 0.6931 <= high
    assert 465 <= held <= 500
