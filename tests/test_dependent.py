"""Payloads of calls with results of other calls: what is packed is found again, and garbage is refused."""

import pickle

import numpy
import pytest

from cw import PayloadError
from cw.client.futures.future import Future
from cw.payloads import dependent, futures, serialize
from cw.payloads.layout import LABEL

OBJECTS = {7: serialize.dump_result(["an object"])}


def opened(payload):
    return dependent.opened(payload, OBJECTS.__getitem__)


def call(*args):
    return serialize.dump_plain(args, {}, 5)


@pytest.mark.parametrize(
    "values",
    [
        [3],
        [None, 2.5, "text"],
        [b"x" * 5000],
        [numpy.arange(10_000), [numpy.arange(3)], 4, numpy.arange(20_000)],
        [numpy.arange(10_000)],
    ],
)
def test_results_and_call_are_found_again(values):
    results = [serialize.dump_result(value) for value in values]
    found, inner = opened(dependent.pack([*results, 7, results[0]], call(1)))
    for result, value in zip(found, [*values, ["an object"], values[0]], strict=True):
        numpy.testing.assert_equal(result(), value)
    assert serialize.load_call(inner) == ((1,), {})
    assert bytes(inner)[-LABEL:] == (5).to_bytes(LABEL, "little")


def test_each_look_gives_a_copy_of_its_own():
    payload = memoryview(bytearray(dependent.pack([serialize.dump_result(numpy.zeros(10_000))], call(1))))
    (result,), _ = opened(payload)
    first, second = result(), result()
    first[:] = 1
    assert second.sum() == 0


def test_one_result_in_many_places_is_packed_once():
    result = serialize.dump_result(b"x" * 10_000)
    assert len(dependent.pack([result] * 50, call())) < 20_000


@pytest.mark.parametrize("size", [0, 1, 7, 8, 20, 40, 90])
def test_what_is_cut_short_is_refused(size):
    payload = dependent.pack([serialize.dump_result(1), serialize.dump_result(2)], call(1))
    with pytest.raises(PayloadError):
        opened(payload[:size])


def pending():
    return Future(None)


def done(value):
    future = Future(None)
    future.set_result(value)
    return future


def test_flat_arguments():
    one, two, met = pending(), pending(), []
    payload = dependent.dump_flat((one, 3, two, "x", one, done(8)), Future, met, 5)
    assert met == [one, two] and payload[0] == dependent.FLAT
    results, inner = opened(
        dependent.pack([serialize.dump_result(["first"]), serialize.dump_result(2)], payload)
    )
    first, three, second, text, again, eight = dependent.load_flat(inner, results)
    assert (first, three, second, text, eight) == (["first"], 3, 2, "x", 8)
    assert first is again
    assert bytes(inner)[-LABEL:] == (5).to_bytes(LABEL, "little")


def test_arguments_without_a_pending_future_need_no_results():
    payload, met = dependent.dump_flat((done(8), 3), Future, met := [], 5), met
    assert not met and serialize.load_call(payload) == ((8, 3), {})


@pytest.mark.parametrize("other", [[1], (1,), b"x", done([1]), Ellipsis])
def test_other_arguments_are_not_flat(other):
    met = []
    assert dependent.dump_flat((pending(), other), Future, met, 5) is None and not met
    assert dependent.dump_flat((1,) * 100 + (pending(),), Future, met, 5) is None


def test_a_future_is_pickled_only_where_it_is_noted():
    one, value, met = pending(), done("value"), []
    for future in (one, value):
        with pytest.raises(TypeError, match="cannot travel here"):
            pickle.dumps(future)
    before = futures.collect(met)
    try:
        data = pickle.dumps([one, value, one])
    finally:
        futures.collect(before)
    assert met == [one]
    futures.use([lambda: ["result"]])
    try:
        first, second, third = pickle.loads(data)
    finally:
        futures.use(())
    assert (first, second) == (["result"], "value") and first is third
