"""A user's script that searches for calls whose view differs between cw and a reference.

    python oracles.py KIND,KIND... EXAMPLES SLOTS         (EXAMPLES < 0: others each time)

It makes small graphs of objects that share and contain each other, changes them at random, and compares what jobs see:
structure, values, and which paths lead to the same object.
"""

import collections
import contextlib
import functools
import os
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy

import cw
from cw.client.functions import records

records.LOOK_SECONDS = 60  # a change in place is seen at each submit, however busy the machine is

# --- what jobs see ---


class Node:
    shared = ["start"]

    def look(self, *args, **kwargs):
        """Describe the object; then change it, which no other call may see."""
        found = describe(self, args, kwargs)
        change(self)
        for arg in args:
            change(arg)
        return found, describe(self, args, kwargs)

    __call__ = look


def with_default(a=["start"], *, b={"start": 1}):  # noqa: B006
    return a, b


with_default.extra = ["start"]


def remember(function):
    known = {"start": 1}

    @functools.wraps(function)
    def wrapper():
        return known

    return wrapper


@remember
def remembered():
    """Its cell is the script's."""


G0 = G1 = G2 = G3 = None


def one_of_ours():
    """A function of the script, as a value: what was data becomes a definition, and data again."""


def describe(*roots):
    """Return a description that is equal for graphs of the same shape."""
    seen = {}

    def of(thing):
        kind = type(thing)
        if thing is None or kind in (int, str, float):
            return thing
        if kind is tuple:
            return ("tuple", *map(of, thing))
        if thing is one_of_ours or thing is Node:
            return thing.__name__
        if id(thing) in seen:
            return ("again", seen[id(thing)])
        number = seen[id(thing)] = len(seen)
        if kind in (list, collections.deque):
            inner = [of(item) for item in thing]
        elif kind is dict:
            inner = [(key, of(value)) for key, value in thing.items()]
        elif kind is set:
            inner = sorted(thing)
        elif kind is numpy.ndarray:
            inner = thing.tolist()
        elif kind is Node:
            inner = [(key, of(value)) for key, value in vars(thing).items()]
        else:
            raise TypeError(kind)
        return kind.__name__, number, inner

    return [of(root) for root in roots]


def change(thing):
    if type(thing) in (list, collections.deque):
        thing.append(len(thing))
    elif type(thing) is dict:
        thing[len(thing)] = len(thing)
    elif type(thing) is set:
        thing.add(len(thing))
    elif type(thing) is numpy.ndarray:
        thing += 1
    elif type(thing) is Node:
        setattr(thing, f"new{len(vars(thing))}", 1)


def put(thing, into):
    if type(into) in (list, collections.deque):
        into.append(thing)
    elif type(into) is dict:
        into[len(into)] = thing
    elif type(into) is Node:
        setattr(into, f"held{len(vars(into))}", thing)


def take_out(thing):
    if type(thing) in (list, collections.deque) and thing:
        thing.pop()
    elif type(thing) is dict and thing:
        thing.popitem()
    elif type(thing) is Node and vars(thing):
        vars(thing).popitem()


COUNT = 0


def new(kind, token):
    """A new object. No two are equal, since a name that is bound to an equal one may count as unchanged."""
    if kind == 0:
        return [token]
    if kind == 1:
        return {"token": token}
    if kind == 2:
        return {token}
    if kind == 3:
        node = Node()
        node.token = token
        return node
    if kind == 4:
        return numpy.full(3, token)
    if kind == 5:
        return collections.deque([token])
    if kind == 6:
        return ([token], "tuple")
    if kind == 7:
        return one_of_ours
    if kind == 8:
        return Node
    return token


KINDS = 10


# --- the script's own state ---

PLACES = 9


def there(read):
    """What is read, or that it is not there."""
    try:
        return read()
    except (NameError, AttributeError):
        return "deleted"


def read_all():
    return (
        there(lambda: G0), there(lambda: G1), G2, G3, getattr(Node, "shared", "deleted"),
        with_default.__defaults__[0], with_default.__kwdefaults__["b"], getattr(with_default, "extra", "deleted"),
        remembered.__closure__[1 if remembered.__code__.co_freevars[0] == "function" else 0].cell_contents,
    )  # fmt: skip


def bind(place, value):
    global G0, G1, G2, G3
    if place == 0:
        G0 = value
    elif place == 1:
        G1 = value
    elif place == 2:
        G2 = value
    elif place == 3:
        G3 = value
    elif place == 4:
        Node.shared = value
    elif place == 5:
        with_default.__defaults__ = (value,)
    elif place == 6:
        with_default.__kwdefaults__["b"] = value
    elif place == 7:
        with_default.extra = value
    else:
        for name, cell in zip(remembered.__code__.co_freevars, remembered.__closure__, strict=True):
            if name == "known":
                cell.cell_contents = value


def unbind(place):
    if place in (0, 1):
        globals().pop(f"G{place}", None)
    for holder, name in {4: ((Node, "shared"),), 7: ((with_default, "extra"),)}.get(place, ()):
        if name in vars(holder):
            delattr(holder, name)


def perform(operations):
    for operation, *details in operations:
        values = read_all()
        if operation == "new":
            bind(details[0], new(*details[1:]))
        elif operation == "bind":
            bind(details[0], values[details[1]])
        elif operation == "put":
            put(values[details[1]], values[details[0]])
        elif operation == "pop":
            take_out(values[details[0]])
        elif operation == "unbind":
            unbind(*details)
        else:
            change(values[details[0]])


def look_at_script():
    return describe(*read_all())


def perform_and_look(operations):
    perform(operations)
    return describe(*read_all())


class Holder:
    """Its objects are the script's, too."""

    def __init__(self, *held):
        self.held = held

    def look(self):
        return describe(*self.held, *read_all())


# --- the searches ---


def operations(choose, most=4):
    global COUNT
    found = []
    for _ in range(1 + choose(most)):
        COUNT += 1
        kind = choose(6)
        if kind == 0:
            found.append(("new", choose(PLACES), choose(KINDS), COUNT))
        elif kind == 1:
            found.append(("bind", choose(PLACES), choose(PLACES)))
        elif kind == 2:
            found.append(("put", choose(PLACES), choose(PLACES)))
        elif kind == 3:
            found.append(("pop", choose(PLACES)))
        elif kind == 4:
            found.append(("unbind", choose(PLACES)))
        else:
            found.append(("change", choose(PLACES)))
    return found


def graph(choose, count=5):
    objects = [Node(), *(new(choose(KINDS), n) for n in range(1, count))]
    for _ in range(choose(6)):
        put(objects[choose(count)], objects[choose(count)])
    return objects


def mutate(choose, objects):
    for _ in range(choose(3)):
        kind = choose(3)
        if kind == 0:
            put(objects[choose(len(objects))], objects[choose(len(objects))])
        elif kind == 1:
            take_out(objects[choose(len(objects))])
        else:
            change(objects[choose(len(objects))])


def reset():
    global COUNT
    for place in range(PLACES):
        COUNT += 1
        bind(place, new(0, COUNT))


def forked(function, *args):
    """Return a call's result in a child that is forked for it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        with contextlib.suppress(BaseException):
            os.write(writer, pickle.dumps(function(*args)))
            status = 0
        os._exit(status)
    os.close(writer)
    with open(reader, "rb") as file:
        data = file.read()
    os.waitpid(pid, 0)
    return pickle.loads(data)


def receivers(executor, slots):
    """Objects of methods, callable objects, partials and arguments."""
    with ProcessPoolExecutor(1) as pool:

        def check(choose):
            objects = graph(choose)
            node = objects[0]
            for _ in range(1 + choose(3)):
                args = [objects[choose(len(objects))] for _ in range(choose(3))]
                function = (
                    node.look,
                    node,
                    functools.partial(node.look, *args),
                    functools.partial(Node.look, node),
                )[choose(4)]
                right = pool.submit(function, *args).result()
                assert executor.submit(function, *args).result() == right
                items = [
                    [objects[choose(len(objects))]] * 2,
                    [objects[choose(len(objects))] for _ in range(2)],
                ]
                right = list(pool.map(function, *items))
                for size in 1, 2, 3:
                    assert list(executor.map(function, *items, chunksize=size)) == right, size
                mutate(choose, objects)

        yield check


def large_receivers(executor, slots):
    """Objects that travel apart from the arguments, with which they then share nothing."""
    with ProcessPoolExecutor(1) as pool:

        def check(choose):
            objects = graph(choose)
            node = objects[0]
            for place in range(1 + choose(2)):
                put(
                    numpy.full(2000 * (1 + choose(3)), place, (float, int, "u1")[choose(3)]),
                    objects[choose(3)],
                )
            local, a = node.look, objects[1]
            functions = (
                node.look,
                node,
                functools.partial(Node.look, node, *objects[1:3]),
                lambda n: (local(n), change(a)),
            )
            for _ in range(2 + choose(3)):
                kind = choose(4)
                function = functions[kind]
                right = pool.submit(
                    functools.partial(call_of_lambda, node, a) if kind == 3 else function, 5
                ).result()
                for _ in range(slots + 1):
                    found = executor.submit(function, 5).result()
                    assert found == right, (kind, found, right)
                for size in 1, 2:
                    assert list(executor.map(function, [5] * 3, chunksize=size)) == [right] * 3, (kind, size)
                mutate(choose, objects)
                for value in list(vars(node).values()):
                    if choose(2):
                        change(value)

        yield check


def call_of_lambda(node, a, n):
    return node.look(n), change(a)


def large_arguments(executor, slots):
    """Arguments that several calls have, some of them equal, in calls that travel together."""
    with ProcessPoolExecutor(1) as pool:

        def check(choose):
            objects = (
                [[n // 2] * 5000 for n in range(3)]
                + [numpy.full(3000, n // 2, float) for n in range(3)]
                + [[1], 5]
            )
            count = 1 + choose(3)
            items = [[objects[choose(len(objects))] for _ in range(4)] for _ in range(count)]
            right = list(pool.map(look_at_large, *items))
            for size in 1, 2, 4:
                found = list(executor.map(look_at_large, *items, chunksize=size))
                assert found == right, (size, found, right)

        yield check


def look_at_large(*args):
    identities = [[a is b for a in args] for b in args]
    change(args[0])
    return identities, [arg if type(arg) is int else (len(arg), int(arg[0]), int(arg[-1])) for arg in args]


def local_functions(executor, slots):
    """Lambdas and functions in functions: cells, defaults, attributes and arguments."""
    import loky

    with loky.ProcessPoolExecutor(1) as pool:

        def check(choose):
            objects = graph(choose)
            a, b, c, d = (objects[choose(len(objects))] for _ in range(4))

            def local(*args, c=c):
                found = describe(a, b, c, local.d, args)
                for thing in a, b, c, local.d, *args:
                    change(thing)
                return found, describe(a, b, c, local.d, args)

            local.d = d
            function = (local, lambda *args, c=c: (describe(a, c, args), change(a), describe(a, b, c, args)))[
                choose(2)
            ]
            for _ in range(1 + choose(3)):
                args = [objects[choose(len(objects))] for _ in range(choose(3))]
                right = pool.submit(function, *args).result()
                assert executor.submit(function, *args).result() == right
                assert list(executor.map(function, *([arg] for arg in args or [1]))) == [
                    pool.submit(function, *(args or [1])).result()
                ]
                mutate(choose, objects)
                if choose(2):
                    a = objects[choose(len(objects))]

        yield check


def client_globals(executor, slots):
    """Globals of the script at each submit, with jobs outstanding."""

    def check(choose):
        reset()
        found = []
        for _ in range(1 + choose(4)):
            perform(operations(choose))
            kind, function = reader_of_script(choose)
            found.append((kind, executor.submit(function), forked(function)))
        for kind, future, right in found:
            assert future.result() == right, (kind, future.result(), right)

    yield check


def client_globals_at_map(executor, slots):
    """Globals of the script when `map` is called."""

    def check(choose):
        reset()
        for _ in range(1 + choose(3)):
            perform(operations(choose))
            kind, function = reader_of_script(choose)
            right = forked(function)
            for size in 1, 2:
                found = executor.map(lambda _, function=function: function(), [0, 1, 2], chunksize=size)
                assert list(found) == [right] * 3, (kind, size)

    yield check


def reader_of_script(choose):
    values = read_all()
    one, other = values[choose(PLACES)], values[choose(PLACES)]
    kind = choose(6)
    if kind == 0:
        return kind, lambda one=one: describe(one, other, *read_all())
    if kind == 1:
        return kind, Holder(one, other).look
    if kind == 2:
        return kind, functools.partial(look_with, one, key=other)
    if kind == 3:
        return kind, lambda number=1, look=look_at_script: look()
    if kind == 4:
        return kind, lambda: (describe(one), look_at_script(), look_with(one, other))
    return kind, look_at_script


def look_with(one, key):
    return describe(one, key, *read_all())


def left_behind(executor, slots):
    """Values that jobs leave in the script, for the next job of the same runner."""

    def check(choose):
        reset()
        executor.submit(look_at_script).result()  # else a name that is unbound again may count as unchanged
        perform(operations(choose, 8))
        with ProcessPoolExecutor(1) as pool:
            for _ in range(1 + choose(4)):
                some = operations(choose)
                right = pool.submit(perform_and_look, some).result()
                found = executor.submit(perform_and_look, some).result()
                assert found == right, (found, right)

    yield check


def main(kinds, examples, slots):
    with cw.mp.allocate(slots), cw.ClusterExecutor() as executor:
        for kind in kinds.split(","):
            with contextlib.contextmanager(globals()[kind])(executor, slots) as check:
                run_search(kind, check, examples)


def run_search(kind, check, examples):
    from hypothesis import HealthCheck, Phase, configuration, given, settings
    from hypothesis import strategies as st

    # It takes seconds to collect the constants of cw: they are kept where other tests find them too.
    configuration.set_hypothesis_home_dir(Path(cw.__file__).parent.parent / ".hypothesis")

    @settings(
        max_examples=abs(examples),
        derandomize=examples > 0,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate, Phase.shrink],
    )
    @given(st.data())
    def search(data):
        try:
            check(lambda count: data.draw(st.integers(0, count - 1)))
        except Exception as error:  # the first one, in case that it does not come again
            print(kind, repr(error), file=sys.stderr)
            raise

    search()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
