"""One program for a laptop and for a Slurm cluster: if Slurm is present, `cw.allocate` submits jobs to it.

Run it on a login node, or in an allocation of any size: `python on_slurm.py`. The jobs in Slurm are gone when the block
ends, however it ends.
"""

import collections
import os

import cw


def count_primes(first, last):
    """Count the primes from `first` up to `last`; returns the number and the name of the node. Runs on a worker."""
    primes = sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(max(first, 2), last))
    return primes, os.environ.get("SLURMD_NODENAME", "this machine")


def main():
    width = 2000
    starts = range(0, 100_000, width)
    # Without Slurm, cw ignores the options for sbatch.
    with cw.allocate(4, worker_options=["--time=10"]) as cluster, cw.ClusterExecutor() as executor:
        print(f"{cluster.slots} slots")
        # A job starts only on a worker that has 30 seconds left.
        patient = executor.options(min_time=30)
        results = list(patient.map(count_primes, starts, [start + width for start in starts]))
    print(f"{sum(primes for primes, _ in results)} primes below 100000")
    for node, jobs in sorted(collections.Counter(node for _, node in results).items()):
        print(f"{node}: {jobs} jobs")


if __name__ == "__main__":
    main()
