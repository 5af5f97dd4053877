"""Starts and stops a cluster on this machine by the options and calls of the original library's script."""

import argparse

import cw.mp

parser = argparse.ArgumentParser()
parser.add_argument("action", metavar="start|stop")
parser.add_argument("-n", dest="nworkers", type=int, default=8)
parser.add_argument("-M", dest="master", action="store_false", default=True)
parser.add_argument("-W", dest="workers", action="store_false", default=True)

if __name__ == "__main__":
    given = parser.parse_args()
    if given.action == "start":
        cw.mp.start(given.nworkers, given.master, given.workers)
    elif given.action == "stop":
        cw.mp.stop(given.master, given.workers)
    else:
        parser.error("start or stop?")
