"""Futures: estimate pi with random numbers, and use each result as it arrives.

`cw.ClusterExecutor` is a `concurrent.futures.Executor`: code for a ProcessPoolExecutor works with it.
"""

import random
from concurrent.futures import as_completed

import cw

BATCHES = 20
DRAWS = 100_000


def count_hits(seed):
    """Draw points in a square, and count those in the circle. Runs on a worker."""
    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 < 1 for _ in range(DRAWS))


def main():
    with cw.mp.allocate(2), cw.ClusterExecutor() as executor:
        seed_by_future = {executor.submit(count_hits, seed): seed for seed in range(BATCHES)}
        hits = 0
        for done, future in enumerate(as_completed(seed_by_future), 1):
            hits += future.result()
            print(f"seed {seed_by_future[future]:2}: pi is about {4 * hits / (done * DRAWS):.4f}")


if __name__ == "__main__":
    main()
