"""A parameter sweep for the original library: stops what an earlier run left, starts a cluster, waits, stops it."""

import sys

import cw.client

launcher = getattr(cw, sys.argv[1])  # cw.mp or cw.slurm
settings = {"mp": {}, "slurm": {"master_options": ["--time=10", "-s"], "worker_options": ["--time=10", "-s"]}}
outcomes = {}


def completion(jobid, output):
    outcomes[jobid] = output


def evaluate(width, height):
    return width * height


launcher.stop()
launcher.start(nworkers=2, **settings[sys.argv[1]])
host = cw.slurm.master_host() if launcher is cw.slurm else "localhost"
client = cw.client.ClientThread(completion, host)
client.start()
for width in range(4):
    client.submit((width, "narrow"), evaluate, width, 2)
    client.submit(jobid=f"wide {width}", func=evaluate, width=width, height=10)
    client.submit(cw.randid(), evaluate, width, height=0)
client.wait()
launcher.stop()

assert client.active_jobs == 0
print({jobid: output for jobid, output in outcomes.items() if output})
