"""The commands `sample` and `vocabulary`: images of a prior, and its vocabulary."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer

from dreamfusion.cli import options
from dreamfusion.cli.console import Console
from dreamfusion.config.layers import Layer, given
from dreamfusion.config.nested import merged
from dreamfusion.priors.reading import Words
from dreamfusion.runs.folder import free_path, slug
from dreamfusion.runs.plan import plan_run
from dreamfusion.utils.errors import UserError

Prompts = Literal["nouns", "benchmark"]


def sample(
    prompt: options.PromptArgument,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Image to write. [default: samples/PROMPT.png]"),
    ] = None,
    count: Annotated[int, typer.Option(min=1, max=256, help="Views around the object.")] = 8,
    guidance: Annotated[float, typer.Option(min=0, help="Classifier-free guidance.")] = 5.0,
    steps: Annotated[int, typer.Option(min=1, max=1000, help="Denoising steps.")] = 50,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the noise.")] = 0,
    prior: options.PriorOption = None,
    lora: options.LoraOption = None,
    device: options.DeviceOption = None,
    quiet: options.QuietOption = False,
    json_: options.JsonOption = False,
) -> None:
    """Sample images of a prompt from the prior, view by view, as a quick check before training."""
    console, text = Console(quiet=quiet, json=json_), " ".join(prompt)
    asked = given(prompt=text, device=device, prior=prior)
    plan = plan_run([Layer("command line", merged(asked, options.loras_of(lora)))])
    target = out or Path("samples") / f"{slug(text)}.png"

    import torch

    from dreamfusion.graphics.media import contact_sheet, write_png
    from dreamfusion.priors import DiffusionPrior, load_prior
    from dreamfusion.priors.sampling import sample_images
    from dreamfusion.utils.devices import choose_device

    assert plan.prior is not None
    azimuth = [360.0 * i / count for i in range(count)]
    words = plan.prior.card.vocabulary
    texts = [words.view_prompt(plan.canonical_prompt, at, 15.0) for at in azimuth]
    model = load_prior(
        plan.prior,
        # The memory estimate is for training; sampling has no backward pass.
        dataclasses.replace(plan.config.prior, vae_checkpointing=True),
        device=choose_device(plan.config.device),
        prompts=[*texts, ""],
        views=count,
    )
    if not isinstance(model, DiffusionPrior):
        raise UserError(f"the prior {model.name} cannot sample: it is not a diffusers pipeline")
    encoded, nothing = model.encode_text(texts), model.encode_text([""])
    numbers = torch.Generator().manual_seed(seed)
    images = sample_images(
        model, encoded, nothing, guidance=guidance, steps=steps, generator=numbers
    )
    target = free_path(target, suffix=target.suffix)
    write_png(contact_sheet(images.movedim(1, -1), columns=min(count, 8)), target)
    for view in dict.fromkeys(texts):
        console.say(f"          {view}")
    console.say(f"images    {target}")
    console.result({"files": [target], "prompts": texts})


def vocabulary(
    prior: options.PriorOption = None,
    prompts: Annotated[
        Prompts | None,
        typer.Option(
            help="Print prompts for `batch` instead: every noun, or the 24 of the benchmark."
        ),
    ] = None,
) -> None:
    """Print the words that a prior knows."""
    if prompts is not None:
        from dreamfusion.evaluation import truth

        for prompt in truth.prompts(all_nouns=prompts == "nouns"):
            print(prompt)
        return
    from dreamfusion.priors import resolve_prior

    found = resolve_prior(prior or "embedded")
    words = found.card.vocabulary.words
    if words is None:
        print(f"{found.name} accepts any words")
        return
    if words.nouns:
        example = f", for example: {words.examples[0]}" if words.examples else ""
        print(f"A prompt takes one noun, at most one colour and adjectives{example}")
    for title, members in _sections(words).items():
        print(f"{title}:")
        for member in members:
            synonyms = ", ".join(w for w, m in words.meanings.items() if m == member != w)
            print(f"  {member}" + (f" ({synonyms})" if synonyms else ""))
    if fillers := sorted(word for word, meaning in words.meanings.items() if not meaning):
        print(f"ignored: {', '.join(fillers)}")


def _sections(words: Words) -> dict[str, list[str]]:
    """The trained words by title: groups of nouns, other nouns, colours, adjectives, others."""
    sections = {name: list(nouns) for name, nouns in words.groups.items()}
    known: set[str] = set().union(*sections.values())
    nouns = "other nouns" if sections else "nouns"
    sections[nouns] = [noun for noun in words.nouns if noun not in known]
    sections |= {"colors": list(words.colors), "adjectives": list(words.adjectives)}
    known = known.union(*sections.values())
    sections["other words" if known else "words"] = sorted(
        {*words.meanings.values()} - known - {""}
    )
    return {name: members for name, members in sections.items() if members}
