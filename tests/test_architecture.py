"""The layout is the architecture: imports point down only, and each secret is known on one floor."""

import ast
import json
import os
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

import cw

PACKAGE = Path(cw.__file__).parent

# From the top to the ground: a module imports only those below it, inside functions and for types too.
FLOORS = [
    "__init__",
    "client", "executor", "mapping", "future", "session", "ending", "progress", "recorder",
    "functions", "callkey", "chunks", "results", "store",
    "anywhere", "mp", "slurm", "tender", "submitted", "batch", "squeue", "launcher", "inquiry",
    "worker", "runners", "keeper_link", "keeper", "relay", "runner", "channel", "uplink",
    "serialize", "environment", "naming", "byvalue",
    "master", "peers", "checks", "gate", "network", "tls", "credential", "address", "home", "program",
    "kept", "slots", "dispatch", "returns", "turns", "jobs",
    "wire", "memory", "messages", "errors", "version",
]  # fmt: skip

# Who may import what is not for everybody.
KEEPERS = {
    "pickle": {"serialize", "byvalue", "functions"},
    "cloudpickle": {"serialize", "byvalue", "functions", "environment"},  # environment: its version
    "marshal": set(),
    # wire: the wire format. serialize: what lies in a payload. network, address: forms of the kernel's.
    # store: the form of its records.
    "struct": {"wire", "serialize", "network", "address", "store"},
    "array": {"wire", "network"},  # network: descriptors beside the bytes
    "bluelet": {"network"},
    "multiprocessing": set(),
    "asyncio": set(),
}

PURE = ("dispatch", "returns", "turns", "jobs", "slots", "messages", "errors", "version")
IMPURE = {
    "asyncio", "bluelet", "datetime", "io", "logging", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "signal", "socket", "ssl", "subprocess", "sys", "threading", "time",
}  # fmt: skip


def imports(module):
    """What the module imports anywhere in its text: (modules of cw, others by their first name)."""
    own, others = set(), set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: say cw, not a dot"
            names = [f"cw.{a.name}" for a in node.names] if node.module == "cw" else [node.module]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first != "cw":
                others.add(first)
            elif rest:
                own.add(rest.partition(".")[0])
    return own, others


@pytest.fixture(scope="module")
def graph():
    return {path.stem: imports(path.stem) for path in PACKAGE.glob("*.py")}


def run(code):
    """The JSON that the code prints in a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return json.loads(subprocess.check_output([sys.executable, "-c", code], env=environment, timeout=60))


def loaded_by(statement):
    return set(run(f"import json, sys; {statement}; print(json.dumps(list(sys.modules)))"))


def test_every_module_has_its_floor(graph):
    assert sorted(FLOORS) == sorted(graph)


def test_imports_point_down(graph):
    floor = {module: number for number, module in enumerate(FLOORS)}
    up = [f"{m} -> {other}" for m, (own, _) in graph.items() for other in own if floor[other] <= floor[m]]
    assert up == []


@pytest.mark.parametrize("module", PURE)
def test_policies_and_vocabulary_know_no_socket_thread_or_clock(graph, module):
    own, others = graph[module]
    assert others & IMPURE == set()
    assert own <= set(PURE)


@pytest.mark.parametrize("secret", KEEPERS)
def test_each_secret_is_kept_by_few(graph, secret):
    assert {module for module, (_, others) in graph.items() if secret in others} <= KEEPERS[secret]


def test_nobody_uses_what_another_module_keeps_private():
    for path in PACKAGE.glob("*.py"):
        tree = ast.parse(path.read_text())
        modules = {a.asname or a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module == "cw"
                   for a in n.names}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cw."):
                assert not [a.name for a in node.names if a.name.startswith("_")], path.name
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
            ):
                assert not node.attr.startswith("_") or node.attr.startswith("__"), (
                    f"{path.name}: {node.attr}"
                )


def test_the_master_cannot_unpickle():
    loaded = loaded_by("import cw.master")
    assert "cw.dispatch" in loaded
    assert loaded & {"pickle", "_pickle", "cloudpickle", "cw.serialize", "cw.byvalue", "shelve"} == set()


def test_import_cw_is_cheap_and_gives_all_public_names():
    loaded = loaded_by("import cw")
    assert loaded & {"cw.client", "cw.master", "cw.worker", "pickle", "socket", "logging"} == set()
    # A program that uses all of them has not loaded what `python -m` is to run.
    loaded = loaded_by("import cw; [getattr(cw, name) for name in cw.__all__]")
    assert {"cw.client", "cw.mp", "cw.executor"} <= loaded
    assert loaded & {"cw.master", "cw.worker", "cw.keeper", "cw.runner"} == set()


def test_the_public_names_are_those_promised():
    for name in (
        "PORT", "ClientThread", "ClusterExecutor", "SlurmExecutor", "allocate", "client", "map", "mp", "randid",
        "results", "slurm", "slurm_master_host", "start", "stop", "__version__", "Error", "ConnectionError",
        "NotPicklable", "ProtocolError", "RemoteException", "WorkerLost", "EnvironmentMismatch", "JobTimeout",
        "RemoteTraceback", "StoreError", "UnstableKey",
    ):  # fmt: skip
        assert name in cw.__all__ and name in dir(cw) and getattr(cw, name) is not None
    assert cw.PORT == 5494 and issubclass(cw.ConnectionError, OSError)
    for name in ("ClientThread", "ClusterExecutor", "SlurmExecutor", "RemoteException"):
        assert getattr(cw.client, name) is getattr(cw, name)
    for name in ("start", "stop", "allocate"):
        assert list(signature(getattr(cw.mp, name)).parameters) == list(
            signature(getattr(cw, name)).parameters
        )
    assert cw.slurm.slurm_master_host is cw.slurm_master_host
    assert sorted(cw.__all__) == sorted(set(cw.__all__))
    with pytest.raises(AttributeError, match="no_such_name"):
        cw.no_such_name  # noqa: B018
