"""Nothing is kept alive that the caller has dropped, in any process."""

import functools
import gc
import os
import weakref

import pytest
from conftest import wait_until
from programs import LIMIT, descendants_of, worker_of

import cw

numpy = pytest.importorskip("numpy")

MB = 1024**2
SIZE = 2 * MB


class Simulation:
    def __init__(self, n):
        self.values = numpy.full(SIZE // 8, n, float)

    def run(self, *_):
        return float(self.values[0])

    __call__ = run


def first_of(values, *_):
    return float(values[0])


def memory_of(pids):
    """MB of these processes: their own, and what they share with others."""
    found = {}
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            sizes = {line.split(":")[0]: int(line.split()[1]) for line in list(file)[1:]}
        found[pid] = sizes["Pss"] // 1024
    return found


def method(n):
    simulation = Simulation(n)
    return simulation.run, simulation


def callable_object(n):
    simulation = Simulation(n)
    return simulation, simulation


def partial(n):
    simulation = Simulation(n)
    return functools.partial(first_of, simulation.values), simulation


def closure(n):
    simulation = Simulation(n)
    return lambda *_: float(simulation.values[0]), simulation


WAYS = [(make, way) for make in (method, callable_object, partial, closure) for way in ("submit", "map")]
QUICK = [(method, "submit"), (closure, "map")]


@pytest.mark.parametrize(
    ("make", "way"), [pytest.param(*each, marks=[pytest.mark.slow] * (each not in QUICK)) for each in WAYS]
)
def test_large_objects_are_let_go_everywhere(make, way):
    with cw.mp.allocate(1) as cluster, cw.ClusterExecutor() as executor:

        def run(count):
            for n in range(count):
                function, owner = make(n)
                references.append(weakref.ref(owner))
                if way == "submit":
                    assert executor.submit(function).result(LIMIT) == n
                else:
                    assert list(executor.map(function, [0, 0])) == [n, n]
                del function, owner

        references = []
        run(60)  # what is kept for a while, and what the allocator keeps, is there now
        worker = worker_of(cluster)
        processes = [os.getpid(), worker, *descendants_of(worker)]
        before = memory_of(processes)
        run(100)  # 200 MB
        gc.collect()
        assert sum(reference() is not None for reference in references) <= 1
        wait_until(
            lambda: all(size - before[pid] < 80 for pid, size in memory_of(processes).items()),
            LIMIT,
            lambda: (before, memory_of(processes)),
        )


def test_values_of_globals_are_let_go_when_they_have_changed(script, runner):
    names = script("class Held: pass\nA = [Held()]\ndef f(): return len(A)")
    assert runner.call(names["f"]) == 1
    reference = weakref.ref(names["A"][0])
    script("A.clear()")
    assert runner.call(names["f"]) == 0
    gc.collect()
    assert reference() is None
    script("A.append(Held())")
    assert runner.call(names["f"]) == 1
    reference = weakref.ref(names["A"][0])
    script("A = 3")
    with pytest.raises(TypeError):
        runner.call(names["f"])
    gc.collect()
    assert reference() is None


def test_functions_and_their_state_are_let_go(runner):
    class Held:
        pass

    def make():
        held = [Held()]
        return lambda *_: len(held), weakref.ref(held[0])

    for args in (), ([1],):
        function, reference = make()
        assert runner.call(function, *args) == 1
        runner.call(function, *args)
        del function
        gc.collect()
        assert reference() is None
