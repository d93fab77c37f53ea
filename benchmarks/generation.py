"""How fast images are made: ours beside diffusers' own pipeline, and what writing them costs.

    python benchmarks/generation.py                    # CPU, or the GPU where there is one
    python benchmarks/generation.py --unet real        # Ho et al.'s network size, random weights

Same U-Net, same weights, same device, same number of ancestral steps, one run. The two take turns
and the medians are compared; one round before is thrown away. A product of large matrices in the
same turns says how fast the machine's arithmetic is, and which part of that a row reaches. Then PNG
encoding and shard writing, and 6,000,000 images projected from what was measured. The last line is
JSON.
"""

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from peak import Product

from cifar5m.engines.estimate import flop_per_call
from cifar5m.sampling.diffusion import Predict, SamplerConfig, linear_schedule, sample, to_uint8
from cifar5m.sampling.noise import image_noise
from cifar5m.sampling.together import side_by_side
from cifar5m.sampling.unet import Generator, load_unet
from cifar5m.weights.convert import UNET_CONFIG
from cifar5m.weights.sources import find_generator
from worlds.formats.layout import Layout
from worlds.formats.plan import package_versions
from worlds.formats.shards import decode_image, encode_png, read_samples, write_shard
from worlds.runtime.torchvision_ops import declare_missing_operators

ALL = 6_000_000
CALLS = 1000  # an image, in the default recipe
# Network calls a second on one H200 (../shared/spec/generation.md section 2.3, measured there).
H200_CALLS = {"fp32 eager": 1_736, "tf32 eager": 7_932, "bf16 compiled": 27_441}


def load(size: str) -> torch.nn.Module:
    """The bundled U-Net, or one of Ho et al.'s size with random weights."""
    declare_missing_operators()
    from diffusers import UNet2DModel

    if size == "tiny":
        return load_unet(find_generator("tiny"))
    torch.manual_seed(0)
    return UNet2DModel(**UNET_CONFIG)


def pipeline(network: torch.nn.Module, batch: int, steps: int) -> Callable[[], np.ndarray]:
    """diffusers' DDPMPipeline with the checkpoint's own scheduler settings."""
    from diffusers import DDPMPipeline, DDPMScheduler

    scheduler = DDPMScheduler(variance_type="fixed_large", clip_sample=True)
    run = DDPMPipeline(network, scheduler)
    run.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)

    def call() -> np.ndarray:
        images = run(
            batch_size=batch, generator=generator, num_inference_steps=steps, output_type="np"
        ).images
        return (images * 255).round().astype("uint8")

    return call


def ours(
    network: torch.nn.Module, device: str, precision: str, batch: int, steps: int, streams: int = 1
) -> Callable[[], np.ndarray]:
    """The path of cifar5m-generate: addressed noise, sampler, pixels; by several streams each takes
    its part of the batch.
    """
    generator = Generator(network, torch.device(device), precision)
    index = torch.arange(batch, device=device)
    predict: Predict = generator
    if streams > 1:
        x = torch.randn(batch, 3, 32, 32, device=device)
        predict = side_by_side([generator] * streams, x, f"{generator.name}, {batch} images")
    config, schedule = SamplerConfig("ancestral", steps=steps), linear_schedule()

    def call() -> np.ndarray:
        x = sample(config, predict, lambda step: image_noise(0, index, step), schedule)
        return to_uint8(x).cpu().numpy()

    return call


def noise_only(device: str, batch: int, steps: int) -> Callable[[], None]:
    """The noise of as many steps, without the network."""
    index = torch.arange(batch, device=device)

    def call() -> None:
        for step in range(steps):
            image_noise(0, index, step)
        if device == "cuda":
            torch.cuda.synchronize()

    return call


def take_turns(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, one warm-up round apart."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def photographs(count: int) -> np.ndarray:
    """Images of the bundled recipe, repeated: what PNGs of the set weigh."""
    network = load_unet(find_generator("tiny"))
    generator = Generator(network, torch.device("cpu"), "fp32")
    config = SamplerConfig("dpm_solver_pp_2m", steps=12, spacing="logsnr")
    index = torch.arange(64)
    x = sample(config, generator, lambda step: image_noise(0, index, step), linear_schedule())
    return np.resize(to_uint8(x).numpy(), (count, 32, 32, 3))


def measure_writing(images: np.ndarray, folder: Path) -> dict[str, Callable[[], object]]:
    """Encoding and writing one shard, on one core; and reading it back."""
    shard = Layout((("train", len(images)),), len(images)).shards()[0]
    labels, probabilities = np.zeros(len(images), np.int64), np.full((len(images), 10), 0.1)

    def encode_and_write() -> None:
        write_shard(folder, shard, (encode_png(i) for i in images), labels, probabilities, {})

    def read() -> None:
        for _, data, _ in read_samples(folder / shard.tar):
            decode_image(data)

    return {"encode + write": encode_and_write, "read + decode": read}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    parser.add_argument("--unet", choices=("tiny", "real"), default="real" if cuda else "tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if cuda else "cpu")
    parser.add_argument("--batch", type=int, default=1000 if cuda else 32)
    parser.add_argument("--steps", type=int, default=20 if cuda else 5, help="of each run")
    parser.add_argument("--rounds", type=int, default=5, help="measured rounds, >= 3")
    precisions = ("fp32", "tf32", "bf16", "bf16-weights") if cuda else ("fp32", "bf16")
    parser.add_argument("--precisions", nargs="+", default=precisions, help="of ours")
    args = parser.parse_args(argv)

    network = load(args.unet).to(args.device).eval()
    flop = flop_per_call(network)
    calls: dict[str, Callable[[], object]] = {
        "diffusers pipeline": pipeline(network, args.batch, args.steps)
    }
    for precision in args.precisions:
        copy = load(args.unet)
        copy.load_state_dict(network.state_dict())
        calls[f"ours {precision}"] = ours(copy, args.device, precision, args.batch, args.steps)
    if args.device == "cuda":
        arguments = (copy, args.device, args.precisions[-1], args.batch, args.steps)
        calls[f"ours {args.precisions[-1]}, 2 streams"] = ours(*arguments, streams=2)
    calls["noise alone"] = noise_only(args.device, args.batch, args.steps)
    halves = any("bf16" in precision for precision in args.precisions)
    dtypes = {"fp32": torch.float32} | ({"bf16": torch.bfloat16} if halves else {})
    products = {name: Product(args.device, dtype) for name, dtype in dtypes.items()}
    seconds = take_turns(calls | products, args.rounds)
    peaks = {
        name: product.gflops(statistics.median(seconds.pop(name)))
        for name, product in products.items()
    }

    device = torch.cuda.get_device_name() if args.device == "cuda" else platform.machine()
    print(f"{args.unet} U-Net, {flop / 1e9:.2f} GFLOP a call, batch {args.batch}, {device}")
    print(f"{torch.get_num_threads()} threads, {package_versions()}, n = {args.rounds} rounds")
    peer = statistics.median(seconds["diffusers pipeline"])
    rows = {}
    for name, times in seconds.items():
        median = statistics.median(times)
        rate = args.batch * args.steps / median
        peak = rate * flop / 1e9 / peaks["bf16" if "bf16" in name else "fp32"]
        rows[name] = {"calls_per_second": rate, "ratio": peer / median, "n": len(times)}
        spread, of_peak = f"{min(times):.2f} to {max(times):.2f} s", ""
        if name != "noise alone":
            rows[name]["share_of_peak"], of_peak = peak, f", {peak:.0%} of the matrix product"
        compared = f"{peer / median:6.2f} x the pipeline{of_peak}"
        print(f"{name:20} {rate:10,.1f} calls/s {compared} ({spread})")
    for name, value in peaks.items():
        print(f"a matrix product in {name}: {value:,.0f} GFLOP/s")
    first = f"ours {args.precisions[0]}"
    share = statistics.median(seconds["noise alone"]) / statistics.median(seconds[first])
    print(f"noise is {share:.1%} of {first}")

    images = photographs(2_000)
    with tempfile.TemporaryDirectory() as folder:
        writing = take_turns(measure_writing(images, Path(folder)), args.rounds)
        size = next(Path(folder, "data").iterdir()).stat().st_size / len(images)
    write, read = (len(images) / statistics.median(writing[name]) for name in writing)
    print(f"writing: {write:,.0f} images/s a core, reading {read:,.0f}, {size:,.1f} bytes an image")
    print(
        f"{ALL:,} images: {ALL * size / 1e9:.1f} GB, {ALL / write / 3600:.2f} core-hours to write"
    )
    hours = {name: ALL * CALLS / rate / 3600 for name, rate in H200_CALLS.items()}
    for name, value in hours.items():
        print(f"{ALL:,} images on one H200, {name}: {value:,.0f} h by the spec's figure")
    result = {
        "benchmark": "generation",
        "device": device,
        "unet": args.unet,
        "batch": args.batch,
        "rows": rows,
        "matrix_gflops": peaks,
        "noise_share": share,
        "write_images_per_second_core": write,
        "read_images_per_second_core": read,
        "bytes_per_image": size,
        "versions": package_versions(),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
