"""Encodes texts with the method `encode_prompt` of each pipeline's class in diffusers.

The text encoders are loaded at their first use, and can be freed once all texts of a run are
encoded: the largest encoders are larger than the denoiser.
"""

from __future__ import annotations

import inspect
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers

from dreamfusion.diffusion.condition import TextEmbedding
from dreamfusion.priors.layout import LAYOUTS, OPTIONAL, UNUSED, PriorError, pipeline_class
from dreamfusion.priors.loading import load_part
from dreamfusion.priors.reading import PromptError
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.utils.errors import RunWarning, one_line

# Maximum number of truncated texts in one warning.
_CUTS_NAMED = 3
# The pipeline setting that encodes an empty text as zeros (Stable Diffusion XL).
_ZEROS = "force_zeros_for_empty_prompt"
# The distinct truncated ends of prompts, by the maximum number of tokens of an encoder.
Cut = defaultdict[int, dict[str, None]]


class _Tokenizer:
    """A tokenizer that records truncated text, and refuses tokens that the encoder does not know.
    config: of the encoder, whose length is a limit too, since the tokenizer's file may lack one."""

    def __init__(self, tokenizer: Any, config: Mapping[str, Any], cut: Cut) -> None:
        self._tokenizer, self._cut = tokenizer, cut
        self._known = config.get("vocab_size", math.inf)
        limit = tokenizer.model_max_length
        self.model_max_length = min(limit, config.get("max_position_embeddings", limit))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        found = self._tokenizer(text, **options)
        if options.get("truncation"):
            if (largest := int(found.input_ids.max())) >= self._known:
                raise PriorError(
                    f"a tokenizer gives the token {largest}, and its text encoder knows "
                    f"{self._known}: they are of different models; save the pipeline whole"
                )
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
        self._kind, self._configs, self._settings, self._load = pipeline, configs, settings, load
        self._cut: Cut = defaultdict(dict)
        self._embeddings: dict[str, TextEmbedding] = {}
        self._pipeline: Any = None
        self._prepared = False
        self.models: list[Any] = []  # the loaded encoders

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode `prompts`, and free the encoders. Afterwards `encode` accepts only these prompts.
        Raises PromptError as `encode` does."""
        self._encode(prompts)
        self._prepared, self._pipeline, self.models = True, None, []
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

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
        if self._prepared:
            raise PromptError(
                f"{new[0]!r} is not among the prepared prompts, and the text encoders are no "
                "longer in memory; prepare all prompts of a run at once"
            )
        if self._pipeline is None:
            self._pipeline = self._build()
        self._cut.clear()
        for model in self.models:
            model.to(self.device)
        # One at a time, so that the last bits of an embedding do not depend on the other prompts.
        self._embeddings |= {
            prompt: _encode_prompt(self._pipeline, prompt, self.device) for prompt in new
        }
        for model in self.models if self.offload else ():
            model.to("cpu")
        for limit, ends in self._cut.items():
            named = ", ".join(repr(one_line(text, 80)) for text in list(ends)[:_CUTS_NAMED])
            more = f" and {len(ends) - _CUTS_NAMED} more" if len(ends) > _CUTS_NAMED else ""
            message = (
                f"{self.name} cuts its texts off after {limit} tokens and ignores {named}{more}; "
                "shorten the prompt"
            )
            warnings.warn(RunWarning(message), stacklevel=3)

    def _build(self) -> Any:
        """A pipeline that contains only tokenizers and text encoders."""
        parts: dict[str, Any] = {**UNUSED, _ZEROS: self._settings.get(_ZEROS, True)}
        for name, config in self._configs.items():
            if name.startswith("text_encoder"):
                parts[name] = self._load(name)
                self.models.append(parts[name])
                tokenizer = name.replace("text_encoder", "tokenizer")
                parts[tokenizer] = _Tokenizer(self._load(tokenizer), config, self._cut)
            elif name == "transformer":  # `encode_prompt` reads only its configuration
                parts[name] = torch.nn.Module()
                parts[name].config = SimpleNamespace(**config)
        # An IFPipeline with CLIP, such as the embedded prior, was trained without an attention mask
        # for padding; IFPipeline's `encode_prompt`, made for T5, would mask the padding.
        t5 = self._configs["text_encoder"].get("model_type") == "t5"
        clip = self._kind == "IFPipeline" and not t5
        kind = "StableDiffusionPipeline" if clip else pipeline_class(self._kind)
        cls = getattr(diffusers, kind)
        parameters = inspect.signature(cls.__init__).parameters
        absent = [n for n, p in parameters.items() if n != "self" and p.default is p.empty]
        given = {name: part for name, part in parts.items() if name in parameters}
        return cls(**dict.fromkeys(absent) | given)


def _encode_prompt(pipeline: Any, prompt: str, device: str) -> TextEmbedding:
    """Encode a prompt with a pipeline. An empty one is encoded like an absent negative one."""
    parameters = inspect.signature(pipeline.encode_prompt).parameters
    found = pipeline.encode_prompt(
        prompt=[prompt],
        device=torch.device(device),
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        **{name: None for name in ("prompt_2", "prompt_3") if name in parameters},
    )
    # (with, without) the prompt, and for some pipelines the same pooled.
    empty = pipeline.config.get(_ZEROS) and not prompt
    parts = (torch.zeros_like(part) if empty else part for part in found[::2])
    return TextEmbedding(*(part.float() for part in parts))


def encoders_of(
    prior: ResolvedPrior, *, device: str, dtype: torch.dtype, offload: bool
) -> TextEncoders:
    """The text encoders of a prior, loaded in `dtype` at their first use."""

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
