"""Client and cluster in `with` blocks: the client starts and, at the end, waits and stops; so does the cluster."""

import socket

import cw

squares = {}


def keep(jobid, result):
    """Keep a result. Called in the client's thread, one call at a time, so it needs no lock."""
    squares[jobid] = result


def square(number):
    """Square a number. Runs on a worker."""
    return number * number, socket.gethostname()


def main():
    with cw.mp.allocate(2) as cluster:
        print(f"{cluster.slots} slots at {cluster.master}")
        with cw.client.ClientThread(keep) as client:
            numbers = {client.submit(square, number): number for number in range(10)}
        # All results have arrived here. If a job had failed, the end of the block would have raised its exception.
    for jobid, number in numbers.items():
        result, host = squares[jobid]
        print(f"job {jobid}: the square of {number} is {result}, says {host}")


if __name__ == "__main__":
    main()
