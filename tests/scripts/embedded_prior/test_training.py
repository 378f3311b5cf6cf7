"""The training script of the embedded prior: deterministic, resumable, without held-out pairs."""

from __future__ import annotations

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamfusion.toyworld.objects import NOUNS, held_out_pairs
from scripts.embedded_prior import training
from scripts.embedded_prior.data import ToyPictures, render_geometry
from scripts.embedded_prior.language import caption_words
from scripts.embedded_prior.model import make_models, mixed_precision
from scripts.embedded_prior.muon import orthogonalize
from scripts.embedded_prior.words import learn_words, make_tokenizer, tokens
from tests.helpers import ROOT
from tests.helpers.simulated_kernels import simulated_cuda


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> ToyPictures:
    geometry = render_geometry(8, 0, tmp_path_factory.mktemp("geometry"))
    return ToyPictures(geometry, 64, 0)


def test_every_caption_word_is_one_token():
    tokenizer = make_tokenizer()
    for word in caption_words():
        assert len(tokenizer(word).input_ids) == 3, word
    together = tokenizer("tall red mug, front, high, lit").input_ids
    assert len(together) == 2 + 6 + 3  # start and end, words, commas


def test_tokens_equal_the_tokenizers():
    tokenizer = make_tokenizer()
    texts = ["a tall red mug, seen from the front, raised, lit", "", "Red,mug  hot air balloon's"]
    texts.append("a corgi, " * 60)  # longer than the maximum
    expected = tokenizer(
        texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    assert torch.equal(tokens(tokenizer, texts), expected)


def test_the_tokenizer_is_the_same_in_every_process():
    code = (
        "from scripts.embedded_prior.words import make_tokenizer;"
        "print(sorted(make_tokenizer().get_vocab().items()))"
    )
    other = os.environ | {"PYTHONHASHSEED": "7"}  # of this one it is 0, or random
    found = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        check=True,
        capture_output=True,
        env=other,
        text=True,
    )
    assert found.stdout.strip() == str(sorted(make_tokenizer().get_vocab().items()))


def test_batches_repeat_for_a_step_and_differ_between_steps(pictures: ToyPictures):
    first, again, other = pictures(3), pictures(3), pictures(4)
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    assert not torch.equal(first[0], other[0])
    assert first[0].min() >= 0
    assert first[0].max() <= 1


def test_batches_at_half_size_have_twice_as_many_images(pictures: ToyPictures):
    def shapes(half_steps: int | None) -> list[tuple[int, int]]:
        toys = ToyPictures(pictures.geometry, 4, 0, half_steps=half_steps)
        return [(len(toys(step)[0]), toys(step)[0].shape[-1]) for step in range(4)]

    assert shapes(2) == [(8, 32), (8, 32), (4, 64), (8, 32)]
    assert shapes(None) == [(4, 64)] * 4


def test_faces_are_sampled_more_often_than_backs(pictures: ToyPictures):
    geometry, names = pictures.geometry, [noun.name for noun in NOUNS]
    shares = np.diff(pictures.cumulative_shares, prepend=0.0)
    around = np.abs((geometry.azimuth_deg + 180) % 360 - 180)
    for noun, ratio in (("cat", 4.0), ("mug", 1.0)):
        here = geometry.noun == names.index(noun)
        front, back = shares[here & (around < 60)], shares[here & (around >= 60)]
        assert len(front) and len(back)
        assert np.allclose(front, ratio * back.mean(), rtol=1e-6), noun


def test_bfloat16_is_used_only_where_it_is_fast(monkeypatch: pytest.MonkeyPatch):
    """A CPU with AVX2 only needed 24 s for a step that takes 1.4 s in float32."""
    for there, dtype in ((False, torch.float32), (True, torch.bfloat16)):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda there=there: there)
        with mixed_precision(torch.device("cpu")):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == orthogonalize(torch.eye(2)[None]).dtype == dtype


def test_images_rendered_on_a_gpu_equal_those_of_the_cpu(pictures: ToyPictures, one_thread: None):
    with simulated_cuda() as gpu:
        there = ToyPictures(pictures.geometry, 64, 0, device="cuda:1")
        for step in range(2):  # at both sizes
            drawn, captions = there(step)
            assert str(drawn.device) == "cuda:1" and captions == pictures(step)[1]
            torch.testing.assert_close(drawn.cpu(), pictures(step)[0], atol=1e-6, rtol=0)
        assert gpu.kernels["cuda:1", "avg_pool2d"] == 2


def test_held_out_pairs_are_not_in_captions(pictures: ToyPictures):
    held = held_out_pairs()
    nouns = sorted((noun.name for noun in NOUNS), key=len, reverse=True)
    seen = 0
    for step in range(12):
        for text in pictures(step)[1]:
            words = text.split(",")[0].split()
            noun = next((n for n in nouns if all(w in words for w in n.split())), None)
            seen += noun is not None
            assert not any(n == noun and color in words for n, color in held), text
    assert seen > 500


def test_the_text_encoder_learns_the_look_of_its_words(pictures: ToyPictures):
    tokenizer = make_tokenizer()
    text_encoder, _ = make_models(tokenizer, 0)
    before = [parameter.clone() for parameter in text_encoder.parameters()]
    options = {"batch": 32, "peak": 2e-3, "world": 1}
    first = learn_words(pictures, tokenizer, text_encoder, steps=1, **options)
    last = learn_words(pictures, tokenizer, text_encoder, steps=60, **options)
    assert last < 0.65 * first
    after = text_encoder.parameters()
    assert all(p.isfinite().all() for p in text_encoder.parameters())
    assert any(not torch.equal(p, q) for p, q in zip(before, after, strict=True))
    small, captions = pictures.thumbnails(0, 5)
    assert small.shape == (5, 3, 16, 16) and len(captions) == 5 and all(captions)


def test_words_learned_on_one_device_load_on_another(
    pictures: ToyPictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A file from CUDA contains its device, and loads elsewhere only with `map_location`."""
    tokenizer = make_tokenizer()
    torch.save(make_models(tokenizer, 1)[0].state_dict(), tmp_path / "words.pt")
    asked: list[object] = []
    load = torch.load

    def recorded(*args, **kwargs):
        asked.append(kwargs["map_location"])
        return load(*args, **kwargs)

    monkeypatch.setattr(torch, "load", recorded)
    args = Namespace(seed=0, init=None, device="cpu", work=tmp_path)
    models = training._models(args, tokenizer, pictures, 1)
    assert asked == ["cpu"]
    expected = make_models(tokenizer, 1)[0].parameters()
    found = models["text_encoder"].parameters()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_resumed_training_equals_one_that_was_not_stopped(tmp_path: Path):
    # With one thread, PyTorch's first half-precision gradient of a process differs in the last bits
    # from those of later steps; with two threads it does not.
    env = os.environ | {"OMP_NUM_THREADS": "2"}

    def train(work: str, steps: int) -> dict[str, torch.Tensor]:
        command = [sys.executable, "-m", "scripts.embedded_prior", "--steps", str(steps)]
        options = "--decay-steps 0 --word-steps 2 --half-steps 0 --batch 2 --sheet-steps 1"
        command += ["--views-per-noun", "8"]
        folders = ["--work", str(tmp_path / work), "--out", str(tmp_path / work / "out")]
        command += [*options.split(), "--device", "cpu", *folders]
        subprocess.run(command, cwd=ROOT, env=env, check=True)
        return torch.load(tmp_path / work / "state.pt", weights_only=True)["average"]

    train("stopped", 1)
    resumed, straight = train("stopped", 2), train("straight", 2)
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    card = (tmp_path / "stopped" / "out" / "README.md").read_text()
    assert "6 images" in card  # two, and four at half size
