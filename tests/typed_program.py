# ruff: noqa: F821
"""A user's program as type checkers see it (tests/test_types.py); it never runs. A comment says what each line is."""

import asyncio
import concurrent.futures
import contextlib
import pickle
from collections.abc import AsyncIterator
from concurrent.futures import Executor, Future, as_completed, wait

import cw
from cw.results import Result


def square(x: int) -> int:
    return x * x


def text(number: int, width: int = 3, *, fill: str = "0") -> str:
    return str(number).rjust(width, fill)


def run(pool: Executor) -> int:
    return pool.submit(square, 3).result()


def callback(jobid: int, result: int) -> None:
    pass


executor = cw.ClusterExecutor(store="s", durability="disk")
run(executor)
future: Future[int] = executor.submit(square, 3)
futures = {executor.submit(square, number): number for number in range(5)}
for done in as_completed(futures):
    reveal_type(futures[done])  # int
    reveal_type(done.result())  # int
wait(futures)

reveal_type(executor.submit(square, 3))  # Future[int]
reveal_type(executor.submit(text, 3, fill=" "))  # Future[str]
reveal_type(executor.options(attempts=1).submit(square, 3))  # Future[int]
executor.submit(square, "three")  # error
executor.submit(square, 3, 4)  # error
executor.submit(text, 3, filling=" ")  # error
executor.options(attempts=1).submit(square, "three")  # error
executor.options(atempts=1)  # error
executor.options(retries=2, retry_on=OSError).submit(square, 3)
executor.options(retries=2, retry_on=(OSError, cw.JobTimeout)).map(square, [3])
executor.options(retry_on="OSError")  # error
executor.options(retry_on=SystemExit)  # error
executor.options(retrys=2)  # error
reveal_type(executor.options(priority=5).submit(square, 3))  # Future[int]
executor.options(priority="high")  # error
executor.options(attempts_by_limit=3).submit(square, 3)
executor.options(attempts_by_limit="3")  # error
executor.options(output="keep").submit(square, 3)
executor.options(nodes=2, cpus=4).submit(square, 3)
executor.options(cpus=2, alternatives=[{"gpus": 1}, {"memory": "8GB"}]).submit(square, 3)
executor.options(alternatives="gpus")  # error
reveal_type(executor.asubmit(square, 3).stdout)  # str | None
reveal_type(executor.asubmit(square, 3).usage)  # Usage | None
cw.ClusterExecutor(output="log")
cw.ClusterExecutor(output="quiet")  # error
cw.ClusterExecutor(durabilty="disk")  # error
cw.ClusterExecutor(report="run.html"), cw.map(square, [1], report="run.html")
cw.ClusterExecutor(report=1)  # error
cw.ClusterExecutor(initializer=square, initargs=(3,), max_workers=2)
cw.ClusterExecutor(initialiser=square)  # error
cw.ClusterExecutor(forward_logging=False)
cw.ClusterExecutor(forward_logging="INFO")  # error
cw.ClusterExecutor(store="s", detach="night"), cw.map(square, [1], store="s", detach=True)
reveal_type(cw.map(square, [1], store="s", detach=True))  # Iterator[int]
cw.ClusterExecutor(store="s", detach=3)  # error
cw.amap(square, [1], store="s", detach=True)  # error
cw.ClientThread(forward_logging=False)
(
    cw.ClusterExecutor(modules=["mylab", cw], files=["params.toml"]),
    cw.map(square, [1], modules=True, files=["data"]),
)
cw.ClientThread(modules=True, files=["data"]), cw.Pool(modules=False, files=[])
cw.ClusterExecutor(modules=3)  # error
cw.map(square, [1], files=3)  # error
cw.ClusterExecutor(initializer="square")  # error

executor.terminate_workers()
executor.kill_workers()
executor.shutdown(wait=False, cancel_future=True)  # error
reveal_type(executor.map(square, [1, 2], chunksize=2))  # Iterator[int]
reveal_type(executor.options(attempts=1).map(text, [1, 2], chunksize=2))  # Iterator[str]
executor.map(square, [1], chunksiz=2)  # error
executor.options(attempts=1).map(square, [1], chunksiz=2)  # error
executor.map(square, [1], progress="allways")  # error

reveal_type(executor.starmap(text, [(1, 2), (3,)], chunksize=2))  # Iterator[str]
reveal_type(executor.options(attempts=1).starmap(text, [[1], range(2)], as_completed=True))  # Iterator[str]
executor.starmap(text, [(1,)], chunksiz=2)  # error
executor.starmap(text, [1])  # error

reveal_type(cw.map(square, [1, 2]))  # Iterator[int]
reveal_type(cw.map(text, [1, 2], [3, 4], progress="always", store="s", host="n1"))  # Iterator[str]
reveal_type(cw.map(lambda x, y: x + y, [1], [1.5]))  # Iterator[float]
reveal_type(cw.map(text, *[[1, 2], [3, 4]]))  # Iterator[str]
cw.map(square, ["a"])  # error
cw.map(text, [1], ["a"])  # error
cw.map(square, [1], proggress=True)  # error
cw.map(square, [1], progress="allways")  # error
reveal_type(cw.starmap(text, [(1, 2)], progress="always", host="n1"))  # Iterator[str]
cw.starmap(text, [(1, 2)], proggress=True)  # error

reveal_type(cw.results("s"))  # Results
reveal_type(cw.results("s")[0])  # Result
reveal_type(cw.results("s")[0].stderr)  # str | None
reveal_type(cw.results("s")[0].usage)  # Usage | None
executor.options(retries=2, retry_on=cw.MemoryExceeded).submit(square, 3)
reveal_type(cw.results("s")[1:])  # list[Result]
cw.results("s").to_csv("s.csv")
reveal_type(cw.results("s").tidy())  # Tidied
reveal_type(cw.results("s").tidy().dropped)  # int
reveal_type(cw.results("s").verify().damages[0].file)  # str
reveal_type(cw.results("s").verify().is_intact)  # bool
cw.results("s").to_csv()  # error
for stored in cw.results("s").filter(failed=False):
    same: Result = stored
    reveal_type(stored.function)  # str
cw.results()  # error

thread = cw.ClientThread(callback)
reveal_type(thread.submit(square, 7))  # int
reveal_type(thread.submit("a", square, 7))  # str
reveal_type(thread.submit(("a", 1), square, 7))  # tuple[str, int]
thread.submit(jobid="a", func=square, x=7)
thread.submit(1.5, square)  # error
reveal_type(thread.active_jobs)  # int
thread.options(atempts=3)  # error
thread.options(retries=3, retry_on=OSError)
cw.allocate(nworkers=3, naster=False)  # error
cw.slurm.start(nodes=2, idle=60)
cw.slurm.start(8, piece=2, idle=0.5)
cw.start(8, piece="2")  # error
cw.allocate(3, account="physics", qos="high", constraint="a100", reservation=None, exclude="n7", renew=False)
cw.slurm.start(3, batch_options=["--comment=x"], setup="module load gcc", profile="gpu").close()
cw.start(3, setup=["module load gcc"], account=7)  # error
reveal_type(cw.slurm.start(max=8, min=1, backlog=2).connected)  # int
cw.slurm.start(max="8")  # error
reveal_type(cw.slurm.add(kind="gpu", max=8, gpus=1))  # str
reveal_type(cw.slurm.scale(min=0, max=8))  # str
reveal_type(cw.slurm.resume(kind="gpu"))  # str
with cw.ssh.allocate(["lab1", "lab2:8"], tunnel=True, ssh_options=["-J", "gate"]) as machines:
    reveal_type([outcome.problem for outcome in machines.outcomes])  # list[str]
cw.ssh.start(["lab1"], master=1)  # error
reveal_type(cw.ssh.start(["lab1"], name="lab").slots)  # int
if (of_lab := cw.ssh.status()) is not None:
    reveal_type(of_lab.machines[0].slots)  # int
reveal_type(cw.ssh.stop(hosts=["lab1"], grace=60))  # list[str]
with cw.mp.allocate(2) as cluster:
    reveal_type(cluster.master)  # str
reveal_type(cw.allocate(2).close())  # None
cw.ClusterExecutor(local=False), cw.Pool(local=4), cw.map(square, [1], local=True)
cw.ClusterExecutor(local="yes")  # error

shared = cw.share(7)
reveal_type(shared)  # Shared[int]
reveal_type(shared.value)  # int
reveal_type(executor.submit(square, shared))  # Future[int]
reveal_type(executor.submit(text, shared))  # Future[str]
reveal_type(executor.map(square, [shared, 8]))  # Iterator[int]
with cw.share("all") as handle:
    reveal_type(handle)  # Shared[str]
shared.release()
cw.map(square, [1, 2], output="drop")
cw.map(square, [1, 2], output="quiet")  # error
cw.share()  # error

reveal_type(cw.status())  # Snapshot
reveal_type(cw.status().workers[0].capacity.gpus_used)  # float
reveal_type(cw.status().shapes[0].needs)  # str
reveal_type(cw.status("n1").functions[0].seconds_left)  # float | None
cw.status(host=5494)  # error
stopped: cw.Error = cw.JobStopped("stopped")

broken: concurrent.futures.BrokenExecutor = cw.WorkerLost("lost")
night: cw.Run = cw.attach("sweep.cw", output="drop")
reveal_type(night.counts().done)  # int
for came in night.as_completed(progress=True):
    reveal_type(came)  # RunFuture
    args: tuple[object, ...] = came.args
wait(night.futures)
cw.attach("sweep.cw", output="keep")  # error
unpicklable: pickle.PicklingError = cw.NotPicklable("it")
mistakes: list[type[cw.Error]] = [cw.LaunchError, cw.DependencyFailed, cw.NotPicklable, cw.RemoteTraceback]


async def numbers() -> AsyncIterator[int]:
    yield 1


async def main() -> None:
    awaitable: cw.Future[int] = executor.asubmit(square, 3)
    wait([awaitable])
    reveal_type(await awaitable)  # int
    reveal_type(await executor.options(attempts=1).asubmit(text, 3))  # str
    both = await asyncio.gather(executor.asubmit(square, 1), executor.asubmit(text, 1))
    reveal_type(both)  # tuple[int, str]
    reveal_type(await asyncio.wrap_future(executor.submit(square, 3)))  # int
    reveal_type(await asyncio.get_running_loop().run_in_executor(executor, square, 3))  # int
    executor.asubmit(square, "three")  # error
    async for number in executor.amap(square, [1, 2], buffersize=2):
        reveal_type(number)  # int
    reveal_type(executor.options(attempts=1).amap(text, numbers()))  # AsyncGenerator[str, None]
    reveal_type(cw.amap(square, numbers(), as_completed=True, host="n1"))  # AsyncGenerator[int, None]
    reveal_type(cw.amap(text, [1], numbers()))  # AsyncGenerator[str, None]
    cw.amap(square, ["a"])  # error
    cw.amap(square, [1], proggress=True)  # error
    executor.amap(square, [1], chunksiz=2)  # error
    async with cw.ClusterExecutor() as own:
        reveal_type(own)  # ClusterExecutor
    async with contextlib.aclosing(cw.amap(square, [1])) as results:
        reveal_type(await anext(results))  # int
