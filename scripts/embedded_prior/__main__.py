"""Train the embedded prior on the toy world and save it in diffusers' folder layout.

    python -m scripts.embedded_prior --steps 6000 --out assets/embedded-prior

On a CPU, a process a core is faster than a thread a core (each has a batch of its own):

    torchrun --nproc-per-node 2 -m scripts.embedded_prior

Deterministic for a seed, resumable (run the same command again), on the CPU or on CUDA. What it
trains is a pixel-space text-to-image diffusion model, 64x64, v-prediction: a small
UNet2DConditionModel with a CLIPTextModel trained along with it. Working files (geometry of the
data, training state, sample sheets) go to `--work`, the model to `--out` when all steps are done.

Before that, in `--word-steps`, the text encoder learns alone what its words look like, from
thumbnails without noise (`learn_words`); Stable Diffusion's had learned from pictures too, by CLIP.
The first `--half-steps` are taken at half the size, on twice as many pictures each; after them
every other step is, so that the model remains a judge of both sizes; with `--full-size`, none is.

Then Muon (`muon.py`) trains both: what few pictures tell apart, a front from a back, has a
small gradient, and with AdamW it was learned late. A step takes a third longer on two cores.

The learning rate is constant after its warm-up and falls linearly to zero over the last
`--decay-steps`: to go on from a finished state, ask for more steps; to end early, for fewer.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

BEGAN = time.time()
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # share the cores: before torch is loaded

import torch

from scripts.embedded_prior.training import train


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=20000)
    parser.add_argument("--word-steps", type=int, default=4000, help="of the text encoder alone")
    parser.add_argument("--half-steps", type=int, default=5000, help="first steps at half size")
    parser.add_argument(
        "--full-size", dest="half_steps", action="store_const", const=None, help="no half size"
    )
    parser.add_argument("--decay-steps", type=int, default=1500)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument(
        "--noise-power", type=float, default=2.0, help="timesteps are 1 - u^it of all; 1: uniform"
    )
    parser.add_argument("--views-per-noun", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--seconds",
        type=float,
        help="end so long after the start, geometry and all; the rate has fallen to zero by then",
    )
    parser.add_argument("--save-every", type=int, default=250, help="steps between states")
    parser.add_argument("--sheet-every", type=int, default=1000, help="steps between sheets")
    parser.add_argument("--sheet-steps", type=int, default=25, help="denoising steps of a sheet")
    parser.add_argument("--work", type=Path, default=Path(".training/embedded-prior"))
    parser.add_argument("--init", type=Path, help="start from a saved prior's weights")
    parser.add_argument("--began-with", help="what --init had learned, for the model card")
    parser.add_argument("--out", type=Path, default=Path("assets/embedded-prior"))
    parser.set_defaults(began=BEGAN)
    return parser.parse_args()


if __name__ == "__main__":
    train(parse_arguments())
