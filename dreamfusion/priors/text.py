"""Encodes texts with the method `encode_prompt` of each pipeline's class in diffusers.

A text encoder is loaded at its first use, and can be freed once all texts of a run are encoded: the
largest encoders are larger than the denoiser. `encode_prompt` runs one encoder after the other, so
that with proxies for the encoders, only one of them needs to be in memory at a time.
"""

from __future__ import annotations

import inspect
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from dreamfusion.diffusion.condition import TextEmbedding
from dreamfusion.priors.layout import LAYOUTS, OPTIONAL, UNUSED, PriorError
from dreamfusion.priors.loading import load_part
from dreamfusion.priors.reading import PromptError
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.utils.errors import RunWarning, one_line

# Pipelines read only the last layers of an encoder.
_LAYERS_READ = 2
# Maximum number of truncated texts in one warning.
_CUTS_NAMED = 3
# The pipeline setting that encodes an empty text as zeros (Stable Diffusion XL).
_ZEROS = "force_zeros_for_empty_prompt"
# The distinct truncated ends of prompts, by the maximum number of tokens of an encoder.
Cut = defaultdict[int, dict[str, None]]


class _TextEncoder(torch.nn.Module):
    """Proxy for a text encoder in a pipeline. start: called before each use of the model; loads the
    model if necessary."""

    def __init__(
        self,
        name: str,
        config: Mapping[str, Any],
        device: str,
        start: Callable[[_TextEncoder], None],
    ) -> None:
        super().__init__()
        self.name, self.config = name, SimpleNamespace(**config)
        self.device = torch.device(device)
        self.dtype = torch.float32  # until the model is loaded
        self.model: Any = None
        self._start = start

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> Any:
        """The model's output for tokens (n, length). Each text is encoded separately, so that the
        last bits of an embedding do not depend on the batch. Raises PriorError for unknown tokens.
        """
        self._start(self)
        self.dtype = self.model.dtype
        known = self.model.get_input_embeddings().num_embeddings
        if (largest := int(input_ids.max())) >= known:
            raise PriorError(
                f"the tokenizer of {self.name} gives the token {largest}, and {self.name} "
                f"knows {known}: they are of different models; save the pipeline whole"
            )
        masks = [None] * len(input_ids) if attention_mask is None else attention_mask.split(1)
        outputs = []
        for ids, mask in zip(input_ids.split(1), masks, strict=True):
            output = self.model(ids, attention_mask=mask, output_hidden_states=output_hidden_states)
            if output_hidden_states:
                output["hidden_states"] = output.hidden_states[-_LAYERS_READ:]
            outputs.append(output)
        batch = {key: _cat([output[key] for output in outputs]) for key in outputs[0]}
        return type(outputs[0])(**batch)


def _cat(values: Sequence[Any]) -> Any:
    """Concatenate tensors, or tuples of tensors, along the first axis."""
    if isinstance(values[0], tuple):
        return tuple(torch.cat(tensors) for tensors in zip(*values, strict=True))
    return torch.cat(list(values))


class _Tokenizer:
    """A tokenizer that records truncated text. positions: the encoder's maximum number of tokens,
    if known; the tokenizer's file may lack a limit."""

    def __init__(self, tokenizer: Any, positions: int | None, cut: Cut) -> None:
        self._tokenizer, self._cut = tokenizer, cut
        limit = tokenizer.model_max_length
        self.model_max_length = limit if positions is None else min(limit, positions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        found = self._tokenizer(text, **options)
        if options.get("truncation"):
            limit = options["max_length"]
            for prompt in [text] if isinstance(text, str) else text:
                ids = self._tokenizer(prompt).input_ids
                if len(ids) > limit:
                    # The last kept token is the end-of-text token.
                    end = self._tokenizer.decode(ids[limit - 1 :], skip_special_tokens=True)
                    self._cut[limit][end.strip()] = None
        return found


class TextEncoders:
    """The text encoders of a prior, with a cache of embeddings.

    name: of the prior, for messages. pipeline: its class name. configs: of each component with
    weights. settings: of the pipeline. load: loads a text encoder or a tokenizer by its name in the
    pipeline. device: of the encoders and of the float32 embeddings. offload: keep the encoders on
    the CPU while they are not running.
    """

    def __init__(
        self,
        name: str,
        pipeline: str,
        configs: Mapping[str, Mapping[str, Any]],
        settings: Mapping[str, Any],
        load: Callable[[str], Any],
        *,
        device: str,
        offload: bool = False,
    ) -> None:
        self.name, self.device, self.offload = name, device, offload
        self._load = load
        self._cut: Cut = defaultdict(dict)
        self._encoders: dict[str, _TextEncoder] = {}  # those whose models are loaded
        self._keep = True
        self._embeddings: dict[str, TextEmbedding] = {}
        self._pipeline: Any = self._build(pipeline, configs, settings)

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode `prompts` with one encoder in memory at a time, and free the encoders. Afterwards
        `encode` accepts only these prompts. Raises PromptError as `encode` does."""
        self._keep = False
        self._encode(prompts)
        self._stop()
        self._pipeline = None

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings of n prompts; each distinct prompt is encoded once.

        A prompt that is too long for the encoders is truncated, with a RunWarning. After `prepare`,
        raises PromptError for a prompt that was not prepared.
        """
        self._encode(prompts)
        return TextEmbedding.cat([self._embeddings[prompt] for prompt in prompts])

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> None:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeddings]
        if not new:
            return
        if self._pipeline is None:
            raise PromptError(
                f"{new[0]!r} is not among the prepared prompts, and the text encoders are no "
                "longer in memory; prepare all prompts of a run at once"
            )
        self._cut.clear()
        try:
            found = _encode_prompts(self._pipeline, new, self.device)
        finally:
            self._stop()
        self._embeddings |= {prompt: found[i : i + 1] for i, prompt in enumerate(new)}
        for limit, ends in self._cut.items():
            named = ", ".join(repr(one_line(text, 80)) for text in list(ends)[:_CUTS_NAMED])
            more = f" and {len(ends) - _CUTS_NAMED} more" if len(ends) > _CUTS_NAMED else ""
            message = (
                f"{self.name} cuts its texts off after {limit} tokens and ignores {named}{more}; "
                "shorten the prompt"
            )
            warnings.warn(RunWarning(message), stacklevel=3)

    def _start(self, encoder: _TextEncoder) -> None:
        """Load the model of an encoder, and free or offload the others if configured."""
        self._stop()
        if encoder.model is None:
            encoder.model = self._load(encoder.name)
        encoder.model.to(self.device)
        self._encoders[encoder.name] = encoder

    def _stop(self) -> None:
        """Free the loaded models during `prepare`, or move them to the CPU with offloading."""
        if self._keep and not self.offload:
            return
        for encoder in self._encoders.values():
            encoder.model = encoder.model.to("cpu") if self._keep else None
        if not self._keep:
            self._encoders.clear()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _build(
        self, pipeline: str, configs: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> Any:
        """A pipeline that contains only tokenizers and proxies for text encoders."""
        parts: dict[str, Any] = {**UNUSED, _ZEROS: settings.get(_ZEROS, True)}
        for name, config in configs.items():
            if name.startswith("text_encoder"):
                parts[name] = _TextEncoder(name, config, self.device, self._start)
                tokenizer = name.replace("text_encoder", "tokenizer")
                limit = config.get("max_position_embeddings")
                parts[tokenizer] = _Tokenizer(self._load(tokenizer), limit, self._cut)
            elif name == "transformer":  # `encode_prompt` reads only its configuration
                parts[name] = torch.nn.Module()
                parts[name].config = SimpleNamespace(**config)
        # An IFPipeline with CLIP, such as the embedded prior, was trained without an attention mask
        # for padding; IFPipeline's `encode_prompt`, made for T5, would mask the padding.
        is_clip = pipeline == "IFPipeline" and configs["text_encoder"].get("model_type") != "t5"
        cls = getattr(diffusers, "StableDiffusionPipeline" if is_clip else pipeline)
        parameters = inspect.signature(cls.__init__).parameters
        absent = [n for n, p in parameters.items() if n != "self" and p.default is p.empty]
        given = {name: part for name, part in parts.items() if name in parameters}
        return cls(**dict.fromkeys(absent) | given)


def _encode_prompts(pipeline: Any, prompts: list[str], device: str) -> TextEmbedding:
    """Encode n prompts with a pipeline. An empty prompt is encoded like an absent negative one."""
    parameters = inspect.signature(pipeline.encode_prompt).parameters
    found = pipeline.encode_prompt(
        prompt=prompts,
        device=torch.device(device),
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        **{name: None for name in ("prompt_2", "prompt_3") if name in parameters},
    )
    # (with, without) the prompt, and for some pipelines the same pooled.
    tokens, *pooled = (part.float() for part in found[::2])
    if pipeline.config.get(_ZEROS) and "" in prompts:
        for part in (tokens, *pooled):
            part[prompts.index("")] = 0.0
    return TextEmbedding(tokens, *pooled)


def encoders_of(
    prior: ResolvedPrior, *, device: str, dtype: torch.dtype, offload: bool
) -> TextEncoders:
    """The text encoders of a prior, each loaded in `dtype` at its first use."""

    def load(name: str) -> Any:
        kind = dtype if name.startswith("text_encoder") else None
        return load_part(prior, name, transformers, kind)

    parts = (prior.name, prior.pipeline, prior.configs, prior.index, load)
    return TextEncoders(*parts, device=device, offload=offload)


def encoders_of_pipe(
    pipe: Any, name: str, configs: Mapping[str, Mapping[str, Any]]
) -> TextEncoders:
    """The text encoders of a loaded diffusers pipeline, on their device. name: of the prior.
    configs: of the pipeline's components. Raises PriorError if a required part is missing."""
    kind = type(pipe).__name__
    for part in LAYOUTS[kind]:
        is_needed = part.startswith(("text_encoder", "tokenizer")) and part not in OPTIONAL
        if is_needed and getattr(pipe, part, None) is None:
            raise PriorError(f"the {kind} has no {part}, which the prompts need; load it whole")

    def load(name: str) -> Any:
        part = getattr(pipe, name)
        return part.requires_grad_(False).eval() if name.startswith("text_encoder") else part

    device = str(pipe.text_encoder.device)
    return TextEncoders(name, kind, configs, pipe.config, load, device=device)
