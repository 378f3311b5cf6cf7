"""Tokenises captions, and trains the text encoder alone."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from scripts.embedded_prior.data import THUMBNAIL, prefetch
from scripts.embedded_prior.descent import descend, learning_rate
from scripts.embedded_prior.language import caption_words

WORD_BATCH = 12  # captions per step of the text encoder's training, relative to later batches
MAX_TOKENS = 77  # the length to which diffusers' IFPipeline pads prompts


def make_tokenizer(more: Sequence[str] = ()) -> CLIPTokenizer:
    """A CLIP tokenizer in which every caption word, and each of `more`, is one token.

    Byte-pair merges are learned from the word list until every word is one token. The trainer of
    the tokenizers library is not used: it breaks ties randomly, so that tokens would differ between
    processes and after resuming.
    """
    words = [*caption_words(), *more]
    spelled = [[*word[:-1], word[-1] + "</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while any(len(parts) > 1 for parts in spelled):
        pairs = Counter(pair for parts in spelled for pair in pairwise(parts))
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        spelled = [_merge(parts, best) for parts in spelled]
    alphabet = sorted(ByteLevel.alphabet())
    symbols = [*alphabet, *(c + "</w>" for c in alphabet), *("".join(pair) for pair in merges)]
    symbols = list(dict.fromkeys([*symbols, "<|startoftext|>", "<|endoftext|>"]))
    vocab = {symbol: i for i, symbol in enumerate(symbols)}
    tokenizer = CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)
    broken = [word for word in words if len(tokenizer(word).input_ids) != 3]
    assert not broken, f"not one token each: {broken}"
    return tokenizer


def _merge(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Merge all occurrences of `pair` in `parts`, from the left."""
    merged: list[str] = []
    i = 0
    while i < len(parts):
        joined = tuple(parts[i : i + 2]) == pair
        merged.append("".join(pair) if joined else parts[i])
        i += 2 if joined else 1
    return merged


def tokens(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """The tokens (n, MAX_TOKENS) of n texts, padded as in a pipeline. CLIP's tokenizer first splits
    at blanks, so that the tokens of each chunk can be cached."""
    ids = np.full((len(texts), MAX_TOKENS), tokenizer.pad_token_id)
    ids[:, 0] = tokenizer.bos_token_id
    for row, text in zip(ids, texts, strict=True):
        within = [i for chunk in text.split() for i in _tokens_of(tokenizer, chunk)]
        within = [*within[: MAX_TOKENS - 2], tokenizer.eos_token_id]
        row[1 : 1 + len(within)] = within
    return torch.from_numpy(ids)


@cache
def _tokens_of(tokenizer: CLIPTokenizer, chunk: str) -> list[int]:
    return tokenizer(chunk, add_special_tokens=False).input_ids


def encode(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel, texts: list[str]) -> Tensor:
    ids = tokens(tokenizer, texts)
    return text_encoder(ids.to(text_encoder.device)).last_hidden_state


class Thumbnails(Protocol):
    """Small images (n, 3, THUMBNAIL, THUMBNAIL) and captions, determined by seed and step."""

    seed: int
    rank: int

    def thumbnails(self, step: int, batch: int, /) -> tuple[Tensor, list[str]]: ...


def learn_words(
    toys: Thumbnails,
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    *,
    steps: int,
    batch: int,
    peak: float,
    world: int,
) -> float:
    """Train the text encoder to predict thumbnails from captions, by least squares. Returns the
    mean error of the last steps.

    View words are meaningful only together with a noun. Their gradient from the diffusion loss is
    small at first and hidden by noise: after 50,000 noisy images, views were not distinguished.
    Training without noise on hundreds of captions per step is cheap, and gives the U-Net useful
    text embeddings.
    """
    device = text_encoder.device
    width = text_encoder.config.hidden_size
    head = nn.Sequential(
        nn.Linear(width, 512), nn.SiLU(), nn.Linear(512, 3 * THUMBNAIL**2), nn.Unflatten(1, (3, -1))
    ).to(device)
    both = nn.ModuleList([text_encoder, head])
    optimizer = torch.optim.AdamW(both.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.01)
    queue = prefetch(lambda step: toys.thumbnails(step, batch), 0, steps)
    losses: list[float] = []
    started = time.time()
    for step in range(steps):
        pictures, captions = queue.get()
        ids = tokenizer(
            captions, padding="max_length", max_length=16, truncation=True, return_tensors="pt"
        ).input_ids
        # Any token from the end of the text on has attended to the whole text.
        end = (ids == tokenizer.eos_token_id).int().argmax(dim=1)
        generator = torch.Generator().manual_seed((toys.seed * 1_000_003 + step) * world)
        chance = torch.rand(batch, generator=generator)
        chosen = end + (chance * (ids.shape[1] - end)).long()
        hidden = text_encoder(ids.to(device)).last_hidden_state
        predicted = head(hidden[torch.arange(batch), chosen.to(device)])
        loss = (predicted - (pictures * 2 - 1).flatten(2)).square().mean()
        if not torch.isfinite(loss):
            sys.exit(f"words, step {step}: the loss is {loss.item()}")
        rate = learning_rate(step, steps, 200, steps // 3, peak)
        descend(loss, both, [optimizer], rate=rate, world=world)
        losses.append(loss.item())
        if toys.rank == 0 and (step + 1) % 100 == 0:
            seconds = time.time() - started
            print(
                f"words {step + 1}/{steps}: loss {np.mean(losses[-100:]):.4f}, {seconds:.0f} s",
                flush=True,
            )
    return float(np.mean(losses[-10:]))
