"""Payloads: what goes in comes out, whatever it is; and what cannot travel says what it is."""

import array
import asyncio
import collections
import contextlib
import gc
import multiprocessing
import os
import pickle
import random
import re
import string
import struct
import subprocess
import sys
import threading
import traceback
import weakref
from multiprocessing import managers, resource_sharer, shared_memory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pickles import dump_call

from cw.client.functions.functions import FunctionTable
from cw.errors import NotPicklable, PayloadError, RemoteException, RemoteTraceback
from cw.net import memory
from cw.payloads import failures, layout, pickled, serialize

LOCK = threading.Lock()
BIG = layout.OUT_OF_BAND  # bytes


def writable(payload):
    """The same payload as the network delivers it: in writable memory."""
    return memoryview(bytearray(payload))


def is_multi(payload):
    return payload[0] == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


# --- values, calls, results ---


@given(values)
def test_a_value_is_the_same_after_the_journey(value):
    for payload in (serialize.dump(value), serialize.dump_result(value)):
        assert serialize.load(payload) == value
        assert serialize.load_result(writable(payload)) == value


@given(st.lists(values).map(tuple), st.dictionaries(st.text(), values))
def test_a_call_is_the_same_after_the_journey(args, kwargs):
    payload = dump_call(args, kwargs)
    assert serialize.load_call(payload) == (args, kwargs)
    assert serialize.load_call(writable(payload)) == (args, kwargs)


@given(st.lists(st.integers(0, 3 * BIG), max_size=5), st.binary(max_size=100))
def test_buffers_of_any_sizes_are_the_same_after_the_journey(sizes, rest):
    value = [pickle.PickleBuffer(bytearray(os.urandom(1) * size)) for size in sizes], rest
    payload = serialize.dump(value)
    assert is_multi(payload) == any(size >= BIG for size in sizes)
    for arrived in (payload, writable(payload)):
        buffers, other = serialize.load(arrived)
        assert [bytes(b) for b in buffers] == [bytes(b) for b in value[0]]
        assert other == rest


def test_a_plain_payload_is_a_pickle_as_it_is():
    payload = dump_call((1, "a"), {})
    assert type(payload) is bytes
    assert pickle.loads(payload) == (1, "a")
    assert type(dump_call((1,), {"a": 2})) is bytes


def test_arguments_that_look_like_a_call_with_keywords_are_taken_as_they_are():
    for args in ([(), {}],), ((), {}), ([1], {"a": 1}):
        assert serialize.load_call(dump_call(args, {})) == (args, {})


def test_a_result_given_as_a_call_is_refused():
    with pytest.raises(PayloadError, match="not that of a call"):
        serialize.load_call(serialize.dump_result(3))


class Buffer:
    """An object with one large buffer, as numpy's arrays."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Buffer, (pickle.PickleBuffer(self.data),)


def test_a_large_buffer_is_a_snapshot():
    data = bytearray(BIG)
    payload = serialize.dump(Buffer(data))
    data[0] = 7
    assert serialize.load(payload).data[0] == 0


def test_a_large_buffer_lies_in_the_payloads_memory_if_that_is_writable():
    payload = writable(serialize.dump(Buffer(bytearray(BIG))))
    arrived = serialize.load(payload).data
    payload[-1] = 9
    assert arrived[-1] == 9


def test_a_buffer_is_writable_where_it_was_also_from_an_immutable_payload():
    for data, readonly in (bytearray(BIG), False), (bytes(BIG), True):
        payload = serialize.dump(Buffer(data))
        for arrived in bytes(payload), memoryview(bytes(payload)), writable(payload):
            assert memoryview(serialize.load(arrived).data).readonly is readonly


def test_small_buffers_stay_in_the_pickle():
    assert not is_multi(serialize.dump(Buffer(bytearray(BIG - 1))))


def test_buffers_lie_at_multiples_of_64_bytes():
    payload = serialize.dump([Buffer(b"\xa5" * (BIG + 1)), Buffer(b"\x5a" * BIG)])
    assert bytes(payload).index(b"\xa5" * BIG) % 64 == 0
    assert bytes(payload).index(b"\x5a" * BIG) % 64 == 0


def test_a_large_payload_is_what_store_makes_of_its_parts():
    stored = []

    def store(parts, size):
        stored.append(b"".join(parts))
        assert len(stored[-1]) == size
        return memoryview(bytearray(stored[-1]))

    size = layout.LARGE
    payload = serialize.dump_result(Buffer(bytearray(b"x" * size)), store)
    assert type(payload) is memoryview
    assert bytes(payload) == stored[0]
    assert bytes(serialize.load_result(payload).data) == b"x" * size
    assert type(serialize.dump_result([1], store)) is bytes
    assert type(serialize.dump_result(Buffer(bytearray(BIG)), store)) is bytes
    assert len(stored) == 1
    args, _ = serialize.load_call(dump_call((Buffer(bytearray(size)),), {}, None, store))
    assert len(args[0].data) == size and len(stored) == 2


def test_a_very_large_payload_is_in_private_memory(monkeypatch):
    monkeypatch.setattr(layout, "LARGE", 2 * BIG)
    monkeypatch.setattr(layout, "MAPPED", 4 * BIG)
    asked = []
    monkeypatch.setattr(layout, "private", lambda size: asked.append(size) or memory.private(size))
    payload = serialize.dump(Buffer(bytearray(4 * BIG)))
    arrived = serialize.load(bytes(payload))  # from immutable memory: copied into memory of its own
    assert type(payload) is memoryview and asked == [len(payload)] * 2
    assert not arrived.data.readonly


@pytest.mark.parametrize("where", ["argument", "keyword", "result"])
def test_big_bytes_travel_out_of_band_and_come_out_as_bytes(where):
    data = os.urandom(serialize.BIG_BYTES)
    if where == "result":
        payload = serialize.dump_result(data)
        arrived = serialize.load_result(payload)
    elif where == "argument":
        payload = dump_call((1, data, "a"), {})
        args, kwargs = serialize.load_call(payload)
        assert (args[0], args[2], kwargs) == (1, "a", {})
        arrived = args[1]
    else:
        payload = dump_call((), {"x": 1, "data": data})
        args, kwargs = serialize.load_call(payload)
        assert (args, list(kwargs), kwargs["x"]) == ((), ["x", "data"], 1)
        arrived = kwargs["data"]
    assert is_multi(payload)
    assert type(arrived) is bytes and arrived == data


@pytest.fixture
def made(monkeypatch):
    """The bytes that were made of a payload's buffers; from a size on that is far below the real one."""
    found = []
    monkeypatch.setattr(pickled, "MAPPED", serialize.BIG_BYTES)
    monkeypatch.setattr(pickled, "as_bytes", lambda view: found.append(memory.as_bytes(view)) or found[-1])
    return found


def test_bytes_of_mapped_size_are_copied_once(made):
    data = os.urandom(serialize.BIG_BYTES)
    for keep in bytes, writable:  # as on a network, and as from a memory file
        assert serialize.load_result(keep(serialize.dump_result(data))) is made[-1]
        (first, _, second), kwargs = serialize.load_call(keep(dump_call((data, 3, data), {"x": data})))
        assert [id(first), id(second), id(kwargs["x"])] == list(map(id, made[-3:]))
        assert first == second == kwargs["x"] == data
        state, args = serialize.load_parts(
            keep(serialize.pickle_with_state(1, (data,), {}, None).payload()), 2
        )
        assert (state, args[0][0]) == (1, data) and args[0][0] is made[-1]
    assert len(made) == 10


def test_what_lies_beside_such_bytes_is_what_it_was(made):
    data, text = os.urandom(serialize.BIG_BYTES), "bytes"
    args, _ = serialize.load_call(dump_call((data, bytes, bytes, text, Buffer(data)), {}))
    assert args[1] is args[2] is bytes and args[:4] == (data, bytes, bytes, text)
    assert memoryview(args[4].data).readonly and args[4].data == data
    made.clear()
    buffer = bytearray(serialize.BIG_BYTES)
    args, _ = serialize.load_call(dump_call((data, Buffer(buffer)), {}))
    assert not made and args[0] == data  # with writable ones, all are left as they are
    assert not memoryview(args[1].data).readonly


def test_what_other_containers_of_bytes_hold_is_the_same():
    data = bytearray(os.urandom(BIG))
    call = serialize.load_call(dump_call((data, array.array("d", [1.5]), memoryview(data)), {}))
    assert call == ((data, array.array("d", [1.5]), bytes(data)), {})


def test_numpy_arrays_of_all_layouts_arrive_equal_and_writable():
    numpy = pytest.importorskip("numpy")
    base = numpy.arange(40_000, dtype="f8").reshape(200, 200)
    structured = numpy.zeros(5000, dtype=[("a", "i4"), ("b", "f8")])
    arrays = base, base.T, base[::2, ::3], numpy.asfortranarray(base), structured, base[:0], numpy.array(3.0)
    payload = dump_call(arrays, {"more": [base]})
    assert is_multi(payload)
    for arrived in payload, writable(payload):
        args, kwargs = serialize.load_call(arrived)
        for one, other in zip([*args, *kwargs["more"]], [*arrays, base], strict=True):
            assert one.dtype == other.dtype
            assert one.flags.writeable and one.flags.aligned
            numpy.testing.assert_array_equal(one, other)


def test_a_readonly_numpy_array_stays_readonly():
    numpy = pytest.importorskip("numpy")
    one = numpy.zeros(10_000)
    one.flags.writeable = False
    assert not serialize.load(serialize.dump(one)).flags.writeable


# --- payloads of a faulty peer ---


def test_an_empty_payload_is_refused():
    with pytest.raises(PayloadError, match="empty"):
        serialize.load(b"")


def test_a_payload_cut_short_or_too_long_is_refused():
    payload = bytes(serialize.dump([Buffer(bytearray(BIG)), Buffer(bytearray(BIG))]))
    for size in [*range(1, 100), len(payload) // 2, len(payload) - 1]:
        with pytest.raises(PayloadError, match=f"payload of {size} bytes"):
            serialize.load(payload[:size])
    with pytest.raises(PayloadError):
        serialize.load(payload + b"x")


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(max_size=200))
def test_any_header_with_wrong_sizes_is_refused_before_anything_is_allocated(flag, count, size, rest):
    with pytest.raises((PayloadError, pickle.UnpicklingError, EOFError)):
        serialize.load(struct.pack("<BBxxIQ", 1, flag, count, size) + rest)


# --- what cannot be pickled ---


class Model:
    def __init__(self):
        self._lock = LOCK


class Slotted:
    __slots__ = ("lock",)


def refusal(call, *args):
    with pytest.raises(NotPicklable) as caught:
        call(*args)
    assert caught.value.__cause__ is not None
    return str(caught.value)


def fit(model, *more, options=None):
    pass


def test_the_message_names_the_argument_and_where_the_object_is_in_it():
    assert refusal(dump_call, (LOCK,), {}, fit) == (
        "argument 'model' of fit(): cannot pickle '_thread.lock' object"
    )
    assert refusal(dump_call, ({"a": [0, Model()]},), {}, fit) == (
        "argument 'model' of fit(): cannot pickle '_thread.lock' object, found at args[0]['a'][1]._lock"
    )
    assert refusal(dump_call, (1, 2, (LOCK,)), {}, fit) == (
        "argument 3 of fit(): cannot pickle '_thread.lock' object, found at args[2][0]"
    )
    assert refusal(dump_call, (1,), {"options": Model()}, fit) == (
        "argument 'options' of fit(): cannot pickle '_thread.lock' object, found at kwargs['options']._lock"
    )
    assert refusal(dump_call, (Model(),), {}) == (
        "argument 1: cannot pickle '_thread.lock' object, found at args[0]._lock"
    )


def test_the_message_for_a_function_names_the_global_or_closure_variable():
    def closure():
        return number, model

    number, model = 1, Model()
    assert refusal(FunctionTable().call, closure, (), {}) == (
        "function closure: cannot pickle '_thread.lock' object, found at closure.__closure__['model']._lock. "
        "Make it in the job, or give what is needed of it as an argument"
    )
    function = lambda: LOCK  # noqa: E731
    assert re.fullmatch(
        r"function <lambda> \(test_serialize.py:\d+\): cannot pickle '_thread.lock' object, "
        r"found at <lambda> \(test_serialize.py:\d+\).__globals__\['LOCK'\]\. Make it in the job, or .*",
        refusal(FunctionTable().call, function, (), {}),
    )


def test_the_message_for_a_result_says_where_in_it():
    slotted = Slotted()
    slotted.lock = LOCK
    assert refusal(serialize.dump_result, [slotted]) == (
        "the job's result: cannot pickle '_thread.lock' object, found at result[0].lock"
    )


def test_an_object_whose_own_pickling_fails_is_found_too():
    class Stubborn:
        def __reduce__(self):
            raise ValueError("I stay")

    assert refusal(serialize.dump_result, {"x": Stubborn()}) == (
        "the job's result: ValueError: I stay, found at result['x']"
    )


def test_a_generator_and_a_coroutine_are_refused():
    async def coroutine():
        pass

    started = coroutine()
    assert "generator" in refusal(serialize.dump_result, (i for i in ()))
    assert "coroutine" in refusal(serialize.dump_result, started)
    asyncio.run(started)


def test_what_is_nested_too_deeply_is_refused_with_words():
    nested = []
    for _ in range(100_000):
        nested = [nested]
    assert refusal(serialize.dump_result, nested) == "the job's result: nested too deeply to be pickled"
    while nested:  # the interpreter's own clean-up of it is deep as well
        nested = nested.pop()


def test_what_does_not_fit_into_memory_is_refused_with_words():
    class Huge:
        def __reduce__(self):
            raise MemoryError

    assert refusal(serialize.dump_result, Huge()) == "the job's result: not enough memory to pickle it"
    by_value = (lambda: 1, Huge())
    assert refusal(serialize.dump_result, by_value) == "the job's result: not enough memory to pickle it"


def test_what_interrupts_pickling_is_not_taken_for_a_refusal():
    class Interrupting:
        def __reduce__(self):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        serialize.dump_result(Interrupting())


# --- errors ---


def raised(exception):
    try:
        raise exception
    except BaseException as error:
        return error


def journey(exception, describe="job 17 on host n3, attempt 1"):
    payload = serialize.dump_error(raised(exception), {"host": "n3", "pid": 4711})
    return serialize.load_error(payload, describe)


class WithCode(Exception):
    def __init__(self, code, text):
        super().__init__(f"{code}: {text}")
        self.code = code


class WithDefault(Exception):
    def __init__(self, code, text="nothing"):
        super().__init__(f"{code}: {text}")


class OwnOSError(OSError):
    def __init__(self, path):
        super().__init__(2, "not here", path)


class OwnUnicodeError(UnicodeDecodeError):
    def __init__(self):
        super().__init__("utf-8", b"\xff", 0, 1, "no")


class Exiting(Exception):
    def __init__(self, text="bye"):
        super().__init__(text)
        if text != "bye":
            raise SystemExit(3)

    def __reduce__(self):
        return Exiting, ("now",)


class Unloadable(Exception):
    def __reduce__(self):
        return int, ("x",)


class NotAnException(Exception):
    def __reduce__(self):
        return int, ("3",)


class BadText(Exception):
    def __str__(self):
        raise ValueError("no text")


class Strict(Exception):
    def __setattr__(self, name, value):
        raise AttributeError("frozen")


@pytest.mark.parametrize(
    "exception",
    [
        ValueError("a", 1),
        KeyError("k"),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(5),
        FileNotFoundError(2, "No such file", "/x"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        NotPicklable("n"),
        WithCode(3, "x"),
        WithDefault(3, "x"),
        WithDefault(3),
        OwnOSError("/x"),
        OwnUnicodeError(),
        Strict("s"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_an_exception_arrives_with_its_type_text_and_attributes(exception):
    arrived = journey(exception)
    assert type(arrived) is type(exception)
    assert arrived.args == exception.args
    assert str(arrived) == str(exception)
    assert arrived.__dict__ == exception.__dict__
    assert type(arrived.__cause__) is RemoteTraceback


def test_the_fields_of_an_oserror_arrive():
    arrived = journey(OwnOSError("/x"))
    assert (arrived.errno, arrived.strerror, arrived.filename) == (2, "not here", "/x")


def test_the_remote_traceback_names_the_job_the_place_and_the_line():
    cause = journey(ValueError("broken")).__cause__
    assert cause.where == {"host": "n3", "pid": 4711}
    lines = str(cause).strip('\n"').split("\n")
    assert lines[0] == "job 17 on host n3, attempt 1 (host n3, pid 4711)"
    assert lines[1] == "Traceback (most recent call last):"
    assert "raise exception" in str(cause)
    assert lines[-1] == "ValueError: broken"


def test_the_remote_traceback_shows_causes_and_notes():
    error = ValueError("outer")
    error.__cause__ = raised(KeyError("inner"))
    if hasattr(error, "add_note"):
        error.add_note("a note")
    arrived = journey(error)
    assert "KeyError: 'inner'" in str(arrived.__cause__)
    if hasattr(error, "add_note"):
        assert arrived.__notes__ == ["a note"]
        assert "a note" in str(arrived.__cause__)


def test_exception_groups_arrive_whole():
    if sys.version_info < (3, 11):
        pytest.skip("exception groups came with Python 3.11")
    arrived = journey(ExceptionGroup("two", [ValueError(1), KeyError(2)]))  # noqa: F821
    assert [type(e) for e in arrived.exceptions] == [ValueError, KeyError]


def test_frames_of_cw_above_the_jobs_are_left_out():
    filename = os.path.join(os.path.dirname(os.path.dirname(serialize.__file__)), "runner", "runner.py")
    namespace = {}
    exec(compile("def run(f):\n    f()", filename, "exec"), namespace)

    def job():
        raise ValueError("mine")

    try:
        namespace["run"](job)
    except ValueError as error:
        while error.__traceback__.tb_frame.f_code.co_filename == __file__:
            error.__traceback__ = error.__traceback__.tb_next
        payload = serialize.dump_error(error, {})
    text = str(serialize.load_error(payload, "job").__cause__)
    assert "runner.py" not in text
    assert "in job" in text


@pytest.mark.parametrize(
    ("exception", "reason"),
    [
        (Unloadable("t"), "invalid literal for int"),
        (NotAnException("t"), "unpickles as a int"),
        (ValueError(LOCK), "cannot pickle '_thread.lock' object, found at exception.args[0]"),
    ],
)
def test_an_exception_that_does_not_survive_pickling_is_stood_in_for(exception, reason):
    if type(exception) is not ValueError:
        exception.args = ("t", LOCK)  # so that its parts cannot be sent either
    arrived = journey(exception)
    assert type(arrived) is RemoteException
    assert arrived.type_name == failures._type_name(type(exception))
    assert arrived.type_name in str(arrived) and reason in str(arrived)
    assert "raise exception" in arrived.traceback
    assert str(arrived.__cause__).strip('\n"') == arrived.traceback.strip("\n")


def test_an_exception_whose_unpickling_raises_even_systemexit_arrives():
    assert type(journey(Exiting())) is Exiting


def test_an_exception_that_unpickles_there_but_not_here_is_stood_in_for(monkeypatch):
    payload = serialize.dump_error(raised(WithCode(3, "x")), {})
    monkeypatch.delattr(sys.modules[__name__], "WithCode")
    arrived = serialize.load_error(payload, "job 1")
    assert type(arrived) is RemoteException
    assert "WithCode: 3: x" in str(arrived) and "AttributeError" in str(arrived)
    assert "job 1" in arrived.traceback


def test_an_exception_without_a_text_arrives():
    assert type(journey(BadText())) in (BadText, RemoteException)


def test_an_exception_with_a_huge_text_has_a_bounded_traceback():
    arrived = journey(ValueError("x" * 10_000_000))
    assert len(str(arrived.__cause__)) < 2 * failures.TRACEBACK_CHARACTERS


def test_an_unreadable_error_payload_is_an_error_and_not_a_crash():
    for payload in b"", b"\x80", b"garbage", serialize.dump(3), bytes(100):
        arrived = serialize.load_error(payload, "job 5")
        assert type(arrived) is RemoteException
        assert "job 5" in str(arrived)


def test_what_raised_is_not_kept_alive():
    class Data:
        pass

    def job():
        data = Data()
        references.append(weakref.ref(data))
        raise ValueError(LOCK)

    references = []
    gc.disable()
    try:
        try:
            job()
        except ValueError as error:
            payload = serialize.dump_error(error, {})
        serialize.load_error(payload, "job")
        assert references[0]() is None
    finally:
        gc.enable()


def test_a_recursion_error_arrives():
    def recurse():
        recurse()

    try:
        recurse()
    except RecursionError as error:
        payload = serialize.dump_error(error, {})
    arrived = serialize.load_error(payload, "job")
    assert type(arrived) is RecursionError
    assert "repeated" in str(arrived.__cause__)


@settings(max_examples=50)
@given(values)
def test_any_exception_arrives_with_its_arguments(value):
    arrived = journey(ValueError(value))
    assert arrived.args == (value,)


def test_the_error_printed_at_home_shows_both_tracebacks():
    try:
        raise journey(ValueError("broken"))
    except ValueError as error:
        printed = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    assert printed.index("job 17") < printed.index("direct cause") < printed.rindex("ValueError: broken")


# --- imports ---

SHADOWED = """
import sys
from cw.payloads import serialize
from cw.payloads.environment import apply_environment, dump_environment, load_environment
from cw.client.functions.functions import FunctionTable
from cw.runner import output
from cw.runner.script import Script
serialize.load_what_errors_take()  # as the forkserver does
environment = load_environment(dump_environment())
object.__setattr__(environment, "path", (sys.argv[1], *environment.path))
class Refuse:
    def find_spec(self, name, path, target=None):
        raise SystemExit("cw imports " + name)
apply_environment(environment)
path_finder = [getattr(finder, "__name__", "") for finder in sys.meta_path].index("PathFinder")
sys.meta_path.insert(path_finder, Refuse())  # what is built in or frozen into the interpreter is out of reach
class C:
    def __init__(self): self.lock = LOCK
import _thread
LOCK = _thread.allocate_lock()
def job(x, y=2):
    return x + y
def broken():
    raise ValueError(LOCK)
table = FunctionTable()
number, payload = table.call(job, (1,), {})
assert serialize.load_call(serialize.pickle_call((1, bytearray(5)), {"a": bytes(40 << 20)}).payload())[0][0] == 1
for call in (lambda: serialize.pickle_call(([C()],), {}, job), lambda: serialize.dump_result(C())):
    try:
        call()
    except TypeError as error:
        assert "lock" in str(error)
    else:
        raise AssertionError
for broken in broken, lambda: undefined_name, lambda: {}.unknown:
    try:
        broken()
    except Exception as error:
        text = str(serialize.load_error(serialize.dump_error(error, {}), "j").__cause__)
        assert "in broken" in text or "in <lambda>" in text
function, args, kwargs = Script(lambda number: table._objects.get(number).payload).prepare(number, payload)
assert function(*args, **kwargs) == 3
print("done")
"""


def test_a_users_module_named_like_one_of_the_standard_library_is_not_in_the_way(tmp_path):
    for name in sys.stdlib_module_names:
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the wrong ' + __name__)")
    root = os.path.dirname(os.path.dirname(os.path.dirname(serialize.__file__)))
    command = [sys.executable, "-c", SHADOWED, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("done\n", "")


@given(st.binary(min_size=1, max_size=300))
def test_garbage_raises_and_nothing_else(data):
    with contextlib.suppress(Exception):
        serialize.load(b"\x01" + data)


def test_names_in_values_do_not_matter():
    # What looks like a reference to the script only takes the slower way.
    value = ["__main__", b"\x8c\x08__main__", collections.Counter("__main__")]
    assert serialize.load(serialize.dump(value)) == value
    text = "".join(random.Random(1).choices(string.printable, k=1000)) + "__main__"
    assert serialize.load_call(dump_call((text,), {})) == ((text,), {})


# --- what is only valid in a related process ------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda mp: mp.Pipe()[0], "Connection"),
        (lambda mp: object.__new__(resource_sharer.DupFd), "DupFd"),
        (lambda mp: mp.Queue(), "Queue"),
        (lambda mp: mp.SimpleQueue(), "SimpleQueue"),
        (lambda mp: mp.Lock(), "Lock"),
        (lambda mp: mp.Event(), "Event"),
        (lambda mp: mp.Barrier(2), "Barrier"),
        (lambda mp: mp.Value("i"), "Synchronized"),
        (lambda mp: mp.RawArray("i", 3), "shared memory"),
        (lambda mp: mp.Process(), "Process"),
        (lambda mp: mp.current_process(), "_MainProcess"),
        (lambda mp: mp.managers.SyncManager(), "SyncManager"),
    ],
)  # fmt: skip
def test_what_is_only_valid_in_a_related_process_is_refused_by_name(make, name):
    thing = make(multiprocessing)
    text = rf"multiprocessing's {name} works only in processes that multiprocessing has started"
    with pytest.raises(
        NotPicklable, match=rf"argument 'args' of _f\(\): {text}.* found at args\[0\]\['deep'\]"
    ):
        dump_call(({"deep": [thing]},), {}, _f)
    with pytest.raises(NotPicklable, match=f"the job's result: {text}"):
        serialize.dump_result([thing])
    with pytest.raises(NotPicklable, match=text):  # in what a local function has captured
        FunctionTable().call(lambda: thing, (), {})


def _f(args):
    pass


@pytest.mark.parametrize(
    ("fault", "advice"),
    [(FileNotFoundError(2, "No such file"), "its own machine"),
     (multiprocessing.AuthenticationError("digest"), "restart()")],
)  # fmt: skip
def test_a_proxy_whose_manager_cannot_be_reached_says_what_to_do(fault, advice, monkeypatch):
    def fail(*args, **kwargs):
        raise fault

    proxy = managers.ListProxy(managers.Token("list", "/nowhere", "1"), "pickle", authkey=b"", incref=False)
    payload = serialize.dump(proxy)
    monkeypatch.setattr(managers, "RebuildProxy", fail)
    with pytest.raises(ConnectionError, match=re.escape(advice)) as caught:
        serialize.load(payload)
    assert caught.value.__cause__ is fault and os.uname().nodename in str(caught.value)


def test_shared_memory_by_name_and_words_that_look_like_it_travel():
    memory = shared_memory.SharedMemory(create=True, size=10)
    try:
        again = serialize.load(serialize.dump(["multiprocessing.connection", memory]))
        assert again[0] == "multiprocessing.connection" and again[1].name == memory.name
        again[1].close()
    finally:
        memory.close()
        memory.unlink()


def test_an_exception_that_is_forgotten_keeps_no_frame_of_it_or_of_those_behind_it_alive():
    class Big:
        pass

    def fail():
        big = Big()
        watched.append(weakref.ref(big))
        raise KeyError("the first")

    watched = []
    gc.disable()
    try:
        try:
            try:
                fail()
            except KeyError as error:
                raise ValueError("the second") from error
        except ValueError as error:
            kept = error
        assert watched[0]() is not None
        serialize.forget_tracebacks(kept)
        assert watched[0]() is None and isinstance(kept.__cause__, KeyError)
    finally:
        gc.enable()
