"""The layout is the architecture: imports point down only, and each secret is known on one floor."""

import ast
import builtins
import functools
import itertools
import json
import os
import re
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
    "__main__", "cli.main", "cli.local", "cli.status", "cli.top", "cli.report", "cli.run", "cli.__init__",
    "web.server", "web.door", "web.places", "web.__init__",
    "top.live", "top.app", "top.widgets", "top.source", "top.views", "top.once", "top.details", "top.changes",
    "top.tables", "top.texts", "top.__init__",
    "joblib",
    "detached.cli", "detached.scripts", "detached.attach",
    "detached.steward", "detached.backlog", "detached.recorder", "detached.awaited", "detached.__init__",
    "pool.__init__", "pool.pool", "pool.feeder", "pool.results", "pool.sizes", "pool.jobs",
    "scripts.hand_in", "scripts.in_slot", "scripts.host", "scripts.status", "scripts.places", "scripts.folder",
    "scripts.script", "scripts.kept_output", "scripts.__init__",
    "client.amap",
    "client.map", "client.__init__", "client.original", "client.thread", "client.futures.remote", "client.executor",
    "client.executor_parts",
    "client.with_options", "client.futures.future_submitter", "client.slot_count", "client.maps.batches",
    "client.maps.mapping",
    "client.maps.async_map", "client.futures.async_end", "client.shown",
    "client.session.handover",
    "client.futures.future", "client.session.session", "client.session.submitter", "client.session.dependents",
    "client.session.exchange", "client.session.identity",
    "client.session.acknowledging", "client.functions.calls",
    "client.session.delivery", "client.run_report",
    "client.futures.cells",
    "client.session.outcome", "client.session.jobs", "client.session.job", "client.session.held",
    "client.session.ranked", "client.session.receipts", "client.session.retries",
    "client.session.waiting", "client.session.object_sender",
    "client.options", "client.session.patience",
    "client.store_client", "client.recorded_calls", "client.session.ending",
    "client.futures.tracebacks", "client.futures.__init__", "client.maps.progress", "client.maps.__init__",
    "client.session.initializer",
    "client.functions.functions", "client.functions.keys", "client.functions.prepared",
    "client.share", "client.hints",
    "client.functions.states", "client.functions.records", "client.functions.script", "client.functions.components",
    "client.functions.__init__", "client.session.objects", "client.session.__init__",
    "runs.under_way", "runs.finding", "runs.keeper", "runs.detaching", "runs.interrupts", "runs.presses",
    "runs.starting", "runs.own", "runs.keeping", "runs.restored", "runs.handing_over", "runs.calls",
    "runs.names", "runs.onlooker", "runs.lease", "runs.output", "runs.folder", "runs.__init__",
    "report.of_store", "report.page", "report.style", "report.drawing", "report.library", "report.reader",
    "report.texts", "report.figures", "report.timeline", "report.bins", "report.durations", "report.__init__",
    "results", "store.table", "store.rows", "store.result",
    "store.callkey", "store.definitions", "store.arrays", "store.walk", "store.writer", "store.stream",
    "store.tidying", "store.verifying", "store.reader",
    "store.claim", "store.merging", "store.inventory", "store.listing", "store.merge_plan",
    "store.directory", "store.direct", "store.checksums", "store.format", "store.__init__",
    "waits.reporter", "waits.batch_queue", "waits.cut_jobs", "waits.sentences", "waits.__init__",
    "output.incoming", "output.sink", "output.printer", "output.log_records", "output.streams", "output.screen",
    "output.notices",
    "output.lines", "output.last_words", "output.__init__",
    "overview",
    "own_cluster", "cluster", "mp",
    "ssh.__init__", "ssh.cli", "ssh.cluster", "ssh.ending", "ssh.starting", "ssh.sending", "ssh.installing",
    "ssh.probe", "ssh.machine", "ssh.tunnels", "ssh.serving", "ssh.connection", "ssh.known", "ssh.plan", "ssh.hosts",
    "slurm.__main__", "slurm.cli", "slurm.job_lines", "slurm.__init__", "slurm.cluster", "slurm.elastic",
    "slurm.starting", "slurm.ending", "slurm.sidecar", "slurm.tender", "slurm.supply", "slurm.succession",
    "slurm.unused", "slurm.keeping", "slurm.hosting", "slurm.kinds", "slurm.pieces", "slurm.finding", "slurm.used",
    "slurm.scaling", "slurm.job_logs", "slurm.submitted",
    "slurm.profiles",
    "slurm.systems", "slurm.system", "slurm.asked", "slurm.batch", "slurm.sinfo", "slurm.squeue", "slurm.reasons",
    "slurm.inside", "slurm.several_nodes",
    "elastic.plan", "elastic.notes", "elastic.failures", "elastic.offer", "elastic.__init__",
    "launch.known", "launch.batch_signs", "launch.shell_lines", "launch.containers", "launch.batch_system",
    "launch.plan", "launch.piece_sizes",
    "launch.out_of_reach", "launch.user_scope",
    "launch.local_parts", "launch.local_state", "launch.supervisor", "launch.spawning", "launch.zygote",
    "launch.one_process",
    "launch.launcher", "launch.options", "launch.shown",
    "launch.status_client", "launch.__init__",
    "worker.__main__", "worker.cli", "worker.worker", "worker.sharing.sharing", "worker.sharing.fetching",
    "worker.sharing.share_port", "worker.sharing.__init__",
    "worker.leaving", "worker.offer", "worker.runners.memory_guard", "worker.runners.execution",
    "worker.runners.runners", "worker.runners.ticks", "worker.runners.forkserver_client", "worker.runners.early",
    "worker.output.output", "worker.output.job_log", "worker.output.last_words",
    "worker.runners.forkserver", "worker.runners.binding",
    "worker.runners.reaping", "worker.runners.__init__", "worker.policy.patience",
    "worker.outcomes", "worker.policy.outbox", "worker.policy.departure",
    "worker.policy.slots", "worker.policy.assignment", "worker.policy.placement", "worker.policy.lending",
    "worker.policy.devices", "worker.policy.allocation",
    "worker.policy.actions", "worker.policy.pins", "worker.policy.pool", "worker.policy.pinning", "worker.policy.jobs",
    "worker.policy.idleness", "worker.policy.usage", "worker.policy.__init__",
    "worker.output.live_output", "worker.output.job_output", "worker.output.__init__",
    "worker.__init__",
    "runner.runner", "runner.logs", "runner.leftovers", "runner.script", "runner.definitions", "runner.absent",
    "runner.bindings", "runner.output", "runner.channel", "runner.output_channel", "runner.__init__",
    "travel.baggage", "travel.choice", "travel.placing", "travel.packs", "travel.moving", "travel.__init__",
    "payloads.dependent", "payloads.chunks", "payloads.initializer", "payloads.generators", "payloads.serialize",
    "payloads.failures",
    "payloads.refusals", "payloads.sources", "payloads.unopened",
    "payloads.templates", "payloads.environment", "payloads.references", "payloads.pickled",
    "payloads.reach",
    "payloads.pickling_errors",
    "payloads.objects", "payloads.named", "payloads.shared", "payloads.job_usage", "payloads.layout",
    "payloads.current",
    "payloads.local_classes", "payloads.local_functions", "payloads.constants",
    "payloads.byvalue", "payloads.futures", "payloads.classes", "payloads.dispatchers", "payloads.script",
    "payloads.watch", "payloads.code_names",
    "payloads.enums", "payloads.annotations",
    "payloads.related", "payloads.deferred", "payloads.settings", "payloads.modules",
    "payloads.log_settings", "payloads.log_levels", "payloads.log_records", "payloads.warning_filters",
    "payloads.hash_seed", "payloads.__init__",
    "master.__main__", "master.cli", "master.master", "master.client_peer", "master.worker_peer",
    "master.observers.observer",
    "master.job_sender", "master.releases", "master.records", "master.peer", "master.policy.resumption",
    "master.settings", "master.checks",
    "master.observers.watching", "master.observers.snapshot", "master.observers.demand", "master.observers.facts",
    "master.policy.dispatch", "master.policy.outcomes", "master.policy.asides", "master.policy.reconcile",
    "master.policy.scheduler", "master.policy.placement",
    "master.policy.tries", "master.passing_orders", "master.policy.passing", "master.output",
    "master.policy.output_shares",
    "master.policy.why", "master.policy.shape_waits", "master.policy.to_come", "master.policy.cuts",
    "master.policy.state", "master.policy.stalls",
    "master.policy.placing",
    "master.policy.room", "master.policy.fit",
    "master.policy.actions", "master.observers.capacities", "master.observers.__init__", "master.policy.jobs",
    "master.policy.taken", "master.policy.ranked", "master.policy.tallies", "master.policy.__init__",
    "master.__init__",
    "observer.text", "observer.json_lines", "observer.prometheus", "observer.looking", "observer.reporter",
    "observer.model", "observer.demand", "observer.bounds", "observer.__init__",
    "net.master_link",
    "net.acceptor", "net.connector", "net.in_process", "net.connection", "net.send_queue", "net.warm_files",
    "net.loop", "net.timers", "net.sockets",
    "net.tls",
    "net.address", "net.interfaces", "net.protocol", "net.wire", "net.batches", "net.memory", "net.objects",
    "net.messages", "net.peer_messages", "net.passing_messages", "net.output_messages", "net.observer_messages",
    "net.schema", "net.__init__",
    "credential", "userdir", "program", "advice", "guard", "nested", "nested_link", "events",
    "html", "needs_text", "requirements", "needs", "errors", "cpus", "processes", "location", "version",
    "machine.memory", "machine.process_memory", "machine.oom", "machine.gpus", "machine.topology", "machine.batch_job",
    "machine.hostfile",
    "machine.groups", "machine.__init__",
    "slot_seconds",
    "named_tuple",
]  # fmt: skip

# Who may import what is not for everybody.
KEEPERS = {
    # payloads: the only folder that pickles. errors: a base class, when it is first needed
    "pickle": {"errors"}
    | {
        f"payloads.{name}"
        for name in (
            "serialize",
            "failures",
            "refusals",
            "shared",
            "pickled",
            "dependent",
            "layout",
            "chunks",
            "templates",
            "reach",
            "objects",
            "unopened",  # frames of cw's own only
            "named",
            "local_functions",
            "byvalue",
            "classes",
            "annotations",
        )
    },
    # environment: its version
    "cloudpickle": {"payloads.pickled", "payloads.named", "payloads.byvalue", "payloads.environment"},
    "marshal": {"payloads.local_functions"},
    # wire: the wire format. layout: what lies in a payload. connection, sockets, address: forms of the kernel's.
    # format: the form of a store's records. server: what a Unix socket says of its peer.
    # output_channel, job_output: the end marks among what jobs print.
    # format: the form of a store's records. output_channel, job_output: the end marks among what jobs print.
    "struct": {
        "runner.output_channel",
        "worker.output.job_output",
        "net.wire",
        "payloads.layout",
        "payloads.dependent",
        "net.connection",
        "net.sockets",
        "net.interfaces",
        "store.format",
        "runs.calls",  # the form of its records
        "web.server",  # what a Unix socket says of its peer
    },
    "array": {"net.wire", "net.sockets"},  # sockets: descriptors beside the bytes
    "bluelet": {"net.loop", "client.original"},  # client.original: coroutines for the user's own loop
    # program: the handler of cw's programs. The others: records of jobs
    "logging": {
        "events",
        "program",
        "runner.logs",
        "output.log_records",
        "payloads.log_levels",
        "payloads.log_records",
    },
    # results: its TimeoutError. environment: its key
    "multiprocessing": {"pool.results", "payloads.environment"},
    # when it is used
    "asyncio": {
        "client.amap",
        "client.futures.future",
        "client.futures.async_end",
        "client.futures.cells",
        "client.maps.async_map",
    }
    | {"web.server"},
}

PURE = (
    "scripts.script",
    "ssh.hosts",
    "slurm.reasons",
    "report.figures",
    "report.timeline",
    "report.bins",
    "report.durations",
    "report.texts",
    "client.session.jobs",
    "pool.sizes",
    "client.session.held",
    "client.session.job",
    "client.session.ranked",
    "client.session.receipts",
    "client.session.retries",
    "detached.awaited",
    "runs.presses",
    "waits.sentences",
    "elastic.plan",
    "elastic.failures",
    "elastic.notes",
    "elastic.offer",
    "master.policy.dispatch",
    "master.policy.asides",
    "master.observers.facts",
    "master.policy.outcomes",
    "master.observers.snapshot",
    "master.observers.demand",
    "master.observers.capacities",
    "master.policy.shape_waits",
    "master.policy.to_come",
    "observer.text",
    "needs_text",
    "observer.demand",
    "master.policy.tallies",
    "master.policy.reconcile",
    "master.policy.stalls",
    "master.policy.why",
    "master.policy.cuts",
    "master.policy.tries",
    "master.policy.passing",
    "master.policy.output_shares",
    "output.lines",
    "output.screen",
    "output.notices",
    "output.last_words",
    "master.policy.ranked",
    "master.policy.scheduler",
    "master.policy.placement",
    "master.policy.state",
    "master.policy.fit",
    "master.policy.actions",
    "master.policy.jobs",
    "master.policy.taken",
    "master.policy.placing",
    "master.policy.room",
    "master.policy.resumption",
    "master.settings",
    "worker.policy.departure",
    "worker.policy.idleness",
    "worker.policy.usage",
    "slot_seconds",
    "worker.policy.slots",
    "worker.policy.assignment",
    "worker.policy.placement",
    "worker.policy.lending",
    "worker.policy.devices",
    "worker.policy.allocation",
    "worker.policy.actions",
    "worker.policy.pins",
    "worker.policy.pool",
    "worker.policy.pinning",
    "worker.policy.jobs",
    "worker.output.live_output",
    "worker.output.job_output",
    "net.objects",
    "net.messages",
    "net.peer_messages",
    "net.passing_messages",
    "net.output_messages",
    "net.observer_messages",
    "net.schema",
    "net.timers",
    "store.format",
    "store.inventory",
    "store.merge_plan",
    "slurm.scaling",
    "launch.piece_sizes",
    "requirements",
    "needs",
    "errors",
    "named_tuple",
    "version",
    "html",
    "observer.json_lines",
    "observer.model",
    "observer.bounds",
    "observer.text",
    "top.source",
    "top.views",
    "top.once",
    "top.details",
    "top.changes",
    "top.tables",
    "top.texts",
)
IMPURE = {
    "asyncio", "bluelet", "datetime", "io", "logging", "multiprocessing", "os", "random", "secrets", "select",
    "selectors", "signal", "socket", "ssl", "subprocess", "sys", "threading", "time",
}  # fmt: skip


def path_of(module):
    return PACKAGE / f"{module.replace('.', '/')}.py"


def module_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


PATHS = list(PACKAGE.rglob("*.py"))


@functools.cache
def nodes_of(path):
    """Its text as Python reads it."""
    return list(ast.walk(ast.parse(path.read_text())))


@pytest.fixture(scope="module", autouse=True)
def _forget_them():
    """Half a million objects would make each garbage collection of the tests that follow slow."""
    yield
    nodes_of.cache_clear()


def module_named(name):
    """The module of cw, as in FLOORS, in which a name like 'client.session.Session' is found."""
    parts = name.split(".")
    for count in (3, 2, 1):
        for module in (".".join(parts[:count]), ".".join([*parts[:count], "__init__"])):
            if path_of(module).exists():
                return module
    return None


def imports(module):
    """What the module imports anywhere in its text: (modules of cw, others by their first name)."""
    own, others = set(), set()
    for node in nodes_of(path_of(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: say cw, not a dot"
            is_own = node.module.partition(".")[0] == "cw"
            names = [f"{node.module}.{a.name}" for a in node.names] if is_own else [node.module]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first != "cw":
                others.add(first)
            elif rest:
                own.add(module_named(rest))
    return own, others


@pytest.fixture(scope="module")
def graph():
    return {module: imports(module) for module in map(module_of, PATHS)}


def run(code):
    """The JSON that the code prints in a fresh interpreter."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    return json.loads(subprocess.check_output([sys.executable, "-c", code], env=environment, timeout=60))


def loaded_by(statement):
    return set(run(f"import json, sys; {statement}; print(json.dumps(list(sys.modules)))"))


def test_every_module_has_its_floor(graph):
    assert sorted(FLOORS) == sorted(graph)


def test_what_lies_in_one_folder_lies_on_one_floor():
    folders = [folder for folder, _ in itertools.groupby(name.partition(".")[0] for name in FLOORS)]
    assert len(folders) == len(set(folders))


def test_imports_point_down(graph):
    floor = {module: number for number, module in enumerate(FLOORS)}
    up = [f"{m} -> {other}" for m, (own, _) in graph.items() for other in own if floor[other] <= floor[m]]
    assert up == []


def test_no_module_knows_what_lies_above_it_as_anything():
    """Such a circle of imports is one, though no import shows it."""
    for path in PACKAGE.rglob("*.py"):
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef):
                kinds = {arg.arg: ast.unparse(arg.annotation) for arg in node.args.args if arg.annotation}
                known = {"master", "worker", "loop", "session", "executor", "peer", "runner"} & kinds.keys()
                assert all(kinds[name] != "Any" for name in known), f"{path}:{node.lineno}"


@pytest.mark.parametrize("module", PURE)
def test_policies_and_vocabulary_know_no_socket_thread_or_clock(graph, module):
    own, others = graph[module]
    assert others & IMPURE == set()
    assert own <= set(PURE)


@pytest.mark.parametrize("secret", KEEPERS)
def test_each_secret_is_kept_by_few(graph, secret):
    assert {module for module, (_, others) in graph.items() if secret in others} <= KEEPERS[secret]


def test_a_batch_system_is_known_only_where_it_is_registered(graph):
    """Another one is a file (or some, as here) and a line in `slurm.systems`."""
    own = {
        "slurm.system",
        "slurm.asked",
        "slurm.batch",
        "slurm.inside",
        "slurm.several_nodes",
        "slurm.sinfo",
        "slurm.squeue",
        "slurm.reasons",
    }
    users = {module for module, (imported, _) in graph.items() if imported & own}
    assert users - own == {"slurm.systems"}
    words = ("SLURM_", '"squeue"', '"scancel"', '"scontrol"', '"sbatch"', '"sinfo"')
    # (batch_signs: what shows that there is one, also of those that cw does not know)
    # (batch_job: what it gives a worker, which may run in any job)
    known = own | {"launch.batch_signs", "machine.batch_job"}
    assert {m for m in graph if any(word in path_of(m).read_text() for word in words)} <= known


def test_nobody_uses_what_another_module_keeps_private():
    for path in PATHS:
        nodes = nodes_of(path)
        own = [node for node in nodes if isinstance(node, ast.ImportFrom) and
               (node.module or "").partition(".")[0] == "cw"]  # fmt: skip
        names = [alias for node in own for alias in node.names]
        assert not [alias.name for alias in names if alias.name.startswith("_")], path
        modules = {alias.asname or alias.name for alias in names if alias.name.islower()}
        for node in nodes:
            if (
                isinstance(node, ast.Attribute)
                and isinstance(node.value, ast.Name)
                and node.value.id in modules
            ):
                assert not node.attr.startswith("_") or node.attr.startswith("__"), f"{path}: {node.attr}"


LOGGERS = {"EventLogger", "RateLimited"}
LEVELS = {"debug", "info", "warning", "error", "critical"}


def log_calls():
    """Of each call that logs: (path, name of the logger, the call). Loggers are made at the top of a module, or as an
    attribute in a class; what another module has imported has the same name there."""
    names = {}
    for path in PATHS:
        for node in nodes_of(path):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.value, ast.Call)
                and ast.unparse(node.value.func) in LOGGERS
            ):
                names[path, ast.unparse(node.targets[0])] = ast.literal_eval(node.value.args[0])
    for path in PATHS:
        for node in nodes_of(path):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cw."):
                origin = path_of(node.module.removeprefix("cw."))
                for alias in node.names:
                    if (origin, alias.name) in names:
                        names[path, alias.name] = names[origin, alias.name]
    for path in PATHS:
        for node in nodes_of(path):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
            ):
                name = names.get((path, ast.unparse(node.func.value)))
                if name is not None:
                    yield path, name, node


def test_every_line_of_the_log_is_an_event_with_an_id_of_its_own():
    """The id begins with the last word of its logger's name, and the text has a place for each field."""
    where = {}
    for path, name, call in log_calls():
        place = f"{path}:{call.lineno}"
        event, text = (
            argument.value for argument in call.args[:2]
        )  # constants, so that they can be looked for
        assert re.fullmatch(rf"{name.rpartition('.')[2]}\.[a-z]+(_[a-z]+)*", event), place
        assert event not in where, f"{place} and {where[event]}: one event, one wording, one place"
        where[event] = place
        assert len(re.findall(r"%[^%]", text)) == len(call.args) - 2, f"{place}: fields"
    assert len(where) > 60


@functools.cache
def methods_of_all():
    """Names of methods, in any class."""
    return {
        part.name
        for path in PATHS
        for node in nodes_of(path)
        if isinstance(node, ast.ClassDef)
        for part in node.body
        if isinstance(part, ast.FunctionDef)
        and not any("property" in ast.unparse(d) for d in part.decorator_list)
    }


def test_rooms_are_small():
    """Where one is larger, a second subject has begun in it."""
    large = []
    for path in PATHS:
        if path.read_text().count("\n") > 450:
            large.append(f"{path}: more than 450 lines")
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 50:
                large.append(f"{path}: {node.name} has more than 50 lines")
            elif isinstance(node, ast.ClassDef):
                methods = [part for part in node.body if isinstance(part, ast.FunctionDef)]
                names = {method.name for method in methods} | _lent_to(methods)
                if module_of(path) in PURE:  # the facts that a policy handles are a flat list
                    names = {name for name in names if not name.startswith("on_")}
                if len(names) > 25:
                    large.append(f"{path}: {node.name} has {len(names)} methods, more than 25")
                if len(_attributes_of(methods)) > 20:
                    large.append(f"{path}: {node.name} has more than 20 attributes")
    assert not large, "\n".join(large)


def _lent_to(methods):
    """Attributes that stand for a method of another object, as in `self.submit = other.submit`."""
    return {
        target.attr
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute)
        for target in node.targets
        if isinstance(target, ast.Attribute)
        and ast.unparse(target.value) == "self"
        and target.attr.lstrip("_") == node.value.attr.lstrip("_")
        and node.value.attr in methods_of_all()
    }


def _attributes_of(methods):
    return {
        node.attr
        for method in methods
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def test_the_master_cannot_unpickle():
    loaded = loaded_by("import cw.master.master")
    assert "cw.master.policy.dispatch" in loaded
    assert not [name for name in loaded if name.startswith("cw.payloads")]
    assert loaded & {"pickle", "_pickle", "cloudpickle", "shelve"} == set()


def test_a_worker_loads_nothing_that_only_its_runners_need():
    loaded = loaded_by("import cw.worker.cli")
    assert "cw.payloads.environment" in loaded
    late = {
        "cw.worker.runners.forkserver",
        "cw.runner.runner",
        "cw.payloads.serialize",
        "cw.payloads.byvalue",
    }
    assert loaded & late == set()
    # The forkserver would have all that is loaded before it is forked.
    at_fork = loaded_by("import cw.worker.runners.early") - {"cw.worker.runners.early"}
    assert at_fork <= loaded_by("import cw.worker.runners.forkserver")


def test_import_cw_is_cheap_and_gives_all_public_names():
    loaded = loaded_by("import cw")
    assert loaded & {"cw.client", "cw.master", "cw.worker", "pickle", "socket", "logging"} == set()
    loaded = loaded_by("import cw.client.executor, cw.client.map")
    assert (
        loaded & {"cw.client.session.session", "cw.net.connection", "cw.payloads", "cloudpickle", "pickle"}
        == set()
    )
    # A program that uses all of them has not loaded what `python -m` is to run.
    loaded = loaded_by("import cw; [getattr(cw, name) for name in cw.__all__]")
    assert {"cw.client", "cw.mp", "cw.client.executor"} <= loaded
    assert loaded & {"cw.master", "cw.worker", "cw.runner"} == set()


def test_named_tuples_that_are_made_before_a_first_job_are_cheap():
    """Each of `typing` takes 0.1 to 0.3 ms, as the docstring of `cw.named_tuple` says."""
    found = run(
        "import json, sys, cw.client.executor_parts, cw.client.thread, cw.mp, cw.worker.cli, cw.master.cli\n"
        "ours = [module for name, module in sys.modules.items() if name.startswith('cw.')]\n"
        "classes = {value for module in ours for value in vars(module).values() if isinstance(value, type)}\n"
        "print(json.dumps([str(c) for c in classes if c.__bases__ == (tuple,) and c.__module__.startswith('cw.')"
        " and hasattr(c, '_fields')]))"
    )
    assert found == []  # import NamedTuple from cw.named_tuple


def test_the_public_names_are_those_promised():
    for name in (
        "PORT", "ClientThread", "ClusterExecutor", "SlurmExecutor", "allocate", "client", "map", "mp", "randid",
        "results", "slurm", "slurm_master_host", "start", "stop", "__version__", "Error", "ConnectionError",
        "NotPicklable", "ProtocolError", "RemoteException", "WorkerLost", "EnvironmentMismatch", "JobTimeout",
        "RemoteTraceback", "StartRefused", "StoreError", "UnstableKey", "Future",
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
    assert sorted(cw.__all__) == sorted(set(cw.__all__)) == dir(cw)
    with pytest.raises(AttributeError, match="no_such_name"):
        cw.no_such_name  # noqa: B018


# Exceptions that no user sees: the mistakes that cw's programs print (what a user's program may catch is derived from
# them), and what ends a search within one module. (FileGone: users see a StoreError.)
UNSEEN = {
    "UserError",
    "UsageError",
    "NotThere",
    "Unstable",
    "Abandoned",
    "ImportDeadlock",
    "Unpicklable",
    "FileGone",
}


def test_every_public_exception_is_a_name_of_cw_and_a_cw_error():
    bases = {node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
             for path in PATHS for node in nodes_of(path)
             if isinstance(node, ast.ClassDef)}  # fmt: skip
    found = {
        name
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, Exception)
    }
    found |= {"CancelledError", "BrokenExecutor", "PicklingError"}
    for _ in range(5):
        found |= {name for name, above in bases.items() if above & found}
    found = {name for name in found & set(bases) if name[0] != "_"} - UNSEEN
    assert {
        "WorkerLost",
        "LaunchError",
        "WrongCredential",
        "AddressError",
        "NotPicklable",
        "PayloadError",
    } <= found
    assert [name for name in found if not issubclass(getattr(cw, name), (cw.Error, Warning))] == []


def test_all_names_come_with_a_star_and_none_that_is_not_public():
    got = run("import json; from cw import *; print(json.dumps([n for n in globals() if n[:2] != '__']))")
    assert set(got) - {"json"} == set(cw.__all__) - {"__version__"}
