"""The oracle prior: its bank of images, and the closed forms of its predictions."""

import pytest
import torch

from dreamfusion.cli.app import main
from dreamfusion.diffusion.condition import Condition, TextEmbedding
from dreamfusion.distillation.functional import sds
from dreamfusion.evaluation import oracle
from dreamfusion.evaluation.guides import OracleSettings
from dreamfusion.evaluation.oracle import BACKGROUND, Oracle, bank_of
from dreamfusion.priors import DiffusionPrior
from dreamfusion.runs.folder import find_run
from dreamfusion.utils.errors import UserError

WORDS = ("front", "level", "unlit")


@pytest.fixture(scope="module")
def prior():
    return DiffusionPrior.from_pretrained("embedded")


def test_the_bank_groups_images_by_view_words(prior):
    bank = bank_of("corgi", prior, shapes=3, views=8)
    assert sum(map(len, bank.values())) == 3 * 8 * 3
    assert {len(words) for words in bank} == {3}
    for pictures in bank.values():
        assert pictures.shape[1:] == (3, 64, 64)
        corner = pictures[:, :, 0, 0] / 2 + 0.5
        torch.testing.assert_close(corner, torch.tensor([BACKGROUND]).expand_as(corner))


def test_predictions_are_posterior_means(prior):
    pictures = torch.stack([torch.full((3, 64, 64), value) for value in (-0.5, 0.1, 0.3)])
    judge = Oracle(prior, {WORDS: pictures})
    text = judge.encode_text(["corgi, front, level, unlit"])
    generator = torch.Generator().manual_seed(0)
    for t, expected in (
        (999, pictures.mean(0)),
        (1, pictures[1]),
    ):  # almost only noise; almost none
        alpha, sigma = prior.alphas[t], prior.sigmas[t]
        noise = torch.randn(3, 64, 64, generator=generator)
        z = alpha * pictures[1] + sigma * noise
        found = judge.predict(z[None], torch.tensor([t]), Condition(text))[0]
        torch.testing.assert_close(found, expected, atol=0.02, rtol=0)


def test_an_empty_text_means_all_images(prior):
    bank = {WORDS: torch.zeros(1, 3, 64, 64), ("back", "level", "unlit"): torch.ones(1, 3, 64, 64)}
    judge = Oracle(prior, bank)
    text = judge.encode_text(["corgi, back, level, unlit", "corgi, front, level, unlit", ""])
    z, t = torch.zeros(3, 3, 64, 64), torch.full((3,), 999)
    means = judge.predict(z, t, Condition(TextEmbedding(text.tokens))).mean(dim=(1, 2, 3))
    assert means[0] == 1 and means[1] == 0 and 0 < means[2] < 1


def test_a_joint_oracle_knows_the_order_of_views_only(prior):
    """The reference is a loop over the closed form."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.rand(5, 4, 3, 64, 64, generator=generator) * 2 - 1
    bank = {WORDS: groups[:2].flatten(0, 1), ("back", *WORDS[1:]): groups[2:].flatten(0, 1)}
    judge = Oracle(prior, bank, 4)
    z = torch.cat([groups[3], groups[1]])
    z = z + 0.01 * torch.randn(z.shape, generator=generator)
    for t in (100, 980):
        alpha, sigma = prior.alphas[t], prior.sigmas[t]
        noisy = alpha * z + sigma * torch.randn(z.shape, generator=generator)
        text = judge.encode_text(["corgi, unlit"] * 8)
        found = judge.predict(noisy, torch.full((8,), t), Condition(text)).unflatten(0, (2, 4))
        for group, mean in zip(noisy.unflatten(0, (2, 4)), found, strict=True):
            logits = torch.stack([
                -(group - alpha * x).double().square().sum() / (2 * sigma.double() ** 2)
                for x in groups
            ])  # fmt: skip
            expected = torch.einsum("n,n...->...", logits.softmax(0).float(), groups)
            torch.testing.assert_close(mean, expected, atol=2e-3, rtol=0)
        if t == 100:
            torch.testing.assert_close(found[0], groups[3], atol=1e-3, rtol=0)


def test_the_bank_of_a_joint_oracle_has_quarter_turns_in_one_light(prior):
    bank = bank_of("mug", prior, shapes=1, views=8, group_size=4)
    assert sum(map(len, bank.values())) == 8 * 3
    assert all(len(images) % 4 == 0 for images in bank.values())
    # The first view of a group decides its words: a lamp at the camera lights it the most.
    lit = torch.cat([images for words, images in bank.items() if words[2] == "clay"])
    shown = (lit.unflatten(0, (-1, 4)) / 2 + 0.5).mean((2, 3, 4))
    assert shown.shape == (2, 4) and (shown[:, 0] > shown[:, 2]).all()


def test_images_of_an_incomplete_group_are_refused():
    with pytest.raises(UserError, match=r"prior\.images is no multiple of prior\.group_size"):
        OracleSettings(images=10, group_size=4).build(device="cpu", prompts=["corgi"])


def test_sds_pulls_an_image_to_the_images_of_the_bank(prior):
    target = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    judge = Oracle(prior, {WORDS: target})
    text = judge.encode_text(["corgi, front, level, unlit"])
    picture = torch.full((1, 3, 64, 64), 0.5, requires_grad=True)
    generator = torch.Generator().manual_seed(0)
    out = sds(
        judge, picture, text, text, guidance=1, t_range=(0.3, 0.9),
        weighting="inverse_sqrt_snr", generator=generator,
    )  # fmt: skip
    out.loss.backward()
    # For this weighting, w (e_hat - e) is x - x_hat for any noise.
    torch.testing.assert_close(out.gradient, (picture.detach() * 2 - 1) - target, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("one_thread")
def test_a_run_with_the_oracle_is_an_ordinary_run(monkeypatch, tmp_path):
    ball = torch.zeros(1, 3, 64, 64)
    ball[..., 16:48, 16:48] = 1
    asked = []

    def bank(noun, prior, **options):
        asked.append((noun, options["color"]))
        prompts = prior.card.vocabulary.all_prompts("corgi")
        return {tuple(prompt.split(", ")[1:]): ball for prompt in prompts}

    monkeypatch.setattr(oracle, "bank_of", bank)
    settings = {"video_frames": 1, "video_size": 16, "mesh_resolution": 16, "texture_size": 0}
    more = [f"--set=output.{name}={value}" for name, value in settings.items()]
    command = ["train", "a red puppy", "--prior", "oracle", "--steps", "1", "--out"]
    assert main([*command, str(tmp_path / "puppy"), *more, "--set=prior.shapes=3"]) == 0
    config = find_run(tmp_path / "puppy").read_config()
    assert asked == [("corgi", "red")]
    assert config.prior.shapes == 3  # a setting of this prior alone
    assert config.prior.name == "oracle" and config.prompt == "a red puppy"
    assert config.estimator.guidance.start == 1 and config.background.kind == "fixed"


def test_the_oracle_needs_one_prompt():
    with pytest.raises(UserError, match="needs one prompt with a noun"):
        OracleSettings().build(device="cpu", prompts=None)
