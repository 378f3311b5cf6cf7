"""Text to embeddings: which encoders a pipeline has and how it puts their answers together.

A text encoder is loaded when a text must be encoded, and can be forgotten once all texts of a run
are known: the largest of them are larger than the model that denoises.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from dreamfusion.diffusion.condition import TextEmbedding
from dreamfusion.priors.files import require_json
from dreamfusion.priors.layout import INDEX
from dreamfusion.priors.loading import load_part
from dreamfusion.priors.reading import PromptError
from dreamfusion.priors.resolve import ResolvedPrior

# How many tokens the T5 encoders read: fewer than they could, as the models were trained.
IF_TOKENS = 77
SD3_T5_TOKENS = 256


@dataclass(frozen=True)
class TextFacts:
    """What of a pipeline decides how its encoders' answers are put together.

    pipeline: its class. encoders: class of each text encoder. zeros_for_empty: an empty prompt is
    all zeros (Stable Diffusion XL). width: of a token, where the denoiser says it (SD3).
    """

    pipeline: str
    encoders: Mapping[str, str]
    zeros_for_empty: bool = True
    width: int = 0


class TextEncoder:
    """One text encoder and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model, tokenizer

    def __call__(
        self, prompt: str, *, length: int | None = None, mask: bool = False, layers: bool = False
    ) -> Any:
        """The model's answer to one prompt, padded to `length` tokens (None: all that it reads).

        mask: hide the padding from it. layers: have it tell the states of every layer.
        """
        limit = length or min(
            self.tokenizer.model_max_length, self.model.config.max_position_embeddings
        )
        needed = len(self.tokenizer(prompt).input_ids)
        if needed > limit:
            raise PromptError(
                f"the prompt is too long: {needed} tokens with its view words, {limit} can be read"
            )
        tokens = self.tokenizer(prompt, padding="max_length", max_length=limit, return_tensors="pt")
        tokens = tokens.to(self.model.device)
        return self.model(
            tokens.input_ids,
            attention_mask=tokens.attention_mask if mask else None,
            output_hidden_states=layers,
        )


class TextEncoders:
    """The text encoders of a prior and what they have encoded.

    load: gives an encoder by its name in the pipeline. device: where they run, and where the
    float32 embeddings are. offload: keep them on the CPU while they do not run.
    """

    def __init__(
        self,
        facts: TextFacts,
        load: Callable[[str], TextEncoder],
        *,
        device: str,
        offload: bool = False,
    ) -> None:
        self.facts, self.device, self.offload = facts, device, offload
        self._load = load
        self._encoders: dict[str, TextEncoder] = {}
        self._embeddings: dict[str, TextEmbedding] = {}
        self._closed = False

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode `prompts`, with one encoder in memory at a time; after that only they are known.

        The encoders' memory is free again afterwards. Raises PromptError as `encode` does.
        """
        self._encode(prompts, keep=False)
        self._encoders.clear()
        self._closed = True

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings of n prompts; each distinct prompt is encoded once.

        Raises PromptError for a prompt with more words than the model reads, or, after `prepare`,
        for one that was not prepared.
        """
        self._encode(prompts, keep=True)
        return TextEmbedding.cat([self._embeddings[prompt] for prompt in prompts])

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str], *, keep: bool) -> None:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeddings]
        if not new:
            return
        if self._closed:
            raise PromptError(
                f"{new[0]!r} is not among the prepared prompts, and the text encoders are no "
                "longer in memory; prepare all prompts of a run at once"
            )

        def ask(
            name: str, prompts: Sequence[str], read: Callable[[Any], Any], **options: Any
        ) -> list[Any]:
            """What `read` takes from an encoder's answer to each prompt."""
            encoder = self._encoders.pop(name, None) or self._load(name)
            encoder.model.to(self.device)
            # One by one, so that an embedding does not depend, in the last bit, on which other
            # prompts came with it.
            answers = [read(encoder(prompt, **options)) for prompt in prompts]
            if keep:
                self._encoders[name] = encoder
                if self.offload:
                    encoder.model.to("cpu")
            del encoder
            if self.device.startswith("cuda"):
                torch.cuda.empty_cache()
            return answers

        embeddings = RECIPES[self.facts.pipeline](self.facts, ask, new)
        for prompt, embedding in zip(new, embeddings, strict=True):
            self._embeddings[prompt] = embedding


# Asks one encoder for its answers to some prompts: see TextEncoders._encode.
Ask = Callable[..., list[Any]]


def _last(answer: Any) -> Tensor:
    """The states (1, length, width) after the last layer."""
    return answer.last_hidden_state.float()


def _penultimate(answer: Any) -> Tensor:
    """The states (1, length, width) before the last layer."""
    return answer.hidden_states[-2].float()


def _penultimate_and_pooled(answer: Any) -> tuple[Tensor, Tensor]:
    """The states before the last layer, and the text as one projected vector (1, width)."""
    return _penultimate(answer), answer.text_embeds.float()


def _stable_diffusion(facts: TextFacts, ask: Ask, prompts: list[str]) -> list[TextEmbedding]:
    """The last states of one CLIP."""
    return [TextEmbedding(tokens) for tokens in ask("text_encoder", prompts, _last)]


def _deepfloyd(facts: TextFacts, ask: Ask, prompts: list[str]) -> list[TextEmbedding]:
    """The last states of T5, for prompts in lower case. Or of CLIP, as in the embedded prior,
    which was trained with padding that is not hidden."""
    if facts.encoders["text_encoder"] == "CLIPTextModel":
        return _stable_diffusion(facts, ask, prompts)
    lower = [prompt.lower().strip() for prompt in prompts]
    states = ask("text_encoder", lower, _last, length=IF_TOKENS, mask=True)
    return [TextEmbedding(tokens) for tokens in states]


def _stable_diffusion_xl(facts: TextFacts, ask: Ask, prompts: list[str]) -> list[TextEmbedding]:
    """The last states but one of two CLIPs, side by side, and the second's pooled one.

    An empty prompt is all zeros where the model was trained so (force_zeros_for_empty_prompt).
    """
    first = ask("text_encoder", prompts, _penultimate, layers=True)
    second = ask("text_encoder_2", prompts, _penultimate_and_pooled, layers=True)
    embeddings = []
    for prompt, a, (b, pooled) in zip(prompts, first, second, strict=True):
        embedding = TextEmbedding(torch.cat([a, b], dim=-1), pooled)
        if not prompt and facts.zeros_for_empty:
            embedding = TextEmbedding(torch.zeros_like(embedding.tokens), torch.zeros_like(pooled))
        embeddings.append(embedding)
    return embeddings


def _stable_diffusion_3(facts: TextFacts, ask: Ask, prompts: list[str]) -> list[TextEmbedding]:
    """Two CLIPs as in XL, but both pooled; then, along the tokens, T5, or zeros without it."""
    width = facts.width
    first, second = (
        ask(name, prompts, _penultimate_and_pooled, layers=True)
        for name in ("text_encoder", "text_encoder_2")
    )
    if "text_encoder_3" in facts.encoders:
        t5 = ask("text_encoder_3", prompts, _last, length=SD3_T5_TOKENS)
    else:
        t5 = [first[0][0].new_zeros(1, SD3_T5_TOKENS, width)] * len(prompts)
    embeddings = []
    for (a, pooled_a), (b, pooled_b), c in zip(first, second, t5, strict=True):
        clips = torch.cat([a, b], dim=-1)
        clips = F.pad(clips, (0, width - clips.shape[-1]))
        tokens = torch.cat([clips, c], dim=1)
        embeddings.append(TextEmbedding(tokens, torch.cat([pooled_a, pooled_b], dim=-1)))
    return embeddings


def encoders_of(
    prior: ResolvedPrior, *, device: str, dtype: torch.dtype, offload: bool
) -> TextEncoders:
    """The text encoders of a folder, each loaded in `dtype` when it is asked."""
    problem = f"{prior.name} is broken"
    index = require_json(prior.path / INDEX, problem)
    width = 0
    if "transformer" in prior.components:
        config = require_json(prior.path / "transformer" / "config.json", problem)
        width = int(config["joint_attention_dim"])
    encoders = {k: v for k, v in prior.components.items() if k.startswith("text_encoder")}
    facts = TextFacts(
        prior.pipeline, encoders, bool(index.get("force_zeros_for_empty_prompt", True)), width
    )

    def load(name: str) -> TextEncoder:
        tokenizer = name.replace("text_encoder", "tokenizer")
        return TextEncoder(
            load_part(prior, name, transformers, dtype), load_part(prior, tokenizer, transformers)
        )

    return TextEncoders(facts, load, device=device, offload=offload)


def encoders_of_pipe(pipe: Any) -> TextEncoders:
    """The text encoders of a diffusers pipeline that is loaded, where they are."""
    names = [n for n in pipe.components if n.startswith("text_encoder") and getattr(pipe, n)]
    encoders = {name: type(getattr(pipe, name)).__name__ for name in names}
    transformer = getattr(pipe, "transformer", None)
    facts = TextFacts(
        type(pipe).__name__,
        encoders,
        bool(pipe.config.get("force_zeros_for_empty_prompt", True)),
        0 if transformer is None else transformer.config.joint_attention_dim,
    )

    def load(name: str) -> TextEncoder:
        tokenizer = getattr(pipe, name.replace("text_encoder", "tokenizer"))
        return TextEncoder(getattr(pipe, name).requires_grad_(False).eval(), tokenizer)

    return TextEncoders(facts, load, device=str(pipe.text_encoder.device))


RECIPES: dict[str, Callable[[TextFacts, Ask, list[str]], list[TextEmbedding]]] = {
    "StableDiffusionPipeline": _stable_diffusion,
    "StableDiffusionXLPipeline": _stable_diffusion_xl,
    "IFPipeline": _deepfloyd,
    "StableDiffusion3Pipeline": _stable_diffusion_3,
}
