"""The samplers in a Gaussian world whose exact answers are known, and their contracts."""

import math

import numpy as np
import pytest
import torch

from cifar5m.sampling.diffusion import (
    SAMPLERS,
    FiniteGuard,
    NonFiniteError,
    SamplerConfig,
    Schedule,
    ancestral,
    ddim,
    dpm_solver_pp_2m,
    leading_timesteps,
    linear_schedule,
    sample,
    to_uint8,
)

T = 1000
SCHEDULE = linear_schedule()


def addressed_noise(step: int) -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(step))


# --- a Gaussian world -----------------------------------------------------------------------------
# Data ~ N(MEAN, SPREAD^2) in every pixel. The best noise prediction is then affine in x, so each
# sampler is an affine map of the noise it is given, and its output law is known to the last digit.

MEAN, SPREAD = 0.3, 0.5


def gaussian_predict(schedule: Schedule, calls: list[int] | None = None):
    def predict_noise(x: torch.Tensor, t: int) -> torch.Tensor:
        if calls is not None:
            calls.append(t)
        a = schedule.alpha_bar(t)
        return math.sqrt(1 - a) * (x - math.sqrt(a) * MEAN) / (a * SPREAD**2 + 1 - a)

    return predict_noise


def impulses(num_train_steps: int):
    """Noise for a batch of T + 2: image j has one 1, at step j, and the last image has none."""

    def noise(step: int) -> torch.Tensor:
        return (torch.arange(num_train_steps + 2) == step).float().reshape(-1, 1, 1, 1)

    return noise


def mean_and_variance(sampler, schedule=SCHEDULE, **options) -> tuple[float, float]:
    """Of the sampler's output under independent normals: exact, by its response to each impulse."""
    x = sampler(
        gaussian_predict(schedule),
        impulses(schedule.num_train_steps),
        schedule,
        clip=False,
        **options,
    ).double()
    response = x[:-1] - x[-1]
    return x[-1].item(), response.square().sum().item()


def expected_mean_and_variance(timesteps: list[int], variance: str) -> tuple[float, float]:
    """The chain's law by Bayes' rule: precisions of q(x_next | x0) and q(x_t | x_next) add up."""
    mean, var = 0.0, 1.0
    for t, after in zip(timesteps, [*timesteps[1:], None], strict=True):
        a = SCHEDULE.alphas_bar[t]
        gain = (
            np.sqrt(a) * SPREAD**2 / (a * SPREAD**2 + 1 - a)
        )  # x0 = MEAN + gain (x - sqrt(a) MEAN)
        offset = MEAN * (1 - gain * np.sqrt(a))
        if after is None:
            return gain * mean + offset, gain**2 * var
        a_after = SCHEDULE.alphas_bar[after]
        kept = a / a_after
        precision = 1 / (1 - a_after) + kept / (1 - kept)
        from_x0 = np.sqrt(a_after) / (1 - a_after) / precision
        from_x = np.sqrt(kept) / (1 - kept) / precision
        added = 1 - kept if variance == "fixed_large" else 1 / precision
        scale = from_x0 * gain + from_x
        mean, var = from_x0 * offset + scale * mean, scale**2 * var + added
    raise AssertionError("no timesteps")


@pytest.mark.parametrize("variance", ["fixed_large", "fixed_small"])
@pytest.mark.parametrize("steps", [1, 70, 1000])
def test_ancestral_output_has_the_exact_mean_and_variance(variance, steps):
    ours = mean_and_variance(ancestral, steps=steps, variance=variance)
    expected = expected_mean_and_variance(leading_timesteps(SCHEDULE, steps), variance)
    assert ours == pytest.approx(expected, abs=2e-5)  # measured: 4.8e-6


@pytest.mark.parametrize(
    "variance, excess",
    [("fixed_large", 0.003), ("fixed_small", -0.0155)],  # of the output's variance over the data's
)
def test_a_thousand_ancestral_steps_reach_the_data(variance, excess):
    mean, var = mean_and_variance(ancestral, steps=1000, variance=variance)
    assert mean == pytest.approx(MEAN, abs=1e-5)
    assert var / SPREAD**2 - 1 == pytest.approx(excess, abs=1e-3)


def exact_flow(x: torch.Tensor, t: int, t_after: int, schedule: Schedule) -> torch.Tensor:
    """The probability-flow map between two timesteps: it keeps the standard score of each pixel."""

    def law(t: int) -> tuple[float, float]:
        a = schedule.alpha_bar(t)
        return math.sqrt(a) * MEAN, math.sqrt(a * SPREAD**2 + 1 - a)

    (m, s), (m_after, s_after) = law(t), law(t_after)
    return m_after + (x.double() - m) / s * s_after


def flow_error(sampler, steps: int, num_train_steps: int = T, **options) -> float:
    """Largest error of the image against the exact flow from the same starting noise."""
    schedule = linear_schedule(num_train_steps, 0.1 / num_train_steps, 20 / num_train_steps)
    calls: list[int] = []
    predict_noise = gaussian_predict(schedule, calls)
    x = sampler(predict_noise, addressed_noise, schedule, steps, clip=False, **options)
    start = addressed_noise(num_train_steps)
    return (x - exact_flow(start, calls[0], -1, schedule)).abs().max().item()


def test_ddim_converges_to_the_exact_flow_at_first_order():
    coarse, fine = (flow_error(ddim, steps, num_train_steps=100_000) for steps in (50, 100))
    assert coarse / fine == pytest.approx(2, rel=0.1)
    assert flow_error(ddim, 1000) < 1e-2


def test_dpm_solver_converges_to_the_exact_flow_at_second_order():
    """In equal steps of the log signal-to-noise ratio, for which the method is derived."""
    coarse, fine = (
        flow_error(dpm_solver_pp_2m, steps, num_train_steps=100_000, spacing="logsnr")
        for steps in (40, 80)
    )
    assert coarse / fine == pytest.approx(4, rel=0.1)  # measured: 4.01
    assert flow_error(dpm_solver_pp_2m, 160) < 1e-3  # equal timesteps; measured: 5.9e-4


def test_logsnr_spacing_serves_few_calls_better():
    for steps, bound in ((10, 0.07), (20, 0.03)):  # measured: 0.063 and 0.029
        assert flow_error(dpm_solver_pp_2m, steps, spacing="logsnr") < bound
        assert flow_error(dpm_solver_pp_2m, steps) > 3 * bound  # measured: 0.385 and 0.092


# --- contracts ------------------------------------------------------------------------------------


ALL_CONFIGS = [
    SamplerConfig("ancestral", 7),
    SamplerConfig("ancestral", 7, variance="fixed_small"),
    SamplerConfig("ddim", 7, eta=1.0),
    SamplerConfig("ddim", 7, spacing="quadratic"),
    SamplerConfig("dpm_solver_pp_2m", 7),
    SamplerConfig("dpm_solver_pp_2m", 7, spacing="logsnr"),
]


def run(config: SamplerConfig, predict_noise=None, noise=addressed_noise, on_step=None):
    schedule = linear_schedule(config.num_train_steps)
    predict_noise = predict_noise or gaussian_predict(schedule)
    return sample(config, predict_noise, noise, schedule, on_step)


@pytest.mark.parametrize("config", ALL_CONFIGS, ids=str)
def test_sample_runs_the_named_sampler_and_reports_every_step(config):
    calls: list[int] = []
    steps: list[tuple[int, int]] = []
    states: list[torch.Tensor] = []
    x = run(
        config,
        gaussian_predict(SCHEDULE, calls),
        on_step=lambda i, t, x: (steps.append((i, t)), states.append(x)),
    )
    settings = {name: getattr(config, name) for name in SAMPLERS[config.name].settings}
    direct = SAMPLERS[config.name].run(
        gaussian_predict(SCHEDULE), addressed_noise, SCHEDULE, steps=7, **settings
    )
    assert torch.equal(x, direct)
    assert steps == list(enumerate(calls))
    assert len(calls) == config.network_calls == 7
    assert states[-1] is x
    assert x.dtype == torch.float32
    assert x.abs().max() <= 1


@pytest.mark.parametrize("config", ALL_CONFIGS, ids=str)
def test_noise_is_asked_for_by_timestep_once_each(config):
    calls: list[int] = []
    asked: list[int] = []

    def noise(step: int) -> torch.Tensor:
        asked.append(step)
        return addressed_noise(step)

    run(config, gaussian_predict(SCHEDULE, calls), noise)
    stochastic = config.name == "ancestral" or config.eta > 0
    assert asked == [T, *(calls[:-1] if stochastic else [])]


@pytest.mark.parametrize("config", ALL_CONFIGS, ids=str)
def test_the_state_is_float32_whatever_the_network_and_the_noise_are(config):
    exact = gaussian_predict(SCHEDULE)
    seen = set()

    def half(x: torch.Tensor, t: int) -> torch.Tensor:
        seen.add(x.dtype)
        return exact(x, t).bfloat16()

    x = run(config, half, lambda step: addressed_noise(step).double())
    assert x.dtype == torch.float32
    assert seen == {torch.float32}


@pytest.mark.parametrize("config", ALL_CONFIGS, ids=str)
def test_an_image_does_not_depend_on_its_batch(config):
    together = run(config)
    alone = run(config, noise=lambda step: addressed_noise(step)[1:])
    assert torch.equal(together[1:], alone)


def test_the_state_carries_no_gradient_graph():
    weight = torch.ones((), requires_grad=True)
    x = run(SamplerConfig("ddim", 3), lambda x, t: x * weight)
    assert not x.requires_grad


def test_an_exception_in_on_step_stops_the_run():
    calls: list[int] = []

    def stop(i: int, t: int, x: torch.Tensor) -> None:
        if i == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(SamplerConfig("ancestral", 100), gaussian_predict(SCHEDULE, calls), on_step=stop)
    assert len(calls) == 3


@pytest.mark.parametrize(
    "config, first, last, calls",
    [
        (SamplerConfig("ancestral", 1), 0, 0, 1),  # leading spacing starts at 0, as DDPMScheduler's
        (SamplerConfig("ancestral", 1000), 999, 0, 1000),
        (SamplerConfig("ancestral", 300), 897, 0, 300),  # 1000 // 300 = 3
        (SamplerConfig("ddim", 100), 990, 0, 100),
        (SamplerConfig("ddim", 100, spacing="quadratic"), 800, 0, 96),  # 0, 0, 0, 0, 1, 2, 2 ...
        (SamplerConfig("dpm_solver_pp_2m", 1), 999, 999, 1),
        (SamplerConfig("dpm_solver_pp_2m", 1000), 999, 1, 999),
        (SamplerConfig("dpm_solver_pp_2m", 1, spacing="logsnr"), 999, 999, 1),
        (SamplerConfig("dpm_solver_pp_2m", 20, spacing="logsnr"), 999, 0, 20),
        (SamplerConfig("ancestral", 50, start=600), 600, 0, 50),
        (SamplerConfig("ddim", 31, start=600), 600, 0, 31),
        (SamplerConfig("ddim", 15, spacing="quadratic", start=600), 600, 0, 15),
        (SamplerConfig("ddim", 15, spacing="quadratic", start=599), 599, 0, 15),
        (SamplerConfig("dpm_solver_pp_2m", 20, start=600), 600, 30, 20),
        (SamplerConfig("dpm_solver_pp_2m", 20, spacing="logsnr", start=600), 600, 0, 20),
        (SamplerConfig("ddim", 5, start=0), 0, 0, 1),
    ],
    ids=str,
)
def test_timesteps_fall_without_repeats(config, first, last, calls):
    seen: list[int] = []
    x = run(config, gaussian_predict(SCHEDULE, seen), lambda step: torch.ones(1, 1, 1, 1))
    assert seen == sorted(set(seen), reverse=True)
    assert (seen[0], seen[-1], len(seen)) == (first, last, calls)
    assert config.network_calls == calls
    assert torch.isfinite(x).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"name": "euler"}, "unknown sampler 'euler'; choose from ancestral, ddim, dpm_solver"),
        ({"steps": 0}, "steps must be between 1 and the network's 1000"),
        ({"steps": 1001}, "steps must be between 1 and the network's 1000"),
        ({"variance": "learned"}, "unknown variance 'learned'"),
        ({"spacing": "quadratic"}, "ancestral has no spacing 'quadratic'; choose from uniform"),
        ({"eta": 0.5}, "ancestral has no eta"),
        ({"name": "ddim", "eta": 1.5}, "eta must be between 0 and 1"),
        ({"name": "ddim", "eta": math.nan}, "eta must be between 0 and 1"),
        ({"name": "ddim", "variance": "fixed_small"}, "ddim has no variance"),
        ({"start": -1}, "start must be between 0 and 999, got -1"),
        ({"start": 1000}, "start must be between 0 and 999, got 1000"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SamplerConfig(**({"name": "ancestral", "steps": 10} | settings))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_start_takes_the_starting_noise_for_what_is_left_by_then(name):
    steps: list[int] = []
    config = SamplerConfig(name, 4, start=600)
    states: list[torch.Tensor] = []

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        states.append(x)
        return torch.zeros_like(x)

    def noise(step: int) -> torch.Tensor:
        steps.append(step)
        return addressed_noise(step)

    sample(config, predict, noise, SCHEDULE)
    assert steps[0] == SCHEDULE.num_train_steps
    assert torch.equal(states[0], addressed_noise(SCHEDULE.num_train_steps).float())


@pytest.mark.parametrize("name", SAMPLERS)
def test_more_steps_than_were_trained_are_refused(name):
    schedule = linear_schedule(10)
    with pytest.raises(ValueError, match="between 1 and the network's 10,"):
        SAMPLERS[name].run(gaussian_predict(schedule), addressed_noise, schedule, steps=11)
    with pytest.raises(ValueError, match="the schedule has 10 timesteps"):
        sample(SamplerConfig(name, 5), gaussian_predict(schedule), addressed_noise, schedule)


def test_the_schedule_is_ho_et_als_and_cannot_be_changed():
    assert SCHEDULE.betas.dtype == SCHEDULE.alphas_bar.dtype == np.float64
    assert (SCHEDULE.betas[0], SCHEDULE.betas[-1], len(SCHEDULE.betas)) == (1e-4, 0.02, T)
    expected = math.exp(sum(math.log1p(-b) for b in SCHEDULE.betas))
    assert SCHEDULE.alpha_bar(T - 1) == pytest.approx(expected, rel=1e-12)
    assert SCHEDULE.alpha_bar(-1) == 1
    with pytest.raises(ValueError, match="read-only"):
        SCHEDULE.alphas_bar[0] = 0
    with pytest.raises(ValueError, match="betas must be"):
        Schedule(np.array([0.1, 1.0]))


# --- the network's bad numbers, and pixels --------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_guard_names_the_first_bad_timestep_that_clipping_would_hide(bad):
    exact = gaussian_predict(SCHEDULE)

    def broken(x: torch.Tensor, t: int) -> torch.Tensor:
        epsilon = exact(x, t)
        if t in (300, 200):
            epsilon[0, 0, 0, 0] = bad
        return epsilon

    guard = FiniteGuard(broken)
    x = run(SamplerConfig("ancestral", 10), guard)
    if not math.isnan(bad):
        assert torch.isfinite(x).all()
    with pytest.raises(NonFiniteError, match="timestep 300") as caught:
        guard.check()
    assert caught.value.timestep == 300


def test_the_guard_is_silent_on_a_sound_network():
    guard = FiniteGuard(gaussian_predict(SCHEDULE))
    guard.check()
    x = run(SamplerConfig("ddim", 10), guard)
    guard.check()
    assert torch.equal(x, run(SamplerConfig("ddim", 10)))


def test_to_uint8_inverts_every_grey_level_and_clamps():
    levels = torch.arange(256, dtype=torch.uint8)
    x = (levels.float() / 127.5 - 1).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(x).flatten(), levels)
    outside = torch.tensor([-1e9, -1.01, -1.0, 1.0, 1.01, 1e9]).reshape(1, 1, 1, 6)
    assert to_uint8(outside).flatten().tolist() == [0, 0, 0, 255, 255, 255]


def test_to_uint8_has_no_bias():
    x = torch.linspace(-1, 1, 100_003).reshape(1, 1, 1, -1)
    error = to_uint8(x).double().flatten() - (x.double().flatten() + 1) * 127.5
    assert abs(error.mean().item()) < 1e-3  # truncation: -0.5
    assert error.abs().max().item() < 0.5 + 1e-4


def test_to_uint8_gives_images_last_channel():
    x = torch.rand(2, 3, 4, 5) * 2 - 1
    images = to_uint8(x.to(memory_format=torch.channels_last))
    assert (images.shape, images.dtype) == ((2, 4, 5, 3), torch.uint8)
    assert images.is_contiguous()
    assert torch.equal(images, to_uint8(x))
    assert torch.equal(images[..., 1], to_uint8(x[:, 1:2])[..., 0])
