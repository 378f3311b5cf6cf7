import pytest
import torch
from diffusers import DDPMScheduler

from dreamfusion.diffusion import add_noise, to_noise, to_sample


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noising_and_conversions_agree_with_diffusers(prediction, betas):
    scheduler = DDPMScheduler(
        1000, beta_schedule=betas, prediction_type=prediction, clip_sample=False
    )
    generator = torch.Generator().manual_seed(0)
    x, noise = (torch.randn(1, 3, 4, 4, generator=generator) for _ in range(2))
    for t in (0, 17, 500, 950):
        alpha = scheduler.alphas_cumprod[t].sqrt()
        sigma = (1 - scheduler.alphas_cumprod[t]).sqrt()
        noisy = add_noise(x, noise, alpha, sigma)
        steps = torch.tensor([t])
        torch.testing.assert_close(noisy, scheduler.add_noise(x, noise, steps))
        truth = {
            "epsilon": noise,
            "v_prediction": scheduler.get_velocity(x, noise, steps),
            "sample": x,
        }[prediction]
        original = scheduler.step(truth, t, noisy, generator=generator).pred_original_sample
        torch.testing.assert_close(
            to_sample(truth, noisy, alpha, sigma, prediction), original, rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            to_noise(truth, noisy, alpha, sigma, prediction), noise, rtol=1e-3, atol=1e-3
        )


def test_flow_conversions_invert_each_other():
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    sigma = torch.tensor(0.3)
    noisy = add_noise(x, noise, 1 - sigma, sigma)
    torch.testing.assert_close(to_noise(noise - x, noisy, 1 - sigma, sigma, "flow"), noise)
    torch.testing.assert_close(to_sample(noise - x, noisy, 1 - sigma, sigma, "flow"), x)
