"""The table of texts gives the same embeddings as the prior."""

from dataclasses import dataclass, replace

import pytest
import torch

from dreamfusion.config.schema import Config, PriorConfig
from dreamfusion.distillation.settings import EstimatorSettings, Text
from dreamfusion.graphics.cameras import orbit_cameras
from dreamfusion.training.texts import ViewTexts, texts_of

NAMED = {"flat": Text("{prompt} flat", views=False), "other": Text("a blue puppy")}
PLACES = [(0.0, 10.0), (100.0, -10.0), (200.0, 70.0), (359.0, 89.0)]


def cameras(*places):
    azimuth, elevation = torch.tensor(places).T
    distance, fov_y = torch.full((2, len(places)), 3.0)
    return orbit_cameras(azimuth, elevation, distance, 10 * fov_y)


def table(prior, **options):
    return ViewTexts(prior, config(**options))


def config(**options):
    return Config(prompt="red corgi", prior=PriorConfig(**options))


@dataclass(frozen=True)
class NamedTexts(EstimatorSettings):
    name: str = "named"

    def texts(self):
        return NAMED

    def build(self, prior, *, seed):
        raise NotImplementedError


@pytest.mark.parametrize("shading", ["albedo", "lambertian", "textureless"])
def test_each_view_has_its_prompt(prior, shading):
    views = cameras(*PLACES)
    found = table(prior).conditions(views, shading)
    words = prior.card.vocabulary
    expected = [words.view_prompt("red corgi", *place, shading) for place in PLACES]
    assert torch.equal(found.text.text.tokens, prior.encode_text(expected).tokens)
    assert found.opposed == [] and found.named == {}
    nothing = prior.encode_text([""]).expand(len(PLACES))
    assert torch.equal(found.unconditional.text.tokens, nothing.tokens)
    assert found.text.cameras is views and found.unconditional.cameras is views


def test_blended_prompts_are_interpolated_by_azimuth(prior):
    texts = table(prior, view_prompts="blended")
    found = texts.conditions(cameras((60.0, 10.0)), "albedo").text.text
    mixed = prior.card.vocabulary.blended_prompts("red corgi", 60.0, 10.0, "albedo")
    assert len(mixed) == 2
    expected = sum(weight * prior.encode_text([text]).tokens for text, weight in mixed)
    torch.testing.assert_close(found.tokens, expected)


def test_perp_neg_has_weights_for_the_other_sides(prior):
    texts = table(prior, perp_neg=2.0)
    opposed = texts.conditions(cameras(*PLACES), "albedo").opposed
    assert opposed and all(len(text) == len(weight) == len(PLACES) for text, weight in opposed)
    assert max(float(weight.max()) for _, weight in opposed) > 1.0


def test_without_view_prompts_all_views_have_one_text(prior):
    texts = table(prior, view_prompts="none", negative_prompt="mug", perp_neg=1.0)
    found = texts.conditions(cameras(*PLACES), "albedo")
    tokens = found.text.text.tokens
    assert found.opposed == [] and len(tokens) == len(PLACES) and (tokens == tokens[:1]).all()
    assert torch.equal(texts.unconditional.tokens, prior.encode_text(["mug"]).tokens)
    for shading, said in (("albedo", "red corgi, flat"), ("lambertian", "red corgi")):
        found = texts.conditions(cameras(*PLACES), shading).text.text
        assert torch.equal(found.tokens[:1], prior.encode_text([said]).tokens)


def test_the_table_needs_no_text_encoder_after_construction(prior, folder):
    from dreamfusion.priors import load_prior

    blended = config(view_prompts="blended", perp_neg=1.0, negative_prompt="mug")
    fresh = load_prior(str(folder))
    fresh.prepare(texts_of(fresh.card.vocabulary, blended))
    ViewTexts(fresh, blended).conditions(cameras(*PLACES), "lambertian")


def test_texts_of_an_estimator_are_canonical_and_in_the_table(prior, folder):
    from dreamfusion.priors import load_prior

    words, named = prior.card.vocabulary, replace(config(), estimator=NamedTexts())
    fresh = load_prior(str(folder))
    fresh.prepare(texts_of(words, named))
    found = ViewTexts(fresh, named).conditions(cameras(*PLACES), "albedo")
    assert found.named.keys() == NAMED.keys()
    flat = prior.encode_text([words.canonical("red corgi flat")]).expand(len(PLACES))
    assert torch.equal(found.named["flat"].text.tokens, flat.tokens)
    other = [words.view_prompt(words.canonical("a blue puppy"), *at, "albedo") for at in PLACES]
    assert words.canonical("a blue puppy") == "blue corgi"
    assert torch.equal(found.named["other"].text.tokens, prior.encode_text(other).tokens)
