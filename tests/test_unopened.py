"""Results and errors read without a look into what users' code has made: nothing is imported, nothing is called."""

import pickle

import numpy
import pytest

from cw.errors import PayloadError, RemoteException, RemoteTraceback
from cw.net.messages import DONE, ERROR
from cw.payloads import chunks, serialize, unopened


class Trap:
    """Fails where it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was opened",)


def outcomes(*values):
    chunk = chunks.Chunk()
    for value in values:
        chunk.add((value,))
    return chunks.run_each(lambda state: serve, chunk.payload())


def serve(name):
    if name == "error":
        raise KeyError("missing")
    return {"trap": Trap(), "large": b"x" * 3_000_000, "array": numpy.arange(100_000)}.get(name, name)


def test_a_chunk_is_cut_into_its_calls():
    expected = outcomes("a", "trap", "error", "large", "array")
    found = unopened.outcomes_of(serialize.dump_result(expected))
    assert [(status, seconds) for status, seconds, _ in found] == [each[:2] for each in expected]
    assert [bytes(payload) for *_, payload in found] == [bytes(payload) for *_, payload in expected]
    assert [status for status, *_ in found] == [DONE, DONE, ERROR, DONE, DONE]
    assert serialize.load_result(found[3][2]) == b"x" * 3_000_000


def test_a_note_beside_a_result_is_passed_over():
    payload = serialize.with_text(serialize.dump_result(outcomes("a")), "a note")
    assert len(unopened.outcomes_of(payload)) == 1


class Own(Exception):
    def __reduce__(self):
        return pytest.fail, ("it was opened",)


def test_an_error_is_its_text_the_name_of_its_type_and_its_place():
    try:
        raise Own("seven")
    except Own as error:
        payload = serialize.dump_error(error, {"host": "node7", "pid": 9})
    found = unopened.error_of(payload, "job 3")
    assert type(found) is RemoteException and found.type_name == f"{Own.__module__}.Own"
    assert "seven" in str(found) and "Own: seven" in found.traceback
    assert isinstance(found.__cause__, RemoteTraceback) and found.__cause__.where["host"] == "node7"


@pytest.mark.parametrize("payload", [b"", b"\x80", b"garbage", pickle.dumps(7), pickle.dumps((1, 2))])
def test_an_error_that_cannot_be_read_is_an_error_too(payload):
    assert isinstance(unopened.error_of(payload, "job 3"), RemoteException)


@pytest.mark.parametrize("value", [Trap(), print, Own("a"), numpy.arange(3)])
def test_a_frame_that_names_anything_is_refused(value):
    with pytest.raises(PayloadError):
        unopened.outcomes_of(pickle.dumps([(0, 0.0, value)], 5))
