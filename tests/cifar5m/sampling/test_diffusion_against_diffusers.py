"""The samplers against diffusers' schedulers on equal noise and a real U-Net.

The bounds leave room for other machines; the largest differences on one CPU are beside them.
"""

import math

import numpy as np
import pytest
import torch

import worlds.runtime.torchvision_ops  # noqa: F401  (before diffusers, which imports torchvision)
from cifar5m.sampling.diffusion import (
    SAMPLERS,
    ancestral,
    ddim,
    dpm_solver_pp_2m,
    leading_timesteps,
    linear_schedule,
)

T = 1000
SCHEDULE = linear_schedule()


def addressed_noise(step: int) -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(step))


@pytest.fixture(scope="module")
def predict():
    """A real UNet2DModel with random weights, read as v so that unclipped images stay bounded."""
    from diffusers import UNet2DModel

    torch.manual_seed(0)
    model = UNet2DModel(
        sample_size=16,
        layers_per_block=1,
        block_out_channels=(16, 16),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    ).eval()

    def predict_noise(x: torch.Tensor, t: int) -> torch.Tensor:
        a = SCHEDULE.alpha_bar(int(t))
        return math.sqrt(1 - a) * x + math.sqrt(a) * model(x, t).sample

    return predict_noise


def check_against(
    make_scheduler, predict, ours, timesteps, bounds, step_options=lambda t: {}, custom=False
):
    """Run diffusers' own loop twice: with its float32 table, and with our float64 one in its place.

    `bounds` are the largest differences allowed, on images of about [-1, 1]. Its own timesteps must
    be ours, or with `custom` it is told ours.
    """
    for exact_table, bound in zip((False, True), bounds, strict=True):
        scheduler = make_scheduler()
        if exact_table:
            scheduler.alphas_cumprod = torch.tensor(SCHEDULE.alphas_bar)
        scheduler.set_timesteps(
            **({"timesteps": timesteps} if custom else {"num_inference_steps": len(timesteps)})
        )
        assert scheduler.timesteps.tolist() == timesteps
        theirs = addressed_noise(T)
        with torch.no_grad():
            for t in scheduler.timesteps:
                options = step_options(int(t))
                theirs = scheduler.step(predict(theirs, t), t, theirs, **options).prev_sample
        assert 0.2 < theirs.std() < 2  # an image, neither blank nor saturated
        assert (ours - theirs).abs().max() <= bound


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
@pytest.mark.parametrize("steps", [1, 15])  # 15 does not divide 1000
def test_ancestral_equals_ddpm_scheduler(predict, monkeypatch, variance, steps):
    from diffusers import DDPMScheduler
    from diffusers.schedulers import scheduling_ddpm

    # The scheduler draws its noise itself; give it the noise of the timestep instead.
    monkeypatch.setattr(
        scheduling_ddpm, "randn_tensor", lambda shape, generator, **_: addressed_noise(generator)
    )
    check_against(
        lambda: DDPMScheduler(variance_type=variance),
        predict,
        ancestral(predict, addressed_noise, SCHEDULE, steps=steps, variance=variance),
        leading_timesteps(SCHEDULE, steps),
        bounds=(1e-4, 1e-6),  # measured: 3.1e-6 and 0
        step_options=lambda t: {"generator": t},
    )


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_equals_ddim_scheduler(predict, eta, clip):
    from diffusers import DDIMScheduler

    check_against(
        lambda: DDIMScheduler(clip_sample=clip),
        predict,
        ddim(predict, addressed_noise, SCHEDULE, 15, eta=eta, clip=clip),
        leading_timesteps(SCHEDULE, 15),
        bounds=(1e-4, 1e-6),  # measured: 3.6e-6 and 0
        step_options=lambda t: {
            "eta": eta,
            "use_clipped_model_output": clip,
            "variance_noise": addressed_noise(t),
        },
    )


# Its constructor copies a tensor in a way that numpy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(
    "steps, spacing", [(1, "uniform"), (2, "uniform"), (20, "uniform"), (10, "logsnr")]
)  # below 15 steps diffusers treats the last ones apart
def test_dpm_solver_equals_dpm_solver_scheduler(predict, clip, steps, spacing):
    from diffusers import DPMSolverMultistepScheduler

    check_against(
        # Dynamic thresholding with a largest value of 1 is clipping to [-1, 1].
        lambda: DPMSolverMultistepScheduler(thresholding=clip, sample_max_value=1.0),
        predict,
        dpm_solver_pp_2m(predict, addressed_noise, SCHEDULE, steps, spacing=spacing, clip=clip),
        SAMPLERS["dpm_solver_pp_2m"].spacings[spacing](SCHEDULE, steps),
        bounds=(1e-4, 1e-4),  # measured: 3.8e-5 both (its sigmas are float32), at one step
        custom=spacing == "logsnr",  # diffusers has it in fractional timesteps only
    )


@pytest.mark.parametrize("steps", [1, 10, 40])
def test_quadratic_ddim_equals_the_published_formula(predict, steps):
    """Equation (12) of the DDIM paper at eta 0 in float64, on its timesteps for CIFAR-10."""
    tau = [int(s) for s in np.linspace(0, np.sqrt(T * 0.8), steps) ** 2]
    x = addressed_noise(T).double()
    with torch.no_grad():
        for now, after in zip(tau[::-1], [*tau[:-1][::-1], None], strict=True):
            a = SCHEDULE.alphas_bar[now]
            a_after = 1.0 if after is None else SCHEDULE.alphas_bar[after]
            epsilon = predict(x.float(), now).double()
            x0 = (x - np.sqrt(1 - a) * epsilon) / np.sqrt(a)
            x = np.sqrt(a_after) * x0 + np.sqrt(1 - a_after) * epsilon
    ours = ddim(predict, addressed_noise, SCHEDULE, steps, spacing="quadratic", clip=False)
    assert (ours - x).abs().max() <= 2e-5  # measured: 2.3e-6


def test_ddim_with_eta_1_is_the_small_variance_ancestral_sampler(predict):
    one = ddim(predict, addressed_noise, SCHEDULE, 20, eta=1.0)
    other = ancestral(predict, addressed_noise, SCHEDULE, 20, variance="fixed_small")
    assert (one - other).abs().max() <= 1e-5  # measured: 7.2e-7
