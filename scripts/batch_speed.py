#!/usr/bin/env python
"""What `dreamfusion batch` costs beside a plain pool of the same commands, and, by a simulation,
what more machines would bring.

    python -m scripts.batch_speed overhead --jobs 40
    python -m scripts.batch_speed simulate shelf --places 2 --machines 1 2 4 8

overhead: runs of a few steps, in two halves each way, in the order batch, pool, pool, batch, so
that a machine that gets slower does not favour one. The pool starts the same `dreamfusion train`
with the same number of threads, as many at once, and does nothing else.

simulate: nothing is run. The measured times of a finished batch's jobs, in its order, are handed to
whichever place is free first, one after another, each taking the driver a moment.
"""

from __future__ import annotations

import argparse
import heapq
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dreamfusion.batch.attempt import environment
from dreamfusion.batch.jobs import find_shelf, read_json

SMALL = (
    "device=cpu", "prior.name=embedded", "render.resolution=16", "output.mesh_resolution=16",
    "output.texture_size=0", "output.video_frames=1", "output.video_size=16",
)  # fmt: skip
SETTINGS = [word for setting in SMALL for word in ("--set", setting)]
HAND_OUT_SECONDS = 0.2  # of the driver, for one job at most: it looks so often


def simulate(
    durations: Sequence[float], *, places: int, hand_out: float = HAND_OUT_SECONDS
) -> float:
    """Seconds until jobs of these durations are done, by a driver that hands each, in order, to the
    place that is free first, and needs `hand_out` seconds for each."""
    free, driver, last = [0.0] * places, 0.0, 0.0
    for duration in durations:
        driver = max(driver, free[0]) + hand_out
        end = driver + duration
        heapq.heapreplace(free, end)
        last = max(last, end)
    return last


def run_batch(seeds: range, places: int, steps: int) -> float:
    """Seconds that `dreamfusion batch` takes for a job for each seed."""
    with tempfile.TemporaryDirectory(prefix="batch-speed-") as folder:
        prompts = Path(folder) / "prompts.txt"
        prompts.write_text("a red mug\n")
        command = [sys.executable, "-m", "dreamfusion", "batch", str(prompts), "--quiet"]
        command += ["--out", f"{folder}/shelf", "--seeds", str(len(seeds)), "--steps", str(steps)]
        command += ["--seed", str(seeds.start), "--jobs", str(places), *SETTINGS]
        started = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - started


def run_pool(seeds: range, places: int, steps: int) -> float:
    """Seconds that a pool of `dreamfusion train` takes for the same."""
    with tempfile.TemporaryDirectory(prefix="batch-speed-") as folder:

        def train(seed: int) -> None:
            command = [sys.executable, "-m", "dreamfusion", "train", "a red mug", "--quiet"]
            command += ["--out", f"{folder}/{seed}", "--seed", str(seed), "--steps", str(steps)]
            subprocess.run(
                [*command, *SETTINGS], check=True, env=environment(1), stdout=subprocess.DEVNULL
            )

        started = time.perf_counter()
        with ThreadPoolExecutor(places) as pool:
            list(pool.map(train, seeds))
        return time.perf_counter() - started


def overhead(jobs: int, places: int, steps: int) -> None:
    """Time both ways, and say what the engine costs."""
    half = jobs // 2
    first, second = range(half), range(half, jobs)
    batch = [run_batch(first, places, steps)]
    pool = [run_pool(first, places, steps), run_pool(second, places, steps)]
    batch += [run_batch(second, places, steps)]
    print(f"batch {sum(batch):.1f} s ({batch[0]:.1f} + {batch[1]:.1f}) for {2 * half} jobs")
    print(f"pool  {sum(pool):.1f} s ({pool[0]:.1f} + {pool[1]:.1f})")
    print(f"overhead {sum(batch) / sum(pool) - 1:+.1%}")


def times_of(shelf: Path) -> list[float]:
    """Seconds that each done job of a batch took."""
    found = [read_json(folder.done_file) for folder in find_shelf(shelf).jobs().values()]
    return [float(done["seconds"]) for done in found if "seconds" in done]


def tell(shelf: Path, machines: Sequence[int], places: int) -> None:
    """Print what the simulation says of so many machines as the one that the batch ran on."""
    times = times_of(shelf)
    if not times:
        sys.exit(f"{shelf} holds no job that is done")
    mean = statistics.fmean(times)
    print(f"{len(times)} jobs, {mean:.0f} s each, measured; the rest is a simulation\n")
    print("| machines | jobs an hour | of N times one |\n|---|---|---|")
    one = simulate(times, places=places)
    for number in machines:
        seconds = simulate(times * number, places=places * number)
        rate = 3600 * len(times) * number / seconds
        print(f"| {number} | {rate:.0f} | {one / seconds:.0%} |")
    print(f"\n{json.dumps({'places': places, 'hand_out_seconds': HAND_OUT_SECONDS})}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    timed = commands.add_parser("overhead")
    timed.add_argument("--jobs", type=int, default=40)
    timed.add_argument("--steps", type=int, default=3)
    timed.add_argument("--places", type=int, default=2)
    foreseen = commands.add_parser("simulate")
    foreseen.add_argument("shelf", type=Path)
    foreseen.add_argument("--machines", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    foreseen.add_argument("--places", type=int, default=2, help="at once on each machine")
    args = parser.parse_args()
    if args.command == "overhead":
        overhead(args.jobs, args.places, args.steps)
    else:
        tell(args.shelf, args.machines, args.places)


if __name__ == "__main__":
    main()
