"""How dense must a forest be for a fire to cross it? A sweep that may be killed at any time and continues after that.

Each cell of a square has a tree with some probability, and the trees at one edge are set on fire. A tree next to a
burning one catches fire. Near a density of 0.593, the probability that the fire reaches the other edge jumps from 0 to
1 (site percolation). Each job grows and burns one forest. All results are in the store `sweep.cw` before they are used:
kill this program (Ctrl-C, kill -9) and run it again; it computes only missing results.

It runs on a cluster on this machine, with one slot for each usable CPU. The plot needs matplotlib, the progress bar
tqdm: run pip install '.[examples]' beside setup.py. With --host it uses a cluster that runs already.
"""

import argparse
import contextlib
import importlib.util
import os
import random

import cw

SIZES = (32, 64, 128)
DENSITIES = [0.50 + 0.005 * step for step in range(37)]


def burn(size, density, seed):
    """Grow a forest and burn it; returns whether the fire reached the other edge, and the steps until it was out."""
    random_number = random.Random(f"{size} {density:.4f} {seed}").random
    # A border without trees, so that every cell has four neighbours.
    width = size + 2
    is_tree = bytearray(width * width)
    for row in range(1, size + 1):
        for column in range(1, size + 1):
            is_tree[row * width + column] = random_number() < density
    burning = [width + column for column in range(1, size + 1) if is_tree[width + column]]
    for cell in burning:
        is_tree[cell] = 0
    steps, has_crossed = 0, False
    while burning:
        steps += 1
        has_crossed = has_crossed or any(cell // width == size for cell in burning)
        following = []
        for cell in burning:
            for neighbour in (cell - width, cell - 1, cell + 1, cell + width):
                if is_tree[neighbour]:
                    is_tree[neighbour] = 0
                    following.append(neighbour)
        burning = following
    return size, density, has_crossed, steps


def sweep(options):
    """Burn all forests; returns, by size and density, the number that the fire crossed, and the sum of its steps."""
    calls = [(n, d, seed) for n in SIZES for d in DENSITIES for seed in range(options.forests)]
    random.Random(0).shuffle(calls)  # so that the outline of the curve appears early
    crossed, steps = {}, {}
    results = cw.map(
        burn,
        *zip(*calls, strict=True),
        host=options.host,
        store=options.store,
        progress=importlib.util.find_spec("tqdm") is not None,
        as_completed=True,
        chunksize=10,
    )
    for size, density, has_crossed, duration in results:
        crossed[size, density] = crossed.get((size, density), 0) + has_crossed
        steps[size, density] = steps.get((size, density), 0) + duration
    return crossed, steps


def report(crossed, forests):
    """Print the probability of a crossing at some densities, and the density at which it is one half."""
    print("density " + "".join(f"{size:>5}x{size:<5}" for size in SIZES))
    for density in DENSITIES[::4]:
        row = "".join(f"{crossed[size, density] / forests:8.2f}   " for size in SIZES)
        print(f"{density:.3f}  {row}")
    for size in SIZES:
        half = next(density for density in DENSITIES if crossed[size, density] >= forests / 2)
        print(f"{size}x{size}: one fire in two crosses at a density of {half:.3f}")


def plot(crossed, steps, forests, path):
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("for the plot: pip install matplotlib")
        return
    matplotlib.use("Agg")  # into a file, without a window
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for size in SIZES:
        left.plot(
            DENSITIES, [crossed[size, density] / forests for density in DENSITIES], label=f"{size}x{size}"
        )
        right.plot(DENSITIES, [steps[size, density] / forests / size for density in DENSITIES])
    left.set(xlabel="density of trees", ylabel="fires that cross")
    right.set(xlabel="density of trees", ylabel="steps until it is out / size")
    for axes in left, right:
        axes.set_xticks([0.50, 0.55, 0.60, 0.65])
        axes.axvline(0.5927, color="gray", linewidth=0.8, linestyle=":")
    left.legend(frameon=False)
    figure.savefig(path, dpi=80)
    print(f"the plot is in {path}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--forests", type=int, default=100, help="number for each size and density (default: 100)"
    )
    parser.add_argument("--store", default="sweep.cw", help="directory of the results (default: sweep.cw)")
    parser.add_argument("--host", help="host of a running master (default: a cluster on this machine)")
    parser.add_argument("--plot", default="sweep.png", help="file of the plot (default: sweep.png)")
    options = parser.parse_args()
    slots = len(os.sched_getaffinity(0))
    with contextlib.nullcontext() if options.host else cw.mp.allocate(slots):
        crossed, steps = sweep(options)
    report(crossed, options.forests)
    plot(crossed, steps, options.forests, options.plot)


if __name__ == "__main__":
    main()
