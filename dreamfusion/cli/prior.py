"""`sample` and `vocabulary`: what a prior draws and what it knows."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from dreamfusion.cli.console import Console
from dreamfusion.cli.options import (
    DeviceOption,
    JsonOption,
    PriorOption,
    PromptArgument,
    QuietOption,
)
from dreamfusion.config.layers import Layer
from dreamfusion.priors.view_prompts import view_prompts
from dreamfusion.runs.folder import free_path, slug
from dreamfusion.runs.plan import plan_run
from dreamfusion.utils.errors import UserError


def sample(
    prompt: PromptArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Picture to write. [default: samples/PROMPT.png]"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=256, help="Pictures, around the object.")] = 8,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance.")] = 5.0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    prior: PriorOption = None,
    device: DeviceOption = None,
    quiet: QuietOption = False,
    json_: JsonOption = False,
) -> None:
    """Let the prior draw the prompt, view by view: what it thinks before you spend time."""
    console = Console(quiet=quiet, json=json_)
    layers = [Layer("command line", {"prompt": prompt, "prior": {"name": prior or "auto"}})]
    if device is not None:
        layers.append(Layer("--device", {"device": device}))
    plan = plan_run(layers)
    target = out or Path("samples") / f"{slug(prompt)}.png"

    import torch

    from dreamfusion.graphics.media import contact_sheet, write_png
    from dreamfusion.priors import DiffusionPrior, load_prior
    from dreamfusion.priors.sampling import sample_images
    from dreamfusion.utils.devices import choose_device

    assert plan.prior is not None
    azimuth = [360.0 * i / count for i in range(count)]
    texts = view_prompts(plan.prior.card.vocabulary, plan.canonical_prompt, azimuth, [15.0] * count)
    model = load_prior(
        plan.prior,
        # The estimate of memory is for training: nothing is kept here for a backward pass.
        dataclasses.replace(plan.config.prior, vae_checkpointing=True),
        device=choose_device(plan.config.device),
        prompts=[*texts, ""],
        views=count,
    )
    if not isinstance(model, DiffusionPrior):
        raise UserError(f"the prior {model.name} cannot draw: it is no pipeline of diffusers")
    pictures = sample_images(
        model,
        model.encode_text(texts),
        model.encode_text([""]),
        guidance=guidance,
        steps=steps,
        generator=torch.Generator().manual_seed(seed),
    )
    target = free_path(target, suffix=target.suffix)
    write_png(contact_sheet(pictures.movedim(1, -1), columns=min(count, 8)), target)
    for text in dict.fromkeys(texts):
        console.say(f"          {text}")
    console.say(f"pictures  {target}")
    console.result({"files": [target], "prompts": texts})


def vocabulary(prior: PriorOption = None) -> None:
    """Print the words that a prior knows."""
    from dreamfusion.priors import resolve_prior

    found = resolve_prior(prior or "embedded")
    card = found.card
    words = card.vocabulary.words
    if words is None:
        print(f"{found.name} takes any words")
        return
    meanings: dict[str, list[str]] = {}
    for word, meaning in words.items():
        meanings.setdefault(meaning, [])
        if word != meaning:
            meanings[meaning].append(word)
    fillers = sorted(meanings.pop("", []))
    kinds = dict(card.kinds) or {"words": tuple(sorted(meanings))}
    for kind, members in kinds.items():
        print(f"{kind}:")
        for member in members:
            others = meanings.get(member, [])
            print(f"  {member}" + (f" ({', '.join(others)})" if others else ""))
    if fillers:
        print(f"ignored: {', '.join(fillers)}")
