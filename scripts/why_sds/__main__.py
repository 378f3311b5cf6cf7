"""One claim about SDS, as an experiment of about a minute with the embedded prior.

    python -m scripts.why_sds EXPERIMENT OUT

Prints a table and writes OUT/EXPERIMENT.json, and the figure OUT/EXPERIMENT.png and .webp.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import dreamfusion as df
from scripts.why_sds.result import Result

EXPERIMENTS = ("jacobian", "levels", "guidance", "weighting", "sampling", "clip", "scenes")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one experiment."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.why_sds",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiment", choices=EXPERIMENTS)
    parser.add_argument("out", type=Path, help="folder for the figure and the numbers")
    parser.add_argument("--steps", type=_positive, help="optimisation steps of each image")
    parser.add_argument("--seeds", type=_positive, help="images of each noun")
    args = parser.parse_args(arguments)
    try:
        args.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"{args.out} cannot be a folder: {error.strerror}")
    given = {name: getattr(args, name) for name in ("steps", "seeds") if getattr(args, name)}
    begun, threads = time.perf_counter(), torch.get_num_threads()
    prior = df.DiffusionPrior.from_pretrained("embedded")
    result: Result = importlib.import_module(f"scripts.why_sds.{args.experiment}").run(
        prior, **given
    )
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time()
    print(result.table())
    print(
        f"{seconds:.0f} s ({cpu_seconds:.0f} s of CPU time), torch {torch.__version__}, "
        f"{threads} of torch's threads"
    )
    result.figure.save(args.out / f"{args.experiment}.png")
    result.figure.save(args.out / f"{args.experiment}.webp", quality=85, method=6)
    content = {
        "experiment": args.experiment,
        **given,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),
        "torch": torch.__version__,
        "threads": threads,
        "rows": result.rows,
    }
    text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    (args.out / f"{args.experiment}.json").write_text(text, encoding="utf-8")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive whole number")
    return int(text)


if __name__ == "__main__":
    main()
