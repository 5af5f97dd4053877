"""Starts and stops a cluster in Slurm by the options and calls of the original library's script."""

import argparse

import cw.slurm

parser = argparse.ArgumentParser()
parser.add_argument("action", metavar="start|stop")
parser.add_argument("-n", dest="nworkers", type=int, default=32)
parser.add_argument("-M", dest="master", action="store_false", default=True)
parser.add_argument("-W", dest="workers", action="store_false", default=True)
parser.add_argument("-d", "--docker-image", default=None)
parser.add_argument("--docker-args", default=None)
parser.add_argument("-i", "--isolated", action="store_true", default=False)
parser.add_argument("--Xworkers", dest="worker_options", default=[], action="append")
parser.add_argument("--Xmaster", dest="master_options", default=[], action="append")

if __name__ == "__main__":
    given = parser.parse_args()
    worker_options = given.worker_options
    if given.isolated:
        worker_options.append("--ntasks-per-node=1")
    if given.action == "start":
        cw.slurm.start(given.nworkers, given.master, given.workers, given.master_options, worker_options,
                       given.docker_image, given.docker_args)  # fmt: skip
    elif given.action == "stop":
        cw.slurm.stop(given.master, given.workers)
    else:
        parser.error("start or stop?")
