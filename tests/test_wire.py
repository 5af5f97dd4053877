"""What goes in comes out, however the bytes arrive; what is not a message is a ProtocolError and costs nothing."""

import fcntl
import json
import mmap
import os
import random
import resource
import struct
import tracemalloc
import weakref

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from cw.errors import ProtocolError
from cw.net import batches, memory, wire
from cw.net import messages as m
from cw.net.schema import SPECS

F_SEAL_FUTURE_WRITE = 0x10  # of fcntl(2); Python has no name for it

HELLO = m.Hello("client", "ab" * 16, "cd" * 16, m.PROTOCOL, [3, 11], "0.1", "node7", 4711, {})
SUBMIT = m.Submit([7, 8], [1, 1], [0, 2], [b"seven", b"eight!"])
LARGE_OBJECT = m.Objects([1], [2], [m.VALUE], [(1,)], [bytes(2 * wire.LARGE)])
KIND_OF = {cls: spec.kind for cls, spec in SPECS.items()}
# One for each kind: of two, what a decoder makes that expects anything.
SPEC_BY_KIND = {spec.kind: spec for spec in reversed(SPECS.values())}
RECORDS = [spec for spec in SPEC_BY_KIND.values() if not spec.is_batch]
BATCHES = [spec for spec in SPEC_BY_KIND.values() if spec.is_batch]


def bytes_of(*messages):
    return b"".join(
        bytes(buffer) for message in messages for frame in wire.encode(message) for buffer in frame
    )


def frame(kind, body, flags=0, zero=0, size=None):
    return wire.HEADER.pack(len(body) if size is None else size, kind, flags, zero) + body


def batch(cls, count, columns, sizes=(), payloads=b"", flags=0):
    """A frame with whatever its fields say."""
    body = struct.pack("<I", count) + columns + struct.pack(f"<{len(sizes)}Q", *sizes) + payloads
    return frame(KIND_OF[cls], body, flags)


def plain(message):
    """The message with its payloads as bytes: large ones arrive as memoryviews."""
    if "payloads" in message._fields:
        return message._replace(payloads=[bytes(payload) for payload in message.payloads])
    return type(message)(*message)


def join(messages):
    """Batches of one kind that follow each other as one: large ones are cut into several on their way."""
    joined = []
    for message in map(plain, messages):
        if joined and type(joined[-1]) is type(message) and SPECS[type(message)].is_batch:
            joined[-1] = type(message)(*([*a, *b] for a, b in zip(joined[-1], message, strict=True)))
        else:
            joined.append(message)
    return joined


def decode(data, decoder=None, chunks=None):
    """Feed the data in chunks of these sizes (the last one as often as needed), as a socket's reader does:
    straight into `direct()` where there is one."""
    decoder = decoder or wire.Decoder()
    found, position, sizes = [], 0, list(chunks or [len(data) or 1])
    while position < len(data):
        size = sizes.pop(0) if len(sizes) > 1 else sizes[0]
        target = decoder.direct()
        if target is None:
            part = data[position : position + size]
            found += decoder.feed(part)
        else:
            part = data[position : position + min(size, len(target))]
            target[: len(part)] = part
            found += decoder.received(len(part))
        position += len(part)
    return found


@pytest.fixture(scope="class")  # that is once for each test, of all whose examples hypothesis makes up
def small_frames():
    """Frames, large payloads and pieces of a few bytes, so that short messages show what long ones do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "LARGE", 40)
        patch.setattr(batches, "LARGE", 40)
        patch.setattr(batches, "FRAME", 128)
        patch.setattr(wire, "PIECE", 25)
        yield


# --- any message ------------------------------------------------------------------------------

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
_values = {
    bool: st.booleans(),
    int: st.integers(0, 2**64 - 1),
    str: st.text(),
    list: st.lists(_json, max_size=3),
    dict: st.dictionaries(st.text(), _json, max_size=3),
    object: _json.filter(lambda value: not isinstance(value, bool)),
    (int, float): st.floats(allow_nan=False, allow_infinity=False),
}
_entries = {
    "B": st.integers(0, 2**8 - 1),
    "H": st.integers(0, 2**16 - 1),
    "I": st.integers(0, 2**32 - 1),
    "Q": st.integers(0, 2**64 - 1),
    "f": st.floats(width=32, allow_nan=False),
    "N": st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple),
}
_records = st.one_of(
    [st.builds(spec.cls, *(_values[field.types] for field in spec.fields)) for spec in RECORDS]
)


@st.composite
def _batches(draw, with_payloads=None, max_size=9):
    specs = [spec for spec in BATCHES if with_payloads in (None, spec.has_payloads)]
    spec = draw(st.sampled_from(specs))
    columns = [_entries[code] for code in spec.codes]
    if spec.has_payloads:
        columns.append(st.binary(max_size=30) | st.binary(min_size=100, max_size=140))
    rows = draw(st.lists(st.tuples(*columns), max_size=max_size))
    return spec.cls(*([row[index] for row in rows] for index in range(len(columns))))


_messages = _records | _batches() | _batches(with_payloads=False, max_size=40)


@settings(max_examples=200, deadline=None)
@given(st.lists(_messages, max_size=4), st.lists(st.integers(1, 50), min_size=1, max_size=12))
def test_messages_come_out_as_they_went_in_however_they_are_cut(small_frames, messages, chunks):
    assert join(decode(bytes_of(*messages), chunks=chunks)) == join(messages)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(_batches(with_payloads=True), max_size=3), st.lists(_records, max_size=9), st.randoms())
def test_control_frames_may_come_between_any_two_frames_of_the_data_lane(small_frames, data, control, random):
    lanes = [[f for message in lane for f in wire.encode(message)] for lane in (data, control)]
    stream = b""
    while any(lanes):
        lane = random.choice([lane for lane in lanes if lane])
        stream += b"".join(map(bytes, lane.pop(0)))
    found = decode(stream, chunks=[random.randint(1, 90) for _ in range(20)])
    assert join(f for f in found if "payloads" in f._fields) == join(data)
    assert [f for f in found if "payloads" not in f._fields] == control


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(1, 80))
def test_garbage_is_a_protocol_error_or_waits_for_more(small_frames, garbage, chunk):
    try:
        decode(garbage, chunks=[chunk])
    except ProtocolError as error:
        assert str(error)


@settings(max_examples=300, deadline=None)
@given(_messages, st.data())
def test_a_message_with_a_wrong_byte_is_at_worst_a_protocol_error(small_frames, message, data):
    encoded = bytearray(bytes_of(message))
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    allocated = []
    decoder = wire.Decoder(lambda size: allocated.append(size) or memoryview(bytearray(min(size, 1000))))
    try:
        decode(bytes(encoded), decoder, chunks=[data.draw(st.integers(1, 80))])
    except ProtocolError as error:
        assert str(error)
    assert all(wire.LARGE < size <= wire.MAX_PAYLOAD for size in allocated)


@settings(max_examples=100, deadline=None)
@given(st.lists(_messages, min_size=1, max_size=3), st.data())
def test_what_is_cut_short_gives_only_what_is_whole(small_frames, messages, data):
    whole = bytes_of(*messages)
    cut = data.draw(st.integers(0, len(whole) - 1))
    expected = list(map(plain, decode(whole)))
    decoder = wire.Decoder()
    first = list(map(plain, decode(whole[:cut], decoder)))
    assert len(first) < len(expected)
    assert first + list(map(plain, decode(whole[cut:], decoder))) == expected


# --- frames -----------------------------------------------------------------------------------


def test_a_message_fed_byte_by_byte_comes_with_its_last_byte():
    data = bytes_of(SUBMIT)
    decoder = wire.Decoder()
    assert [decoder.feed(data[i : i + 1]) for i in range(len(data))] == [[]] * (len(data) - 1) + [[SUBMIT]]


def test_two_messages_in_one_chunk_come_together_and_a_third_waits_for_its_end():
    data = bytes_of(HELLO, SUBMIT, HELLO)
    decoder = wire.Decoder()
    assert decoder.feed(data[:-1]) == [HELLO, SUBMIT]
    assert decoder.feed(memoryview(data)[-1:]) == [HELLO]


@pytest.mark.parametrize("cls", [spec.cls for spec in BATCHES])
def test_a_batch_of_nothing_is_a_message_too(cls):
    # A worker that has nothing to give back answers a Recall with it.
    empty = cls(*([] for _ in cls._fields))
    assert decode(bytes_of(empty)) == [empty]


def test_a_batch_of_many_is_cut_into_frames_of_bounded_size():
    count = 100_000
    message = m.Dispatch(range(count), *([n] * count for n in (1, 9, 2, 3, 1)), [b"12345678"] * count)
    sizes = [sum(map(len, f)) for f in wire.encode(message)]
    assert len(sizes) > 1 and max(sizes) < 2 * batches.FRAME
    expected = m.Dispatch(*map(list, message))
    assert join(decode(bytes_of(message), chunks=[100_000])) == [expected]
    stops = m.Stop(list(range(count)))
    assert max(sum(map(len, f)) for f in wire.encode(stops)) < 2 * batches.FRAME
    assert join(decode(bytes_of(stops))) == [stops]


def test_payloads_are_opaque():
    payloads = [b"\0", b"\xff" * 300, bytes(range(256)), b"", frame(1, b"[]")]
    message = m.Submit([1, 2, 3, 4, 5], [0] * 5, [0] * 5, payloads)
    assert decode(bytes_of(message)) == [message]


def test_the_format_is_what_the_documentation_says():
    assert bytes_of(m.Recall(3)) == struct.pack("<IBBH", 3, 12, 0, 0) + b"[3]"
    body = struct.pack("<I 2Q 2I 2I 2Q".replace(" ", ""), 2, 7, 8, 1, 1, 0, 2, 5, 6) + b"seven" + b"eight!"
    assert bytes_of(SUBMIT) == struct.pack("<IBBH", len(body), 66, 0, 0) + body
    single = m.Submit([7], [1], [0], [b"seven"])
    body = struct.pack("<I Q I I Q".replace(" ", ""), 1, 7, 1, 0, 5) + b"seven"
    assert bytes_of(single) == struct.pack("<IBBH", len(body), 66, 0, 0) + body


def test_objects_go_one_in_a_frame_and_their_needs_as_numbers():
    message = m.Objects([9, 9], [1, 2], [m.VALUE, m.FUNCTION], [(), (1, 7)], [b"v", b"ff"])
    first = struct.pack("<I Q I B I Q".replace(" ", ""), 1, 9, 1, 1, 0, 1) + b"v"
    second = struct.pack("<I Q I B I 2I Q".replace(" ", ""), 1, 9, 2, 0, 2, 1, 7, 2) + b"ff"
    assert bytes_of(message) == frame(64, first) + frame(64, second)
    assert decode(bytes_of(message))[1] == m.Objects([9], [2], [m.FUNCTION], [(1, 7)], [b"ff"])
    two = batch(m.Objects, 2, struct.pack("<2Q2I2B2I2I", 9, 9, 1, 2, 1, 0, 0, 2, 1, 7), [1, 2], b"vff")
    assert decode(two) == [message]  # more in one frame are read, too
    (large,) = decode(bytes_of(LARGE_OBJECT), chunks=[1000])
    assert plain(large) == LARGE_OBJECT


# --- lanes ------------------------------------------------------------------------------------


def test_payloads_and_what_must_not_overtake_them_go_in_the_data_lane():
    data = {
        m.Objects,
        m.Submit,
        m.SubmitApart,
        m.Dispatch,
        m.Run,
        m.Results,
        m.JobResults,
        m.NotEntered,
        m.Forget,
        m.Avoid,
        m.Alternatives,
        m.Drop,
        m.ResubmitEnd,
        m.ResultHost,
        m.WantsResultHost,
        m.Depth,
        m.Promise,
        m.FunctionName,
        m.SnapshotReport,
        m.Fetch,
        m.Output,
        m.JobOutput,
        m.OutputHost,
        m.Kept,
        m.JobKept,
        m.Printed,
    }
    for cls in SPECS:
        assert wire.is_control(cls(*cls._fields)) == (cls not in data)


# --- large payloads ---------------------------------------------------------------------------


def test_a_large_payload_travels_in_pieces_without_being_copied_on_the_way_out():
    payload = bytes(range(256)) * (12 * 1024) + b"end"
    frames = list(wire.encode(m.Submit([1, 2], [3, 3], [0, 0], [payload, b"small"])))
    assert [sum(map(len, f)) for f in frames[1:4]] == [wire.PIECE + 8, wire.PIECE + 8, wire.PIECE + 8]
    assert all(f[1].obj is payload for f in frames[1:5])
    data = b"".join(bytes(buffer) for f in frames for buffer in f)
    large, small = decode(data, chunks=[100_000])
    assert plain(large) == m.Submit([1], [3], [0], [payload])
    assert small == m.Submit([2], [3], [0], [b"small"])


def test_the_socket_may_write_a_large_payload_where_it_stays():
    payload = bytes(300_000)
    memories = []

    def allocate(size):
        memories.append(memoryview(bytearray(size)))
        return memories[-1]

    decoder = wire.Decoder(allocate)
    data = bytes_of(m.Results([1], [m.DONE], [0.5], [payload]))
    start = len(data) - len(payload)  # one piece
    assert decoder.direct() is None
    assert decoder.feed(data[: start + 10]) == []
    target = decoder.direct()
    assert len(target) == len(payload) - 10 and target.obj is memories[0].obj
    target[:1000] = b"x" * 1000
    assert decoder.received(1000) == []
    assert len(decoder.direct()) == len(payload) - 1010
    (message,) = decoder.received(len(payload) - 1010)
    assert decoder.direct() is None
    assert message.payloads[0].obj is memories[0].obj and len(memories) == 1
    assert bytes(message.payloads[0][10:1010]) == b"x" * 1000


@pytest.mark.parametrize("size", [1000, 4096, 256 * 1024])
def test_a_large_payload_for_a_memory_file_is_written_to_it_without_a_fault_for_each_page(size):
    payload = random.Random(size).randbytes(2 * wire.PIECE + 12345)
    data = memoryview(bytes_of(m.Results([1], [m.DONE], [0.5], [payload]), SUBMIT))
    decoder, found = wire.Decoder(memory.allocate), []
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for start in range(0, len(data), size):
        assert decoder.direct() is None
        found += decoder.feed(data[start : start + size])
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    assert faults < len(payload) // mmap.PAGESIZE // 2
    results, submit = found
    assert submit == SUBMIT and memory.file_of(results.payloads[0])
    assert plain(results) == m.Results([1], [m.DONE], [0.5], [payload])


def test_a_memory_file_that_the_system_has_no_room_for_costs_its_sender_the_connection():
    fd = os.memfd_create("full", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * wire.LARGE)
    file = memory.mapped(fd, 2 * wire.LARGE)
    decoder = wire.Decoder(lambda size: file)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, F_SEAL_FUTURE_WRITE)  # it takes no bytes, as a full one
    with pytest.raises(ProtocolError, match="no memory"):
        decoder.feed(bytes_of(m.Results([1], [m.DONE], [0.5], [bytes(2 * wire.LARGE)])))


def test_control_messages_overtake_a_large_payload_between_its_pieces():
    head, *pieces = wire.encode(m.Submit([1], [3], [0], [bytes(3 * wire.PIECE)]))
    decoder = wire.Decoder()
    assert decoder.feed(b"".join(head)) == []
    for number, piece in enumerate(pieces[:-1]):
        assert decoder.feed(b"".join(map(bytes, piece)) + bytes_of(m.Cancel([number]))) == [
            m.Cancel([number])
        ]
    (message,) = decoder.feed(b"".join(map(bytes, pieces[-1])))
    assert plain(message) == m.Submit([1], [3], [0], [bytes(3 * wire.PIECE)])


def test_a_large_payload_that_is_aborted_is_dropped_with_its_memory_and_the_next_message_comes():
    memories = []

    class Memory(bytearray):
        """One that can be referred to weakly."""

    def allocate(size):
        memory = Memory(size)
        memories.append(weakref.ref(memory))
        return memoryview(memory)

    head, *pieces = wire.encode(m.Submit([1], [3], [0], [bytes(3 * wire.PIECE)]))
    decoder = wire.Decoder(allocate)
    begun = b"".join(map(bytes, [*head, *pieces[0]]))
    for data in (begun, bytes_of(m.Cancel([1])), wire.ABORT[0][:3]):
        decoder.feed(data)
    assert memories[0]() is not None
    assert decoder.feed(wire.ABORT[0][3:] + bytes_of(SUBMIT)) == [SUBMIT]
    assert memories[0]() is None and decoder.direct() is None
    assert plain(
        *decode(begun + wire.ABORT[0] + bytes_of(m.Submit([2], [3], [0], [bytes(200_000)])))
    ) == m.Submit([2], [3], [0], [bytes(200_000)])


def test_payloads_keep_their_order_around_a_large_one():
    sizes = [10, wire.LARGE + 1, 20, wire.LARGE, wire.LARGE + 1, wire.LARGE + 1, 0]
    message = m.Results(
        list(range(7)), [0] * 7, [0.0] * 7, [bytes([n]) * size for n, size in enumerate(sizes)]
    )
    assert join(decode(bytes_of(message), chunks=[50_000])) == [message]


# --- memory files -----------------------------------------------------------------------------


def attached(payload):
    """A Submit with this payload for a peer on the same machine: its bytes, and the file that goes with them."""
    ((head, attachment),) = wire.encode(m.Submit([1], [3], [0], [payload]), with_files=True)
    assert type(attachment) is wire.Attachment and len(attachment) == 0
    return head, attachment.memory


def file_of(size, seals=fcntl.F_SEAL_SHRINK):
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    return fd


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_on_one_machine_a_large_payload_is_a_file_beside_its_frame():
    payload = os.urandom(2 * batches.FRAME)
    head, file = attached(payload)
    assert len(head) < 100
    decoder = wire.Decoder()
    decoder.files.append(os.dup(file.fd))
    (message,) = decoder.feed(head)
    assert plain(message) == m.Submit([1], [3], [0], [payload])
    assert not decoder.files
    # What is written over there stays there: who else holds the file sees nothing of it.
    message.payloads[0][0] ^= 1
    assert bytes(file) == payload
    # Passed on, it is the same file, not a copy.
    assert attached(message.payloads[0])[1] is message.payloads[0].obj


def test_large_payloads_and_small_ones_keep_their_order_with_files_too():
    sizes = [10, wire.LARGE + 1, 2 * batches.FRAME, 20]
    message = m.Results([1, 2, 3, 4], [0] * 4, [0.0] * 4, [os.urandom(size) for size in sizes])
    decoder, found = wire.Decoder(), []
    for *buffers, last in wire.encode(message, with_files=True):
        if type(last) is wire.Attachment:
            decoder.files.append(os.dup(last.memory.fd))
        else:
            buffers.append(last)
        found += decoder.feed(b"".join(map(bytes, buffers)))
    assert join(found) == [message]


@pytest.mark.parametrize("size", [0, 1, 2 * batches.FRAME - 1, 2 * batches.FRAME + 1])
def test_a_memory_file_of_another_size_is_refused(size):
    head, _ = attached(bytes(2 * batches.FRAME))
    decoder = wire.Decoder()
    fd = file_of(size)
    decoder.files.append(fd)
    with pytest.raises(ProtocolError, match="memory file"):
        decoder.feed(head)
    assert not is_open(fd)


def test_a_memory_file_that_could_shrink_under_its_reader_is_refused():
    head, _ = attached(bytes(2 * batches.FRAME))
    decoder = wire.Decoder()
    decoder.files.append(file_of(2 * batches.FRAME, seals=0))
    with pytest.raises(ProtocolError, match="sealed"):
        decoder.feed(head)


def test_what_is_no_memory_file_is_refused():
    head, _ = attached(bytes(2 * batches.FRAME))
    for fd in (os.pipe()[0], os.open("/dev/zero", os.O_RDONLY)):
        decoder = wire.Decoder()
        decoder.files.append(fd)
        with pytest.raises(ProtocolError):
            decoder.feed(head)
        assert not is_open(fd)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_frame_whose_memory_file_is_missing_is_refused(count):
    data = batch(m.Submit, count, bytes(16 * count), [5] * count, flags=2)
    with pytest.raises(ProtocolError, match="without its memory file"):
        wire.Decoder().feed(data)


def test_files_that_came_and_were_not_used_are_closed():
    decoder = wire.Decoder()
    fds = [file_of(10), file_of(20)]
    decoder.files.extend(fds)
    decoder.close()
    assert not any(map(is_open, fds))


# --- what is refused --------------------------------------------------------------------------


def large_head(size, count=1, flags=1, cls=m.Submit):
    columns = struct.pack(f"<{count}Q{2 * count}I", *range(3 * count))
    return batch(cls, count, columns, [size] * count, flags=flags)


def objects_of(needs, count):
    """One object, with room for these needs, that says that it has `count`."""
    return batch(m.Objects, 1, struct.pack("<QIBI", 0, 1, 0, count) + needs, [4], b"four")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(frame(99, b""), "unknown kind 99", id="unknown kind"),
        pytest.param(frame(1, b"[]", zero=1), "kind 1", id="header not zero"),
        pytest.param(frame(255, b"", size=5), "belongs to no payload", id="piece of nothing"),
        pytest.param(wire.ABORT[0], "abort mark without a payload", id="abort mark of nothing"),
        pytest.param(
            large_head(2 * wire.LARGE) + 2 * wire.ABORT[0], "abort mark without", id="aborted twice"
        ),
        pytest.param(
            large_head(2 * wire.LARGE) + frame(wire.ABORT_KIND, b"", size=1),
            "abort",
            id="abort mark with a body",
        ),
        pytest.param(
            bytes_of(m.Submit([1], [1], [0], [bytes(2 * wire.LARGE)])) + wire.ABORT[0],
            "abort",
            id="abort mark late",
        ),
        pytest.param(
            large_head(2 * wire.LARGE) + wire.ABORT[0] + frame(255, b"", size=5),
            "belongs to no payload",
            id="piece of what was aborted",
        ),
        pytest.param(frame(1, b"{"), "not JSON", id="broken JSON"),
        pytest.param(frame(1, b"\xff\xfe\x00"), "not JSON", id="not text"),
        pytest.param(frame(1, b"[" * 100_000), "not JSON", id="nested too deep"),
        pytest.param(frame(12, b'["3"]'), "Recall.count is a str", id="wrong type"),
        pytest.param(frame(12, b"[true]"), "Recall.count is a bool", id="bool for int"),
        pytest.param(frame(12, b"[-1]"), "Recall.count is not from 0", id="negative"),
        pytest.param(frame(12, b"[18446744073709551616]"), "Recall.count is not from 0", id="too large"),
        pytest.param(frame(12, b"[1.5]"), "Recall.count is a float", id="float for int"),
        pytest.param(frame(12, b"[null]"), "Recall.count is a NoneType", id="null"),
        pytest.param(frame(12, b"[1, 2]"), "other fields than count", id="too many fields"),
        pytest.param(frame(12, b'{"count": 1}'), "other fields", id="object"),
        pytest.param(frame(KIND_OF[m.Stop], b"\1\0"), "cut short", id="no count"),
        pytest.param(batch(m.Stop, 2, bytes(8)), "2 entries in 12 bytes", id="column too short"),
        pytest.param(batch(m.Stop, 1, bytes(9)), "left over", id="column too long"),
        pytest.param(batch(m.Submit, 1, bytes(12)), "cut short", id="no sizes"),
        pytest.param(batch(m.Submit, 2, bytes(32)), "2 entries", id="no sizes of two"),
        pytest.param(batch(m.Submit, 1, bytes(16), [5], b"four"), "size", id="payload too short"),
        pytest.param(batch(m.Submit, 1, bytes(16), [3], b"four"), "size", id="payload too long"),
        pytest.param(batch(m.Submit, 2, bytes(32), [3, 2], b"four"), "sizes", id="payloads too short"),
        pytest.param(batch(m.Submit, 2, bytes(32), [2**64 - 1, 5], b"four"), "sizes", id="sizes overflow"),
        pytest.param(batch(m.Submit, 0, b"", [], b"four"), "sizes", id="payload of nobody"),
        pytest.param(objects_of(b"", 9), "9 needs in", id="needs too short"),
        pytest.param(objects_of(b"", 2**32 - 1), "4294967295 needs in", id="more needs than memory"),
        pytest.param(objects_of(bytes(40000), 10000), "10000 needs in", id="more needs than allowed"),
        pytest.param(objects_of(bytes(8), 1), "size", id="needs too long"),
        pytest.param(large_head(wire.LARGE), "impossible size", id="large and not large"),
        pytest.param(large_head(0), "impossible size", id="large and empty"),
        pytest.param(large_head(2 * wire.LARGE, count=2), "impossible size", id="two large in one"),
        pytest.param(large_head(2 * wire.LARGE, count=0), "impossible size", id="large of none"),
        pytest.param(large_head(2 * wire.LARGE) + frame(255, b"", size=0), "piece of 0", id="empty piece"),
        pytest.param(
            large_head(2 * wire.LARGE) + frame(255, b"", size=2 * wire.LARGE + 1),
            "piece of",
            id="piece too long",
        ),
        pytest.param(large_head(2 * wire.LARGE) + bytes_of(SUBMIT), "in the middle", id="batch within large"),
        pytest.param(
            large_head(2 * wire.LARGE) + bytes_of(m.Submit([1], [1], [0], [b"one"])),
            "in the middle",
            id="one job within large",
        ),
        pytest.param(
            large_head(2 * wire.LARGE) + large_head(2 * wire.LARGE), "in the middle", id="two large"
        ),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_in_what(data, why):
    with pytest.raises(ProtocolError, match=why):
        wire.Decoder().feed(data)
    with pytest.raises(ProtocolError, match=why):
        decode(data, chunks=[1 + len(data) // 50])


def test_an_oversized_frame_is_refused_by_its_header_alone():
    with pytest.raises(ProtocolError, match=f"{wire.MAX_BODY + 1} bytes"):
        wire.Decoder().feed(frame(1, b"", size=wire.MAX_BODY + 1))
    decoder = wire.Decoder()
    decoder.max_body = 100
    assert decoder.feed(frame(12, b"[1]" + b" " * 97)) == [m.Recall(1)]
    with pytest.raises(ProtocolError, match="101 bytes"):
        decoder.feed(frame(12, b"", size=101))


def test_only_what_is_expected_is_read():
    decoder = wire.Decoder()
    decoder.accepts = frozenset({m.Hello})
    assert decoder.feed(bytes_of(HELLO)) == [HELLO]
    for other in (SUBMIT, m.Goodbye("x"), m.Stop([1]), LARGE_OBJECT):
        with pytest.raises(ProtocolError, match=f"{type(other).__name__} is not expected"):
            decode(bytes_of(other), decoder)
        decoder = wire.Decoder()
        decoder.accepts = frozenset({m.Hello})


def test_a_kind_of_two_messages_is_that_which_is_expected():
    for_client, for_master = (
        m.JobResults([7], [m.DONE], [0.5], [b"x"]),
        m.Results([7], [m.DONE], [0.5], [b"x"]),
    )
    assert bytes_of(for_client) == bytes_of(for_master)
    for expected in (for_client, for_master):
        decoder = wire.Decoder()
        decoder.accepts = frozenset({type(expected), m.Submit})
        (found,) = decoder.feed(bytes_of(for_client))
        assert type(found) is type(expected) and found == expected
        decoder.accepts = frozenset({m.Submit})
        with pytest.raises(ProtocolError, match="Results is not expected"):
            decoder.feed(bytes_of(for_client))


def test_the_size_of_a_large_payload_is_checked_before_memory_for_it_is_asked():
    asked = []

    def allocate(size):
        asked.append(size)
        return memoryview(bytearray(100))

    for size in (0, 1, wire.LARGE, wire.MAX_PAYLOAD + 1, 2**64 - 1):
        with pytest.raises(ProtocolError, match="impossible size"):
            wire.Decoder(allocate).feed(large_head(size))
    assert not asked
    wire.Decoder(allocate).feed(large_head(wire.MAX_PAYLOAD))
    assert asked == [wire.MAX_PAYLOAD]


@pytest.mark.parametrize("error", [OSError(12, "Cannot allocate memory"), MemoryError()])
def test_a_payload_for_which_there_is_no_memory_costs_its_sender_the_connection_and_nobody_else(error):
    def allocate(size):
        raise error

    with pytest.raises(ProtocolError, match="no memory"):
        wire.Decoder(allocate).feed(large_head(wire.MAX_PAYLOAD))


@pytest.mark.parametrize("cls", [spec.cls for spec in BATCHES])
@pytest.mark.parametrize("flags", [0, 1])
def test_a_count_that_lies_costs_no_memory(cls, flags):
    data = batch(cls, 2**32 - 1, bytes(64), flags=flags)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="4294967295 entries in 68 bytes"):
            wire.Decoder(pytest.fail).feed(data)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_memory_for_a_large_payload_is_not_touched_before_it_arrives():
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    before = resident()
    decoder = wire.Decoder()
    decoder.feed(large_head(1024**3))
    assert resident() < before + 100 * 1024**2


def test_a_frame_in_crumbs_is_not_copied_at_each_of_them():
    data = bytes_of(m.Submit([1], [1], [0], [bytes(wire.LARGE)]))
    decoder = wire.Decoder()
    copied = []
    for start in range(0, len(data) - 1, 97):
        decoder.feed(data[start : start + 97])
        copied.append(id(decoder._tail))
    assert len(set(copied[2:-1])) == 1  # it grows in place


# --- a runner's hot path ----------------------------------------------------------------------

_result = st.tuples(
    st.integers(0, 2**64 - 1),
    st.sampled_from([m.DONE, m.ERROR]),
    st.floats(0, 1e6, width=32),
    st.binary(max_size=50),
)


@given(_result)
def test_encode_result_is_encode_for_one_result(result):
    number, status, seconds, payload = result
    encoded = wire.encode_result(*result)
    assert encoded == bytes_of(m.Results([number], [status], [seconds], [payload]))
    assert decode(encoded) == [m.Results([number], [status], [seconds], [payload])]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(_result | st.builds(m.BigResult, *[st.integers(0, 9)] * 4) | st.just(m.Dropped()), max_size=8),
    st.lists(st.integers(1, 90), min_size=1, max_size=9),
)
def test_split_results_finds_what_encode_result_wrote_and_hands_out_the_rest(written, cuts):
    data = b"".join(bytes_of(one) if hasattr(one, "_fields") else wire.encode_result(*one) for one in written)
    taken, rest, position = [], b"", 0
    while position < len(data):
        size = cuts.pop(0) if len(cuts) > 1 else cuts[0]
        rest = wire.split_results(
            rest + data[position : position + size],
            lambda *one: taken.append(one),
            lambda frame: taken.extend(wire.Decoder().feed(frame)) is None,
        )
        position += size
    assert rest == b""
    assert taken == written  # in order


def test_a_frame_that_cannot_be_taken_now_waits_with_all_behind_it():
    big, result = bytes_of(m.BigResult(1, m.DONE, 0, 9)), wire.encode_result(7, m.DONE, 0.25, b"payload")
    taken = []
    rest = wire.split_results(result + big + result, lambda *one: taken.append(one), lambda frame: False)
    assert rest == big + result
    assert taken == [(7, m.DONE, 0.25, b"payload")]


def test_a_result_cut_short_waits_for_its_rest():
    data = wire.encode_result(7, m.DONE, 0.25, b"payload")
    for cut in range(len(data)):
        taken = []
        rest = wire.split_results(data[:cut], lambda *one, taken=taken: taken.append(one), taken.append)
        assert (rest, taken) == (data[:cut], [])
        assert (
            wire.split_results(rest + data[cut:], lambda *one, taken=taken: taken.append(one), taken.append)
            == b""
        )
        assert taken == [(7, m.DONE, 0.25, b"payload")]


@given(_records)
def test_records_are_what_json_has(message):
    assume(type(message) is not m.Drop)
    encoded = bytes_of(message)
    assert json.loads(encoded[wire.HEADER.size :]) == list(message)
