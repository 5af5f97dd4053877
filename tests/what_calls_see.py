"""A user's script: each row is a few calls. It prints their results; `test_what_a_call_sees` has the right ones.

python what_calls_see.py SLOTS DIRECTORY
"""

import collections
import copy
import functools
import json
import os
import random
import sys
import threading
import time

import numpy

import cw
from cw.client.functions import records

records.LOOK_SECONDS = 60  # a change in place is seen at each submit, however busy the machine is

ROWS = {}


def row(function):
    ROWS[function.__name__] = function
    return function


class Walk:
    def __init__(self):
        self.seen = []

    def step(self, n):
        self.seen.append(n)
        return list(self.seen)

    def length(self, _=None):
        return len(self.seen)

    def is_same(self, other, seen):
        return other is self, seen is self.seen, other.seen is seen


class Call:
    def __init__(self):
        self.n = 0

    def __call__(self, _=None):
        self.n += 1
        return self.n


class Estimator:
    def fit(self, x):
        if hasattr(self, "coef"):
            return f"warm start from {self.coef}"
        self.coef = x
        return f"cold {x}"


def add_to(acc, x):
    acc.append(x)
    return list(acc)


def make_closure():
    acc = []

    def f(x):
        acc.append(x)
        return list(acc)

    return f


def make_with_default():
    def f(x, acc=[], *, more=[]):  # noqa: B006
        acc.append(x)
        more.append(x)
        return acc + more

    return f


def make_with_attribute():
    def f(x):
        f.acc.append(x)
        return list(f.acc)

    f.acc = []
    return f


def results(futures):
    return [future.result() for future in list(futures)]


# --- what is taken by value is fresh for each call ---


@row
def one_object(executor):
    walk = Walk()
    found = [executor.submit(walk.step, n).result() for n in (1, 2, 3)]
    at_once = results([executor.submit(walk.step, n) for n in (1, 2, 3)])
    return found, at_once, walk.seen


@row
def equal_objects(executor):
    return [executor.submit(Walk().step, n).result() for n in (7, 8)]


@row
def an_object_in_map(executor):
    walk = Walk()
    return [list(executor.map(walk.step, (1, 2, 3), chunksize=size)) for size in (1, 2, 3)]


@row
def large_objects_in_map(executor):
    walk = Walk()
    walk.seen = list(range(5000))
    return [[len(each) for each in executor.map(walk.step, (1, 2, 3), chunksize=size)] for size in (1, 3)]


@row
def callable_objects(executor):
    call = Call()
    one = results(executor.submit(call) for _ in range(3))
    three = results(executor.submit(Call()) for _ in range(3))
    return one, three, list(executor.map(call, range(4), chunksize=2)), call.n


@row
def partials(executor):
    part = functools.partial(add_to, [])
    one = results(executor.submit(part, n) for n in range(3))
    own = results(executor.submit(functools.partial(add_to, []), n) for n in range(3))
    nested = functools.partial(functools.partial(Walk().step), 5)
    return (
        one,
        own,
        results(executor.submit(nested) for _ in range(2)),
        list(executor.map(part, range(3), chunksize=3)),
    )


@row
def local_functions(executor):
    found = []
    for make in make_closure, make_with_default, make_with_attribute:
        f = make()
        found.append(results(executor.submit(f, n) for n in range(3)))
        found.append(list(executor.map(f, range(3), chunksize=3)))
    return found


def make_constant(a, b="text"):
    def f(*args, c=(1, 2)):
        return a, b, c, args

    return f


@row
def local_functions_that_hold_constants(executor):
    f = make_constant(3)
    found = [executor.submit(f, arg).result() for arg in (1, [1], {"a": [2]})]
    return found, list(executor.map(f, ([1], [2]))), list(executor.map(f, ([1], [2]), chunksize=2))


def make_caller(function):
    return lambda *args: function()


@row
def local_functions_that_hold_functions_of_the_script(executor):
    found = []
    by_cell, by_default = make_caller(read_held), lambda *args, function=read_held: function()
    holds_class = make_caller(Reader)
    for n in range(3):
        HELD[0] = n
        found.append([executor.submit(function).result() for function in (by_cell, by_default)])
        found.append(executor.submit(holds_class).result().value)
        found.append(
            list(executor.map(by_cell, [0, 0])) + list(executor.map(by_default, [0, 0], chunksize=2))
        )
    return found


HELD = [0]


def read_held():
    return HELD[0]


class Reader:
    def __init__(self):
        self.value = HELD[0]


class LargeReader:
    def __init__(self):
        self.values = numpy.zeros(5000)

    def read(self, _=None):
        return read_more(), float(self.values[0])


READ_BY_LARGE = [7]


def read_more():
    return READ_BY_LARGE[0]


@row
def what_the_class_of_a_large_object_reads(executor):
    reader = LargeReader()
    found = [list(executor.map(reader.read, [0], chunksize=size)) for size in (1, 2)]
    READ_BY_LARGE[0] = 8
    return found, list(executor.map(reader.read, [0])), executor.submit(reader.read).result()


@row
def lambdas(executor):
    acc = []
    f = lambda n, own=[]: (acc.append(n), own.append(n), len(acc) + len(own))[-1]  # noqa: E731
    return results(executor.submit(f, n) for n in range(3))


@row
def estimators(executor):
    one = Estimator()
    return results(executor.submit(one.fit, n) for n in range(3)) + list(executor.map(one.fit, range(2)))


@row
def methods_of_built_in_objects(executor):
    stack = collections.deque([3, 2, 1])
    popped = results(executor.submit(stack.pop) for _ in range(3))
    lengths = results(executor.submit([1].__len__) for _ in range(2))
    number = random.Random(1)
    drawn = results(executor.submit(number.random) for _ in range(3))
    return popped, lengths, len(set(drawn)), len(stack)


# --- when values are taken ---


@row
def an_array_changed_in_place(executor):
    found = []
    for size in (3, 2000, 200_000):
        walk = Walk()
        walk.seen = numpy.zeros(size)
        futures = []
        for _ in range(3):
            walk.seen += 1
            futures.append(executor.submit(total, walk))
            futures.append(executor.submit(functools.partial(total, walk)))
            futures.append(executor.submit(lambda: total(walk)))  # noqa: B023
        found.append([future.result() / size for future in futures])
    return found


def total(walk):
    return float(walk.seen.sum())


class Large:
    def __init__(self, size):
        self.values = numpy.zeros(size)

    def __call__(self):
        self.values += 1
        return float(self.values.sum()) / len(self.values)


@row
def a_large_object_is_a_fresh_copy(executor):
    large = Large(500_000)
    found = results(executor.submit(large) for _ in range(5))
    large.values += 10
    return sorted({*found, *results(executor.submit(large) for _ in range(5))}), float(large.values[0])


@row
def arguments(executor):
    argument, futures = [], []
    for n in range(3):
        argument.append(n)
        futures.append(executor.submit(add_to, argument, 9))
    return results(futures), argument


@row
def items_of_map(executor):
    def items():
        item = []
        for n in range(3):
            item.append(n)
            yield item

    return list(executor.map(len, items()))


@row
def items_of_map_in_chunks(executor):
    def items():
        item = []
        for n in range(3):
            item.append(n)
            yield item

    return list(executor.map(len, items(), chunksize=2))


@row
def the_object_of_a_map_is_taken_when_it_is_called(executor):
    walk = Walk()

    def items():
        for n in range(3):
            walk.seen.append(n)
            yield n

    return [list(executor.map(walk.length, items(), chunksize=size)) for size in (1, 2)], walk.length()


RATE, TABLE, CONFIGURATION = 0, [0], {"a": {"b": [0]}}


def read():
    return RATE, TABLE[0], CONFIGURATION["a"]["b"][0], Settings.rates[0], defaults()


def defaults(values=[0]):  # noqa: B006
    return values[0]


class Settings:
    rates = [0]


@row
def globals_at_submit(executor):
    global RATE
    futures = []
    for n in range(10):
        RATE = TABLE[0] = CONFIGURATION["a"]["b"][0] = Settings.rates[0] = defaults.__defaults__[0][0] = n
        futures.append(executor.submit(read))
    return results(futures)


@row
def globals_at_map(executor):
    global RATE, TABLE
    found = []
    for n in range(3):
        RATE = CONFIGURATION["a"]["b"][0] = Settings.rates[0] = defaults.__defaults__[0][0] = n
        TABLE = [n]
        found.append(list(executor.map(lambda _: read(), range(2))))
    return found


def stay_until(path, *_):
    while not os.path.exists(path):
        time.sleep(0.01)
    return read()


@row
def jobs_that_wait_run_with_the_values_of_their_submit(executor):
    global RATE
    path = os.path.join(sys.argv[2], "go")
    futures = []
    for n in range(6):
        RATE = TABLE[0] = CONFIGURATION["a"]["b"][0] = Settings.rates[0] = defaults.__defaults__[0][0] = n
        futures.append(executor.submit(stay_until, path))
    RATE = TABLE[0] = 100
    open(path, "x").close()
    return [values[0:5:2] for values in results(futures)], [values[1] for values in results(futures)]


def die_once(path, walk_length=None):
    try:
        open(path, "x").close()
    except FileExistsError:
        return [*read(), walk_length and walk_length()]
    while not os.path.exists(path + ".changed"):
        time.sleep(0.01)
    os.kill(os.getpid(), 9)


@row
def a_job_that_is_tried_again_runs_with_the_values_of_its_submit(executor):
    global RATE
    path = os.path.join(sys.argv[2], "died")
    walk = Walk()
    walk.seen.append(1)
    RATE = TABLE[0] = CONFIGURATION["a"]["b"][0] = Settings.rates[0] = defaults.__defaults__[0][0] = 7
    future = executor.submit(die_once, path, walk.length)
    RATE = TABLE[0] = CONFIGURATION["a"]["b"][0] = Settings.rates[0] = defaults.__defaults__[0][0] = 8
    walk.seen.append(2)
    open(path + ".changed", "x").close()
    others = results(executor.submit(read) for _ in range(3))
    return future.result(), others


# --- identity ---

MISSING = object()
ONE = [1]
SAME = ONE
PAIR = (ONE, {"one": ONE})
ARRAY = numpy.zeros(4)
VIEW = {"array": ARRAY}


def is_missing(value=MISSING):
    return value is MISSING


def are_same():
    VIEW["array"][0] += 1
    return ONE is SAME, PAIR[0] is ONE, PAIR[1]["one"] is SAME, bool(VIEW["array"] is ARRAY)


@row
def globals_that_share_an_object(executor):
    before = executor.submit(are_same).result()
    ONE.append(2)
    ARRAY[1] = 5
    return (
        before,
        executor.submit(are_same).result(),
        executor.submit(lambda: (SAME, float(VIEW["array"][1]))).result(),
    )


class Turns:
    """Its attribute has values that travel with the class, apart from it, and not at all."""

    value = []


turns = []


def one_turn():
    return "one"


def turns_of_class():
    return Turns.value


def turns_of_global():
    return turns() if callable(turns) else turns


@row
def values_that_come_back(executor):
    """What a name had before is set again, whatever it was in between: a value, a function, nothing, a lock."""
    global turns
    found = []
    for value in ([], 5, [], threading.Lock(), [], None, [], 6, [1], [], 5):
        if value is None:
            del Turns.value
        else:
            Turns.value = value
        turns = one_turn if value is None else value
        for function in turns_of_class, turns_of_global:
            try:
                found.append(executor.submit(function).result())
            except (AttributeError, cw.NotPicklable):
                found.append("not here")
    return found


class Marked:
    def method(self, values=[]):  # noqa: B006
        """Its default is sent apart, and so is its attribute, while it is there."""


def marks():
    return getattr(Marked.method, "mark", "deleted")


@row
def attributes_that_go(executor):
    found = []
    for value in ([1], None, [2], 3, None, [1]):
        if value is None:
            del Marked.method.mark
        else:
            Marked.method.mark = value
        found.append(executor.submit(marks).result())
    return found


@row
def sentinels(executor):
    local = lambda value=MISSING: value is MISSING  # noqa: E731
    return [
        executor.submit(is_missing).result(),
        executor.submit(is_missing, 3).result(),
        executor.submit(local).result(),
        list(executor.map(lambda _: is_missing(), range(2))),
    ]


@row
def objects_that_a_call_shares_with_its_arguments(executor):
    walk = Walk()
    found = [executor.submit(walk.is_same, walk, walk.seen).result()]
    found.append(executor.submit(functools.partial(walk.is_same, walk), walk.seen).result())
    found.append(executor.submit(lambda other: (other is walk, True, True), walk).result())
    found.append(next(executor.map(walk.is_same, [walk], [walk.seen])))
    found.append(next(executor.map(walk.is_same, [walk], [walk.seen], chunksize=2)))
    shared = []
    found.append(executor.submit(lambda a, b: (a is b, a is shared, True), shared, shared).result())
    return found


@row
def objects_that_a_call_shares_with_globals(executor):
    held = ONE
    walk = Walk()
    walk.seen = ONE
    found = [executor.submit(lambda: held is ONE).result(), executor.submit(Holder(ONE)).result()]
    found.append(executor.submit(functools.partial(is_one, ONE)).result())
    return found


@row
def objects_that_a_map_shares_with_globals(executor):
    held = ONE
    return [list(executor.map(lambda _: held is ONE, range(2), chunksize=size)) for size in (1, 2)]


class Holder:
    def __init__(self, held):
        self.held = held

    def __call__(self):
        return self.held is ONE


def is_one(held):
    return held is ONE


@row
def one_class_one_identity(executor):
    def look(walk):
        return type(walk) is Walk, isinstance(walk, Walk), type(copy.deepcopy(walk)) is Walk, walk

    *found, walk = executor.submit(look, Walk()).result()
    return [*found, type(walk) is Walk, executor.submit(Walk).result().seen == []]


# --- code ---


def edited():
    return "first"


@row
def edited_code(executor):
    global edited
    found = [executor.submit(edited).result(), executor.submit(lambda: edited()).result()]

    def edited():
        return "second"

    edited.__qualname__ = "edited"
    found += [executor.submit(edited).result(), executor.submit(lambda: edited()).result()]
    Walk.step, before = (lambda self, n: -n), Walk.step
    found.append(executor.submit(Walk().step, 5).result())
    Walk.step = before
    return [*found, executor.submit(Walk().step, 5).result()]


# --- what jobs leave in the script ---


def with_default(x, acc=[]):  # noqa: B006
    acc.append(x)
    return list(acc)


COUNT, LOADED, OTHER = [0], None, 0


def count():
    COUNT[0] += 1
    return COUNT[0], OTHER


def load_once():
    global LOADED
    was = LOADED is None
    LOADED = LOADED or {"model": 1}
    return was


class Total:
    total = 0

    @classmethod
    def add(cls):
        cls.total += 1
        return cls.total


def memo(function):
    known = {}

    @functools.wraps(function)
    def wrapper(n):
        if n in known:
            return "known"
        known[n] = 1
        return function(n)

    return wrapper


@memo
def remembered(n):
    return "new"


@functools.lru_cache
def cached(n):
    return n * n


def look_at_cache(n):
    value = cached(n)
    return value, cached.cache_info().hits


def tag():
    tag.calls = getattr(tag, "calls", 0) + 1
    return tag.calls


@row
def left_behind(executor):
    """Run on one slot only."""
    global OTHER, LOADED
    found = {}
    found["default"] = results(executor.submit(with_default, n) for n in range(3))
    found["global"] = [number for number, _ in results(executor.submit(count) for _ in range(3))]
    OTHER = 1
    found["global, after another changed"] = executor.submit(count).result()
    COUNT[0] = 10
    found["global, changed by the client"] = executor.submit(count).result()[0]
    found["bound by a job"] = results(executor.submit(load_once) for _ in range(3))
    LOADED = None
    found["classmethod"] = results(executor.submit(Total.add) for _ in range(3))
    found["classmethod in map"] = list(executor.map(lambda _: Total.add(), range(2)))
    found["memo"] = results(executor.submit(remembered, n) for n in (1, 2, 1))
    found["lru_cache"] = results(executor.submit(look_at_cache, 3) for _ in range(3))
    found["attribute"] = results(executor.submit(tag) for _ in range(3))
    Total.total = 100
    found["class, changed by the client"] = executor.submit(Total.add).result()
    found["at home"] = with_default.__defaults__[0], COUNT, Total.total, LOADED, hasattr(tag, "calls")
    return found


# --- what cannot be pickled ---

LOCK = threading.Lock()


def reads_it():
    return LOCK


def helper():
    return LOCK


def may_read_it(really):
    return helper() if really else "not read"


@row
def a_lock(executor):
    found = []
    for call in (
        lambda: executor.submit(reads_it),
        lambda: executor.submit(may_read_it, False),
        lambda: executor.submit(may_read_it, True),
    ):
        try:
            found.append(call().result())
        except Exception as error:
            found.append(
                [type(error).__name__, "'LOCK'" in str(error) or "LOCK" in str(error), "lock" in str(error)]
            )
    return found


if __name__ == "__main__":
    slots = int(sys.argv[1])
    with cw.mp.allocate(slots), cw.ClusterExecutor() as executor:
        for name, function in ROWS.items():
            try:
                found = function(executor)
            except Exception as error:
                found = f"{type(error).__name__}: {error}"
            print(json.dumps([name, found]), flush=True)
