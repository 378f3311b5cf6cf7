"""Train the embedded prior on the toy world and save it in diffusers' folder layout.

    python -m scripts.embedded_prior --steps 6000 --out assets/embedded-prior

On a CPU, one process per core is faster than one thread per core (each process has its own batch):

    torchrun --nproc-per-node 2 -m scripts.embedded_prior

Training is deterministic for a seed and resumable (run the same command again), on the CPU or on
CUDA. The model is a pixel-space text-to-image diffusion model, 64x64, v-prediction: a small
UNet2DConditionModel, trained together with a CLIPTextModel. Working files (geometry of the data,
training state, sample sheets) are written to `--work`, the final model to `--out`.

First, for `--word-steps`, the text encoder is trained alone on thumbnails without noise
(`learn_words`), similar to Stable Diffusion's, which was trained on images as part of CLIP. The
first `--half-steps` use twice as many images at half the size. Later, every other step does so,
which keeps the model usable for both sizes; with `--full-size`, no step does.

Both models are optimised by Muon (`muon.py`). Differences that few images show, such as front and
back, have small gradients, and AdamW learns them late. A step takes a third longer on two cores.

The learning rate is constant after its warm-up and decreases linearly to zero over the last
`--decay-steps`. To continue a finished training, increase the number of steps.
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
