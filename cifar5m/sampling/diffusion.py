"""Diffusion samplers as pure functions over any network that predicts the noise.

    schedule = linear_schedule()
    config = SamplerConfig("ancestral", steps=1000)
    x = sample(config, predict_noise, noise, schedule)  # float32 (B, 3, 32, 32) in [-1, 1]
    images = to_uint8(x)                                # uint8 (B, 32, 32, 3)

Symbols are those of Ho et al. (arXiv 2006.11239) and Song et al. (arXiv 2010.02502). Timesteps run
from T - 1 (noise) down to 0; alpha_bar(t) is the share of signal variance at t, and t = -1 stands
for the finished image, whose alpha_bar is 1. Coefficients are float64 and the state is float32: in
bfloat16 the grid near 1 is 0.008 wide and the last steps' noise is 0.01. Only the network may run
in less, under the caller's autocast.

Noise is asked for by name, never drawn: `noise(T)` is the starting noise of every sampler, and
`noise(t)` is what is added after the network call at timestep t. Samplers given one `noise`
therefore start from the same point.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import torch

Predict = Callable[[torch.Tensor, int], torch.Tensor]  # (x, timestep) -> noise, shaped like x
Noise = Callable[[int], torch.Tensor]  # step -> standard normals, the first one gives the shape
OnStep = Callable[[int, int, torch.Tensor], None]  # (calls before this one, timestep, new state)

VARIANCES: Final = ("fixed_large", "fixed_small")


@dataclass(frozen=True, eq=False)
class Schedule:
    """The forward process: read-only float64 tables of length T."""

    betas: np.ndarray
    alphas_bar: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        betas = np.array(self.betas, dtype=np.float64)
        if betas.ndim != 1 or not len(betas) or not ((betas > 0) & (betas < 1)).all():
            raise ValueError("betas must be a list of numbers in (0, 1); check the schedule's ends")
        alphas_bar = np.cumprod(1 - betas)
        betas.flags.writeable = alphas_bar.flags.writeable = False
        object.__setattr__(self, "betas", betas)
        object.__setattr__(self, "alphas_bar", alphas_bar)

    @property
    def num_train_steps(self) -> int:
        return len(self.betas)

    def alpha_bar(self, t: int) -> float:
        return float(self.alphas_bar[t]) if t >= 0 else 1.0


def linear_schedule(
    num_train_steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02
) -> Schedule:
    """Return betas equally spaced from `beta_start` to `beta_end`; the defaults are Ho et al.'s."""
    return Schedule(np.linspace(beta_start, beta_end, num_train_steps, dtype=np.float64))


# --------------------------------------------------------------------------------------------------
# Which timesteps the network is called at. All are falling and without repeats: a step from t to t
# changes nothing, so where rounding repeats a timestep its call is saved.


def leading_timesteps(schedule: Schedule, steps: int, start: int | None = None) -> list[int]:
    """Every (T // steps)-th timestep from 0: Ho et al.'s and DDIM's uniform spacing. From a given
    start to 0 in equal parts, rounded.
    """
    if start is not None:
        return _falling(np.linspace(start, 0, steps).round())
    return _falling(np.arange(steps) * (schedule.num_train_steps // steps))


def quadratic_timesteps(schedule: Schedule, steps: int, start: int | None = None) -> list[int]:
    """Squares of equal spacing from 0 to sqrt(0.8 T), cut to integers: DDIM's CIFAR-10 setting.
    From a given start, squares of equal spacing to 0, rounded.
    """
    if start is not None:
        return _falling((np.linspace(math.sqrt(start), 0, steps) ** 2).round())
    return _falling(np.linspace(0, math.sqrt(0.8 * schedule.num_train_steps), steps) ** 2)


def linspace_timesteps(schedule: Schedule, steps: int, start: int | None = None) -> list[int]:
    """From the start (T - 1) towards 0 in `steps` equal parts, rounded; 0 itself is left out."""
    first = schedule.num_train_steps - 1 if start is None else start
    return _falling(np.linspace(0, first, steps + 1).round()[1:])


def logsnr_timesteps(schedule: Schedule, steps: int, start: int | None = None) -> list[int]:
    """From the start (T - 1) to 0 in equal parts of the log signal-to-noise ratio, rounded.

    DPM-Solver's setting for small images. In tests/cifar5m/test_diffusion.py its largest error is
    0.063 at 10 calls and 0.029 at 20, where equal timesteps give 0.385 and 0.092.
    """
    falling = np.log(schedule.alphas_bar / (1 - schedule.alphas_bar))
    wanted = np.linspace(falling[-1 if start is None else start], falling[0], steps)
    timesteps = np.arange(schedule.num_train_steps)
    return _falling(np.interp(wanted, falling[::-1], timesteps[::-1]).round())


def _check_steps(num_train_steps: int, steps: int, start: int | None = None) -> None:
    if start is not None and not 0 <= start < num_train_steps:
        raise ValueError(f"start must be between 0 and {num_train_steps - 1}, got {start}")
    if not 1 <= steps <= num_train_steps:
        raise ValueError(
            f"steps must be between 1 and the network's {num_train_steps}, got {steps}"
        )


def _steps(
    sampler: str, spacing: str, schedule: Schedule, steps: int, start: int | None = None
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield (i, (t, the timestep the step leads to)); the last one leads to the image, -1."""
    _check_steps(schedule.num_train_steps, steps, start)
    timesteps = SAMPLERS[sampler].spacings[spacing](schedule, steps, start)
    return enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True))


def _falling(rising: np.ndarray) -> list[int]:
    return sorted({int(t) for t in rising}, reverse=True)


# --------------------------------------------------------------------------------------------------
# The samplers. Each returns float32 x; with `clip` the estimate of the image is held in [-1, 1] at
# every step, and the result, being the last such estimate, is in it too. `on_step` is called
# after each step, for progress and for stopping by an exception. With `start` the first call is at
# that timestep, and the starting noise is taken for what the forward process has left by then.


@torch.no_grad()
def ancestral(
    predict_noise: Predict,
    noise: Noise,
    schedule: Schedule,
    steps: int = 1000,
    variance: str = "fixed_large",  # beta_t, Ho et al.'s CIFAR-10 choice; fixed_small: posterior's
    clip: bool = True,
    start: int | None = None,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """DDPM, algorithm 2 of Ho et al.; fewer steps than T skip timesteps as DDPMScheduler does."""
    x = noise(schedule.num_train_steps).float()
    for i, (t, t_next) in _steps("ancestral", "uniform", schedule, steps, start):
        a, a_next = schedule.alpha_bar(t), schedule.alpha_bar(t_next)
        beta = 1 - a / a_next
        x0, _ = _denoise(predict_noise, x, t, a, clip)

        # The mean of q(x_next | x_t, x0), equation (7); at the last step it is x0 itself.
        share = (1 - a_next) / (1 - a)
        x = math.sqrt(a_next) * beta / (1 - a) * x0 + math.sqrt(1 - beta) * share * x
        if t_next >= 0:
            variances = {"fixed_large": beta, "fixed_small": beta * share}
            x = x + math.sqrt(variances[variance]) * noise(t).float()
        if on_step is not None:
            on_step(i, t, x)
    return x


@torch.no_grad()
def ddim(
    predict_noise: Predict,
    noise: Noise,
    schedule: Schedule,
    steps: int,
    eta: float = 0.0,  # 0 = deterministic; 1 = the ancestral sampler with fixed_small variance
    spacing: str = "uniform",  # or "quadratic"
    clip: bool = True,
    start: int | None = None,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Equation (12) of Song et al.

    With `clip` the noise is computed anew from the clipped image, so that the two still make up x
    (diffusers' `use_clipped_model_output=True`). DDIM's released code never clips.
    """
    x = noise(schedule.num_train_steps).float()
    for i, (t, t_next) in _steps("ddim", spacing, schedule, steps, start):
        a, a_next = schedule.alpha_bar(t), schedule.alpha_bar(t_next)
        x0, epsilon = _denoise(predict_noise, x, t, a, clip)
        sigma = eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))  # equation (16)
        x = math.sqrt(a_next) * x0 + math.sqrt(1 - a_next - sigma**2) * epsilon
        if sigma > 0:
            x = x + sigma * noise(t).float()
        if on_step is not None:
            on_step(i, t, x)
    return x


@torch.no_grad()
def dpm_solver_pp_2m(
    predict_noise: Predict,
    noise: Noise,
    schedule: Schedule,
    steps: int,
    spacing: str = "uniform",  # or "logsnr"
    clip: bool = True,
    start: int | None = None,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2M), algorithm 2 of Lu et al. (arXiv 2211.01095); deterministic.

    The last step goes to noise 0 and is of first order: its result is the last estimate of x0.
    """
    x = noise(schedule.num_train_steps).float()
    before: tuple[torch.Tensor, float] | None = None  # the last step's x0 and h
    for i, (t, t_next) in _steps("dpm_solver_pp_2m", spacing, schedule, steps, start):
        a, a_next = schedule.alpha_bar(t), schedule.alpha_bar(t_next)
        x0, _ = _denoise(predict_noise, x, t, a, clip)

        # h is the step in half the log signal-to-noise ratio, infinite for the last one.
        exp_minus_h = math.sqrt((1 - a_next) / a_next * a / (1 - a))
        h = -math.log(exp_minus_h) if t_next >= 0 else math.inf
        direction = x0
        if before is not None and t_next >= 0:
            direction = x0 + h / (2 * before[1]) * (x0 - before[0])
        shrink = math.sqrt((1 - a_next) / (1 - a))
        x = shrink * x + math.sqrt(a_next) * (1 - exp_minus_h) * direction
        before = x0, h
        if on_step is not None:
            on_step(i, t, x)
    return x


def _denoise(
    predict_noise: Predict, x: torch.Tensor, t: int, alpha_bar: float, clip: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the float32 image and noise that x at timestep t is made of, by the network."""
    signal, spread = math.sqrt(alpha_bar), math.sqrt(1 - alpha_bar)
    epsilon = predict_noise(x, t).float()
    x0 = (x - spread * epsilon) / signal
    if clip:
        x0 = x0.clamp(-1, 1)
        epsilon = (x - signal * x0) / spread
    return x0, epsilon


# --------------------------------------------------------------------------------------------------
# The table of samplers, and one of them with its settings.


@dataclass(frozen=True)
class Sampler:
    """A row of the table: the function, its spacings, and which settings it takes beside `clip`."""

    run: Callable[..., torch.Tensor]
    spacings: dict[str, Callable[[Schedule, int, int | None], list[int]]]
    settings: tuple[str, ...] = ()


SAMPLERS: Final = {
    "ancestral": Sampler(ancestral, {"uniform": leading_timesteps}, ("variance",)),
    "ddim": Sampler(
        ddim, {"uniform": leading_timesteps, "quadratic": quadratic_timesteps}, ("eta", "spacing")
    ),
    "dpm_solver_pp_2m": Sampler(
        dpm_solver_pp_2m, {"uniform": linspace_timesteps, "logsnr": logsnr_timesteps}, ("spacing",)
    ),
}


@dataclass(frozen=True)
class SamplerConfig:
    """Everything about the sampler that decides the images, apart from the schedule's betas."""

    name: str  # a key of SAMPLERS
    steps: int
    variance: str = "fixed_large"  # ancestral only: one of VARIANCES
    eta: float = 0.0  # ddim only: 0 to 1
    spacing: str = "uniform"  # also "quadratic" (ddim) and "logsnr" (dpm_solver_pp_2m)
    clip: bool = True
    num_train_steps: int = 1000  # T of the schedule that `sample` is given
    start: int | None = None  # timestep of the first call, below T; None: where the spacing has it

    def __post_init__(self) -> None:
        if self.name not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.name!r}; choose from {', '.join(SAMPLERS)}")
        # Settings that the sampler has, in their ranges.
        spacings = SAMPLERS[self.name].spacings
        if self.spacing not in spacings:
            raise ValueError(
                f"{self.name} has no spacing {self.spacing!r}; choose from {', '.join(spacings)}"
            )
        if self.variance not in VARIANCES:
            raise ValueError(f"unknown variance {self.variance!r}; choose from {VARIANCES}")
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must be between 0 and 1, got {self.eta}")
        # Settings of other samplers must be left alone, not silently ignored.
        for setting, default in (("variance", "fixed_large"), ("eta", 0.0)):
            if getattr(self, setting) != default and setting not in SAMPLERS[self.name].settings:
                raise ValueError(f"{self.name} has no {setting}; leave it at {default}")
        _check_steps(self.num_train_steps, self.steps, self.start)

    @property
    def network_calls(self) -> int:
        """Calls per image on a linear schedule: `steps`, less what rounding repeats."""
        spacing = SAMPLERS[self.name].spacings[self.spacing]
        return len(spacing(linear_schedule(self.num_train_steps), self.steps, self.start))


def sample(
    config: SamplerConfig,
    predict_noise: Predict,
    noise: Noise,
    schedule: Schedule,
    on_step: OnStep | None = None,
) -> torch.Tensor:
    """Run the sampler that `config` names."""
    if schedule.num_train_steps != config.num_train_steps:
        raise ValueError(
            f"the schedule has {schedule.num_train_steps} timesteps, the sampler was configured "
            f"for {config.num_train_steps}; set num_train_steps to the network's own"
        )
    row = SAMPLERS[config.name]
    settings = {name: getattr(config, name) for name in row.settings}
    common = {"steps": config.steps, "start": config.start, "clip": config.clip}
    return row.run(predict_noise, noise, schedule, on_step=on_step, **common, **settings)


# --------------------------------------------------------------------------------------------------
# Around the sampler: the network's bad numbers, and pixels.


class NonFiniteError(ArithmeticError):
    """The network's output held NaN or an infinity at `timestep`."""

    def __init__(self, timestep: int) -> None:
        super().__init__(f"the network returned NaN or infinity at timestep {timestep}")
        self.timestep = timestep


class FiniteGuard:
    """A `predict_noise` that remembers, on the device, the first timestep with NaN or infinity.

    The output has to be watched and not the state, because clipping turns an infinity into a
    plausible pixel. A call costs no synchronization; `check()` costs one, so call it now and then
    and always once before the images are used.
    """

    def __init__(self, predict_noise: Predict) -> None:
        self._predict_noise = predict_noise
        self._first_bad: torch.Tensor | None = None  # int64 scalar, -1 = none so far

    def __call__(self, x: torch.Tensor, t: int) -> torch.Tensor:
        epsilon = self._predict_noise(x, t)
        now = torch.where(torch.isfinite(epsilon).all(), -1, t)
        before = self._first_bad
        self._first_bad = now if before is None else torch.where(before < 0, now, before)
        return epsilon

    def check(self) -> None:
        """Raise NonFiniteError if any call since the last check went wrong."""
        first_bad = -1 if self._first_bad is None else int(self._first_bad)
        self._first_bad = None
        if first_bad >= 0:
            raise NonFiniteError(first_bad)


def to_uint8(x: torch.Tensor) -> torch.Tensor:
    """Convert float (B, 3, H, W) in [-1, 1] to uint8 (B, H, W, 3), values outside clamped.

    -1 becomes 0, 1 becomes 255, and the nearest gray level is taken, as EDM and diffusers do:
    truncating would darken every image by half a level on average.
    """
    levels = ((x.float() + 1) * 127.5).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
