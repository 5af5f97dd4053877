"""Size of a map's chunks: as multiprocessing has it, but for short calls."""

import functools

import pytest

from cw.pool.sizes import SHORT_SECONDS, TINY_SECONDS, Sizes


def work(n):
    return n


class Model:
    def step(self, n):
        return n


def noted(function, seconds, count=10):
    sizes = Sizes()
    sizes.note(function, seconds, count)
    return sizes


@pytest.mark.parametrize("processes", [1, 2, 7])
def test_an_unknown_function_has_the_chunks_of_multiprocessing(processes):
    for count in (1, 2, 16, 17, 100, 12345):
        expected, rest = divmod(count, 4 * processes)  # as `multiprocessing.pool.Pool._map_async` has it
        assert Sizes().size(work, count, processes) == expected + bool(rest)
        assert not Sizes().are_tiny(work, count, processes)


def test_short_calls_have_one_chunk_for_each_process():
    sizes = noted(work, SHORT_SECONDS / 2)
    assert [sizes.size(work, count, 2) for count in (10, 15, 21)] == [5, 8, 3]


def test_calls_shorter_than_a_message_are_one_chunk_unless_each_process_can_have_one():
    sizes = noted(work, TINY_SECONDS / 2)
    assert sizes.are_tiny(work, 10, 2) and sizes.are_tiny(work, 3, 2)
    assert not sizes.are_tiny(work, 2, 2) and not sizes.are_tiny(work, 21, 2)


def test_a_function_that_is_made_anew_for_each_map_is_known_again():
    for first, second in (
        (Model().step, Model().step),
        (functools.partial(work, 1), functools.partial(work, 2)),
        (lambda_of(1), lambda_of(2)),
    ):
        assert noted(first, TINY_SECONDS / 2).are_tiny(second, 10, 2)
        assert not noted(first, TINY_SECONDS / 2).are_tiny(noted, 10, 2)


def lambda_of(n):
    return lambda: n


def test_no_calls_say_nothing():
    sizes = noted(work, TINY_SECONDS / 2)
    sizes.note(lambda_of, 0.0, 0)
    assert sizes.are_tiny(work, 10, 2)
