"""Text to embeddings, by the `encode_prompt` of each pipeline's own class in diffusers.

A text encoder is loaded when it is first asked, and can be forgotten once all texts of a run are
known: the largest of them are larger than the model that denoises. `encode_prompt` gives all texts
to one encoder after the other, so stand-ins for the encoders can have one in memory at a time.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from dreamfusion.diffusion.condition import TextEmbedding
from dreamfusion.priors.files import PriorError
from dreamfusion.priors.layout import LAYOUTS, OPTIONAL, UNUSED
from dreamfusion.priors.loading import load_part
from dreamfusion.priors.reading import PromptError
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.utils.errors import RunWarning, one_line

# The layers of an encoder that a pipeline may read, counted from the last.
_LAYERS_READ = 2
# How many ends of prompts one warning names.
_CUTS_NAMED = 3
# The setting of a pipeline by which an empty text is all zeros (Stable Diffusion XL).
_ZEROS = "force_zeros_for_empty_prompt"
# The ends of prompts that were cut off, each once, by the encoder and how many tokens it reads.
Cut = defaultdict[tuple[str, int], dict[str, None]]


class _TextEncoder(torch.nn.Module):
    """Stands for a text encoder in a pipeline. start: is called with it before its model is asked,
    and loads that where it is not loaded."""

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
        self.dtype = torch.float32  # until the model has answered
        self.model: Any = None
        self._start = start

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> Any:
        """The model's answers to tokens (n, length). Each text is encoded alone, so that no
        embedding depends, in the last bit, on which other texts came with it."""
        self._start(self)
        self.dtype = self.model.dtype
        known = self.model.get_input_embeddings().num_embeddings
        if (largest := int(input_ids.max())) >= known:
            raise PriorError(
                f"the tokenizer of {self.name} gives the token {largest}, and {self.name} "
                f"knows {known}: they are of different models; save the pipeline whole"
            )
        masks = [None] * len(input_ids) if attention_mask is None else attention_mask.split(1)
        answers = []
        for ids, mask in zip(input_ids.split(1), masks, strict=True):
            answer = self.model(ids, attention_mask=mask, output_hidden_states=output_hidden_states)
            if output_hidden_states:
                answer["hidden_states"] = answer.hidden_states[-_LAYERS_READ:]
            answers.append(answer)
        together = {key: _cat([answer[key] for answer in answers]) for key in answers[0]}
        return type(answers[0])(**together)


def _cat(values: Sequence[Any]) -> Any:
    """Tensors, or tuples of them, joined along their first axis."""
    if isinstance(values[0], tuple):
        return tuple(torch.cat(each) for each in zip(*values, strict=True))
    return torch.cat(list(values))


class _Tokenizer:
    """A tokenizer that remembers what it cut off. positions: how many tokens its encoder reads,
    where its own file does not say so."""

    def __init__(self, tokenizer: Any, name: str, positions: int | None, cut: Cut) -> None:
        self._tokenizer, self._name, self._cut = tokenizer, name, cut
        most = tokenizer.model_max_length
        self.model_max_length = most if positions is None else min(most, positions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: str | list[str], **options: Any) -> Any:
        found = self._tokenizer(text, **options)
        if options.get("truncation"):
            limit = options["max_length"]
            for one in [text] if isinstance(text, str) else text:
                ids = self._tokenizer(one).input_ids
                if len(ids) > limit:
                    # The last of the tokens that are kept is the mark of the end.
                    end = self._tokenizer.decode(ids[limit - 1 :], skip_special_tokens=True)
                    self._cut[self._name, limit][end.strip()] = None
        return found


class TextEncoders:
    """The text encoders of a prior and what they have encoded.

    name: of the prior, for messages. pipeline: its class. configs: of each component
    that has weights. settings: of the pipeline itself. load: gives a text encoder or a tokenizer by
    its name in the pipeline. device: where the encoders run, and where the float32 embeddings are.
    offload: keep them on the CPU while they do not run.
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
        # Those whose models are loaded.
        self._encoders: dict[str, _TextEncoder] = {}
        self._keep = True
        self._embeddings: dict[str, TextEmbedding] = {}
        self._pipeline: Any = self._build(pipeline, configs, settings)

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode `prompts`, with one encoder in memory at a time; after that only they are known.

        The encoders' memory is free again afterwards. Raises PromptError as `encode` does.
        """
        self._keep = False
        self._encode(prompts)
        self._stop()
        self._pipeline = None

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings of n prompts; each distinct prompt is encoded once.

        A prompt that is longer than the encoders read is cut off, with a RunWarning. Raises
        PromptError, after `prepare`, for a prompt that was not prepared.
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
        self._warn(new)

    def _start(self, encoder: _TextEncoder) -> None:
        """Load the model of an encoder, beside those that are loaded or instead of them."""
        self._stop()
        if encoder.model is None:
            encoder.model = self._load(encoder.name)
        encoder.model.to(self.device)
        self._encoders[encoder.name] = encoder

    def _stop(self) -> None:
        """Free the models that are loaded; or keep them, on the CPU where they are offloaded."""
        if self._keep and not self.offload:
            return
        for encoder in self._encoders.values():
            if self._keep:
                encoder.model.to("cpu")
            else:
                encoder.model = None
        if not self._keep:
            self._encoders.clear()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _build(
        self, pipeline: str, configs: Mapping[str, Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> Any:
        """The pipeline, of stand-ins for its text encoders, its tokenizers and nothing else."""
        parts: dict[str, Any] = {**UNUSED, _ZEROS: settings.get(_ZEROS, True)}
        for name, config in configs.items():
            if name.startswith("text_encoder"):
                parts[name] = _TextEncoder(name, config, self.device, self._start)
                tokenizer = name.replace("text_encoder", "tokenizer")
                limit = config.get("max_position_embeddings")
                parts[tokenizer] = _Tokenizer(self._load(tokenizer), name, limit, self._cut)
            elif name == "transformer":  # of which `encode_prompt` reads the configuration alone
                parts[name] = torch.nn.Module()
                parts[name].config = SimpleNamespace(**config)
        # An IFPipeline with CLIP, as the embedded prior, was trained with padding that CLIP sees;
        # its own `encode_prompt`, made for T5, would hide it.
        is_clip = pipeline == "IFPipeline" and configs["text_encoder"].get("model_type") != "t5"
        cls = getattr(diffusers, "StableDiffusionPipeline" if is_clip else pipeline)
        wanted = inspect.signature(cls.__init__).parameters
        absent = [n for n, p in wanted.items() if n != "self" and p.default is p.empty]
        given = {name: part for name, part in parts.items() if name in wanted}
        return cls(**dict.fromkeys(absent) | given)

    def _warn(self, prompts: Sequence[str]) -> None:
        """Of words that the encoders do not see, or do not read as they are meant."""
        name = self.name
        for said in _describe_cut(self._cut):
            warnings.warn(RunWarning(f"{name} {said}; shorten the prompt"), stacklevel=4)
        parts = self._pipeline.components.values()
        tokenizers = (part for part in parts if isinstance(part, _Tokenizer))
        added = {token for tokenizer in tokenizers for token in tokenizer.added_tokens_encoder}
        if markup := literal_markup(prompts, added):
            named = ", ".join(repr(one_line(text, 60)) for text in markup)
            said = (
                f"{name} reads {named} literally: weights, LoRAs and unknown embeddings in a "
                "prompt have no effect; remove them from the prompt"
            )
            warnings.warn(RunWarning(said), stacklevel=4)


def _describe_cut(cut: Cut) -> Iterator[str]:
    """What was cut off, once for all encoders that do not see the same."""
    encoders: dict[tuple[int, tuple[str, ...]], list[str]] = defaultdict(list)
    for (name, limit), ends in cut.items():
        encoders[limit, tuple(ends)].append(name)
    for (limit, texts), names in encoders.items():
        named = ", ".join(repr(one_line(text, 80)) for text in texts[:_CUTS_NAMED])
        if len(texts) > _CUTS_NAMED:
            named += f" and {len(texts) - _CUTS_NAMED} more"
        yield f"cuts its texts off after {limit} tokens ({', '.join(names)}) and ignores {named}"


# How other programs write weights of words, models and alternatives into a prompt.
_MARKUP = re.compile(
    r"\([^()]*:\s*[\d.]+\s*\)"  # (word:1.3)
    r"|\(\([^()]+\)\)"  # ((word))
    r"|\([^()]+\)[\d.]+"  # (word)1.3
    r"|\[[^\[\]]*:[^\[\]]*\]"  # [from:to:0.5]
    r"|\{[^{}]*\|[^{}]*\}"  # {one|another}
    r"|<[^<>\s]+>"  # <lora:name:0.8>, <embedding>
)


def literal_markup(prompts: Sequence[str], tokens: Collection[str] = ()) -> list[str]:
    """Of these prompts all that other programs would interpret and an encoder reads literally,
    each once. tokens: those that were added to a tokenizer, such as `<embedding>`."""
    found = (match.group() for prompt in prompts for match in _MARKUP.finditer(prompt))
    return [text for text in dict.fromkeys(found) if text not in tokens]


def _encode_prompts(pipeline: Any, prompts: list[str], device: str) -> TextEmbedding:
    """What a pipeline makes of n prompts. Of an empty one: what it takes without a negative one."""
    wanted = inspect.signature(pipeline.encode_prompt).parameters
    found = pipeline.encode_prompt(
        prompt=prompts,
        device=torch.device(device),
        num_images_per_prompt=1,
        do_classifier_free_guidance=False,
        **{name: None for name in ("prompt_2", "prompt_3") if name in wanted},
    )
    # (with, without) the prompt, and the same pooled where the pipeline has that.
    tokens, *pooled = (part.float() for part in found[::2])
    if pipeline.config.get(_ZEROS) and "" in prompts:
        for part in (tokens, *pooled):
            part[prompts.index("")] = 0.0
    return TextEmbedding(tokens, *pooled)


def encoders_of(
    prior: ResolvedPrior, *, device: str, dtype: torch.dtype, offload: bool
) -> TextEncoders:
    """The text encoders of a folder, each loaded in `dtype` when it is asked."""

    def load(name: str) -> Any:
        kind = dtype if name.startswith("text_encoder") else None
        return load_part(prior, name, transformers, kind)

    parts = (prior.name, prior.pipeline, prior.configs, prior.index, load)
    return TextEncoders(*parts, device=device, offload=offload)


def encoders_of_pipe(
    pipe: Any, name: str, configs: Mapping[str, Mapping[str, Any]]
) -> TextEncoders:
    """The text encoders of a diffusers pipeline that is loaded, where they are. name: the prior's.
    configs: of its components. Raises PriorError where one is missing that the pipeline cannot do
    without."""
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
