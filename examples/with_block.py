"""Everything in `with` blocks: the client starts and, at the end, waits and stops; the cluster comes and goes."""

import socket

import cw

squares = {}


def keep(jobid, result):
    """Called in the client's thread, one call at a time, so it needs no lock."""
    squares[jobid] = result


def square(number):
    """Runs on a worker."""
    return number * number, socket.gethostname()


def main():
    with cw.mp.allocate(2) as cluster:
        print(f"{cluster.slots} slots at {cluster.master}")
        with cw.client.ClientThread(keep) as client:
            numbers = {client.submit(square, number): number for number in range(10)}
        # Here all results have come. Had a job failed, its exception would have been raised at the block's end.
    for jobid, number in numbers.items():
        result, host = squares[jobid]
        print(f"job {jobid}: the square of {number} is {result}, says {host}")


if __name__ == "__main__":
    main()
