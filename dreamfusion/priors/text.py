"""Text to embeddings, by the `encode_prompt` of each pipeline's own class in diffusers.

A text encoder is loaded when a text must be encoded, and can be forgotten once all texts of a run
are known: the largest of them are larger than the model that denoises. `encode_prompt` calls all
encoders of a pipeline in turn, so it gets stand-ins: a stand-in whose model is not loaded stops the
call, and one that has answered repeats its answer after its model was freed.
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from dreamfusion.diffusion.condition import TextEmbedding
from dreamfusion.priors.files import PriorError, require_json
from dreamfusion.priors.layout import INDEX, LAYOUTS, OPTIONAL
from dreamfusion.priors.loading import load_part
from dreamfusion.priors.reading import PromptError
from dreamfusion.priors.resolve import ResolvedPrior
from dreamfusion.utils.errors import RunWarning, one_line

# The layers of an encoder that a pipeline may read, counted from the last.
_LAYERS_READ = 2
# How many ends of prompts one warning names.
_CUTS_NAMED = 3


@dataclass(frozen=True)
class TextFacts:
    """What of a pipeline decides how its texts are encoded.

    name: of the prior, for messages. pipeline: its class. encoders: class of each text encoder.
    settings: of the pipeline itself, which its constructor takes. transformer: configuration of
    the denoiser, where that is a transformer (SD3).
    """

    name: str
    pipeline: str
    encoders: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    transformer: Mapping[str, Any] | None = None


class _NotLoaded(Exception):
    """A text encoder is asked whose model is not loaded."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__(encoder.name)
        self.encoder = encoder


class TextEncoder(torch.nn.Module):
    """Stands for a text encoder in a pipeline, whether its model is loaded or not.

    Raises _NotLoaded when something is asked that only the model knows.
    """

    def __init__(self, name: str, kind: str, device: str) -> None:
        super().__init__()
        self.name, self.kind, self.device = name, kind, torch.device(device)
        self.model: Any = None
        self._runs = False
        self._known: tuple[Any, torch.dtype] | None = None
        self._answers: dict[object, Any] = {}

    def start(self) -> None:
        """Answer with `model` from now on."""
        self.model.to(str(self.device))
        self._runs, self._known = True, (self.model.config, self.model.dtype)

    def stop(self, *, keep: bool) -> None:
        """Stop using the model: move it to the CPU, or free it. Known answers stay."""
        if self.model is not None and keep:
            self.model.to("cpu")
        elif not keep:
            self.model = None
        self._runs = False

    def forget(self) -> None:
        """Forget all answers."""
        self._answers.clear()

    @property
    def config(self) -> Any:
        """The model's configuration."""
        return self._about()[0]

    @property
    def dtype(self) -> torch.dtype:
        """Of the model's answers."""
        return self._about()[1]

    def _about(self) -> tuple[Any, torch.dtype]:
        if self._known is None:
            raise _NotLoaded(self)
        return self._known

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> Any:
        """The model's answer to the tokens (1, length) of one text."""
        mask = None if attention_mask is None else tuple(attention_mask.flatten().tolist())
        ids = input_ids.flatten().tolist()
        key = (tuple(ids), mask, output_hidden_states)
        if key not in self._answers:
            if not self._runs:
                raise _NotLoaded(self)
            if max(ids) >= (known := self.model.get_input_embeddings().num_embeddings):
                raise PriorError(
                    f"the tokenizer of {self.name} gives the token {max(ids)}, and {self.name} "
                    f"knows {known}: they are of different models; save the pipeline whole"
                )
            answer = self.model(
                input_ids, attention_mask=attention_mask, output_hidden_states=output_hidden_states
            )
            if output_hidden_states:
                answer["hidden_states"] = answer.hidden_states[-_LAYERS_READ:]
            self._answers[key] = answer
        return self._answers[key]


class _Tokenizer:
    """A tokenizer that remembers what it cut off."""

    def __init__(self, tokenizer: Any, name: str, cut: dict[tuple[str, int], list[str]]) -> None:
        self._tokenizer, self._name, self._cut = tokenizer, name, cut

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
                    texts = self._cut.setdefault((self._name, limit), [])
                    if end.strip() not in texts:
                        texts.append(end.strip())
        return found


@dataclass(frozen=True)
class _Configured:
    """Stands for a denoiser, of which `encode_prompt` reads the configuration alone."""

    config: SimpleNamespace


class TextEncoders:
    """The text encoders of a prior and what they have encoded.

    load: gives a text encoder or a tokenizer by its name in the pipeline. device: where the
    encoders run, and where the float32 embeddings are. offload: keep them on the CPU while they do
    not run.
    """

    def __init__(
        self, facts: TextFacts, load: Callable[[str], Any], *, device: str, offload: bool = False
    ) -> None:
        self.facts, self.device, self.offload = facts, device, offload
        self._load = load
        self._pipeline: Any = None
        self._cut: dict[tuple[str, int], list[str]] = {}
        # Those whose models are loaded.
        self._encoders: dict[str, TextEncoder] = {}
        self._embeddings: dict[str, TextEmbedding] = {}
        self._closed = False

    def prepare(self, prompts: Sequence[str]) -> None:
        """Encode `prompts`, with one encoder in memory at a time; after that only they are known.

        The encoders' memory is free again afterwards. Raises PromptError as `encode` does.
        """
        self._encode(prompts, keep=False)
        self._release(keep=False)
        self._pipeline = None
        self._closed = True

    def encode(self, prompts: Sequence[str]) -> TextEmbedding:
        """Embeddings of n prompts; each distinct prompt is encoded once.

        A prompt that is longer than the encoders read is cut off, with a RunWarning. Raises
        PromptError, after `prepare`, for a prompt that was not prepared.
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
        if self._pipeline is None:
            self._pipeline = self._build()
        self._cut.clear()
        try:
            waiting = new
            while waiting:
                waiting, missing = self._try(waiting)
                if missing is not None:
                    self._switch_to(missing, keep=keep)
        finally:
            for part in self._pipeline.components.values():
                if isinstance(part, TextEncoder):
                    part.forget()
            self._release(keep=keep)
        self._warn(new)

    def _try(self, prompts: Sequence[str]) -> tuple[list[str], TextEncoder | None]:
        """Encode prompts with the models that are loaded. Returns those that need one that is not,
        and that one."""
        waiting, missing = [], None
        for prompt in prompts:
            # One by one, so that an embedding does not depend, in the last bit, on which other
            # prompts came with it.
            try:
                self._embeddings[prompt] = _encode_prompt(self._pipeline, prompt, self.device)
            except _NotLoaded as error:
                waiting.append(prompt)
                missing = missing or error.encoder
        return waiting, missing

    def _switch_to(self, encoder: TextEncoder, *, keep: bool) -> None:
        """Load the model of an encoder, instead of or beside those that are loaded."""
        self._release(keep=keep)
        if encoder.model is None:
            encoder.model = self._load(encoder.name)
        encoder.start()
        self._encoders[encoder.name] = encoder

    def _release(self, *, keep: bool) -> None:
        """Free the models that are loaded; or keep them, on the CPU where they are offloaded."""
        if keep and not self.offload:
            return
        for encoder in self._encoders.values():
            encoder.stop(keep=keep)
        if not keep:
            self._encoders.clear()
        if self.device.startswith("cuda"):
            torch.cuda.empty_cache()

    def _build(self) -> Any:
        """The pipeline, of stand-ins for its text encoders, its tokenizers and nothing else."""
        facts = self.facts
        parts: dict[str, Any] = {}
        for name, kind in facts.encoders.items():
            parts[name] = TextEncoder(name, kind, self.device)
            tokenizer = name.replace("text_encoder", "tokenizer")
            parts[tokenizer] = _Tokenizer(self._load(tokenizer), name, self._cut)
        if facts.transformer is not None:
            parts["transformer"] = _Configured(SimpleNamespace(**facts.transformer))
        cls = getattr(diffusers, facts.pipeline)
        wanted = inspect.signature(cls.__init__).parameters
        absent = [n for n, p in wanted.items() if n != "self" and p.default is p.empty]
        # Neither has anything to do with texts; both would warn or import something.
        unused = {"requires_safety_checker": False, "add_watermarker": False}
        options = {**unused, **facts.settings}
        options = {name: value for name, value in options.items() if name in wanted}
        return cls(**{**dict.fromkeys(absent), **parts, **options})

    def _warn(self, prompts: Sequence[str]) -> None:
        """Of words that the encoders do not see, or do not read as they are meant."""
        name = self.facts.name
        for said in _describe_cut(self._cut):
            warnings.warn(RunWarning(f"{name} {said}; shorten the prompt"), stacklevel=4)
        added = {
            token
            for part in self._pipeline.components.values()
            if isinstance(part, _Tokenizer)
            for token in part.added_tokens_encoder
        }
        if markup := literal_markup(prompts, added):
            named = ", ".join(repr(one_line(text, 60)) for text in markup)
            warnings.warn(
                RunWarning(
                    f"{name} reads {named} literally: weights, LoRAs and unknown embeddings in a "
                    "prompt have no effect; remove them from the prompt"
                ),
                stacklevel=4,
            )


def _describe_cut(cut: Mapping[tuple[str, int], Sequence[str]]) -> Iterator[str]:
    """What was cut off, once for all encoders that do not see the same."""
    encoders: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    for (name, limit), texts in cut.items():
        encoders.setdefault((limit, tuple(texts)), []).append(name)
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


def _encode_prompt(pipeline: Any, prompt: str, device: str) -> TextEmbedding:
    """What a pipeline makes of one prompt. Of an empty one: what it takes without a negative
    prompt, which Stable Diffusion XL sets to zero."""
    if _reads_padding(pipeline):
        return _with_padding(pipeline, prompt, device)
    options = {name: None for name in ("prompt_2", "prompt_3") if name in _parameters(pipeline)}
    found = pipeline.encode_prompt(
        prompt=prompt,
        device=torch.device(device),
        num_images_per_prompt=1,
        do_classifier_free_guidance=not prompt,
        **options,
    )
    # (with, without) the prompt, and the same pooled where the pipeline has that.
    tokens, *pooled = found[0 if prompt else 1 :: 2]
    return TextEmbedding(tokens.float(), pooled[0].float() if pooled else None)


def _parameters(pipeline: Any) -> Collection[str]:
    return inspect.signature(pipeline.encode_prompt).parameters


def _reads_padding(pipeline: Any) -> bool:
    """Whether it is an IFPipeline with CLIP, as the embedded prior: that was trained with padding
    which CLIP sees, and `IFPipeline.encode_prompt`, made for T5, would hide it."""
    is_if = isinstance(pipeline, diffusers.IFPipeline)
    return is_if and pipeline.text_encoder.kind == "CLIPTextModel"


def _with_padding(pipeline: Any, prompt: str, device: str) -> TextEmbedding:
    """The last states of an encoder that sees the padding."""
    tokenizer = pipeline.tokenizer
    tokens = tokenizer(
        prompt,
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )
    states = pipeline.text_encoder(tokens.input_ids.to(device)).last_hidden_state
    return TextEmbedding(states.float())


def _within(tokenizer: Any, positions: int | None) -> Any:
    """The tokenizer, which says how many tokens its encoder reads where its own file does not."""
    if positions is None or tokenizer.model_max_length <= positions:
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = positions
    return tokenizer


def encoders_of(
    prior: ResolvedPrior, *, device: str, dtype: torch.dtype, offload: bool
) -> TextEncoders:
    """The text encoders of a folder, each loaded in `dtype` when it is asked."""
    problem = f"{prior.name} is broken"
    index = require_json(prior.path / INDEX, problem)
    transformer = None
    if "transformer" in prior.components:
        transformer = require_json(prior.path / "transformer" / "config.json", problem)
    encoders = {k: v for k, v in prior.components.items() if k.startswith("text_encoder")}
    facts = TextFacts(prior.name, prior.pipeline, encoders, _settings(index), transformer)

    def load(name: str) -> Any:
        if name in encoders:
            return load_part(prior, name, transformers, dtype)
        encoder = prior.path / name.replace("tokenizer", "text_encoder")
        config = require_json(encoder / "config.json", problem)
        tokenizer = load_part(prior, name, transformers)
        return _within(tokenizer, config.get("max_position_embeddings"))

    return TextEncoders(facts, load, device=device, offload=offload)


def encoders_of_pipe(pipe: Any) -> TextEncoders:
    """The text encoders of a diffusers pipeline that is loaded, where they are. Raises PriorError
    where one is missing that the pipeline cannot do without."""
    kind = type(pipe).__name__
    encoders = {}
    for name in LAYOUTS[kind]:
        if not name.startswith(("text_encoder", "tokenizer")):
            continue
        part = getattr(pipe, name, None)
        if part is None and name not in OPTIONAL:
            raise PriorError(f"the {kind} has no {name}, which the prompts need; load it whole")
        if part is not None and name.startswith("text_encoder"):
            encoders[name] = type(part).__name__
    transformer = getattr(pipe, "transformer", None)
    facts = TextFacts(
        str(pipe.config.get("_name_or_path") or kind),
        kind,
        encoders,
        _settings(pipe.config),
        None if transformer is None else dict(transformer.config),
    )

    def load(name: str) -> Any:
        if name in encoders:
            return getattr(pipe, name).requires_grad_(False).eval()
        config = getattr(pipe, name.replace("tokenizer", "text_encoder")).config
        return _within(getattr(pipe, name), getattr(config, "max_position_embeddings", None))

    return TextEncoders(facts, load, device=str(pipe.text_encoder.device))


def _settings(index: Mapping[str, Any]) -> dict[str, Any]:
    """Of a pipeline's own settings that which concerns texts."""
    name = "force_zeros_for_empty_prompt"
    return {name: index[name]} if name in index else {}
