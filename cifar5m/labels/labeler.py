"""The labeler: a timm classifier with ten classes; its argmax is the label.

BiT-M-R152x2 (`resnetv2_152x2_bit` of timm, fine-tuned on CIFAR-10) in the paper's recipe, or the
published ViT-B/16. Images are resized, cropped and normalized as timm evaluates the classifier by
its config: for BiT to 128 without a crop, for the ViT to 248 (224 / 0.9) and the center 224.
"mirror": true in the config averages over an image and its mirror image.
"""

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, Literal

import msgspec
import torch
import torch.nn.functional as F

from cifar5m.weights.bounds import bounded_by
from cifar5m.weights.convert import read_state
from cifar5m.weights.sources import Weights, WeightsError
from worlds.formats.layout import CIFAR10_CLASSES
from worlds.runtime.device import in_precision, on_device
from worlds.runtime.errors import first_line, lacks_memory, reading
from worlds.runtime.json_files import convert_json
from worlds.runtime.torchvision_ops import declare_missing_operators

Side = Annotated[int, msgspec.Meta(ge=1, le=4096)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
_SHOWN = 400  # characters of what torch says of tensors that do not fit
BIT = "resnetv2_152x2_bit"  # the architecture of a bare weights file
BIT_SIZE = 128


class NonFiniteLabelsError(RuntimeError):
    """The labeler's output held NaN or an infinity."""

    def __init__(self) -> None:
        super().__init__("the labeler returned NaN or infinity")


class Preprocessing(msgspec.Struct, frozen=True):
    """Preprocessing from pixels to the classifier's input."""

    size: tuple[Side, Side]
    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]
    interpolation: Literal["bilinear", "bicubic"]
    crop_pct: Annotated[float, msgspec.Meta(ge=0.1, le=10)] = 1.0
    crop_mode: str = "center"
    mirror: bool = False  # average over the image and its mirror image

    @property
    def resized(self) -> tuple[int, int]:
        """Return the size (H, W) of a resized square image before the crop or padding to `size`."""
        height, width = (math.floor(side / self.crop_pct) for side in self.size)
        if self.crop_mode == "squash":
            return height, width
        # timm keeps the ratio: "center" fills the target, "border" stays inside of it.
        side = min(height, width) if self.crop_mode == "border" else max(height, width)
        return side, side


class Labeler:
    """Class probabilities of uint8 images, on one device, in batches of one fixed size."""

    def __init__(
        self,
        network: torch.nn.Module,
        preprocessing: Preprocessing,
        device: torch.device,
        precision: str,
        batch: int,
    ) -> None:
        self.device, self.precision, self.batch = device, precision, batch
        self.preprocessing = preprocessing
        self.network = on_device(network, device)
        self.mean = torch.tensor(preprocessing.mean, device=device).view(1, 3, 1, 1)
        self.std = torch.tensor(preprocessing.std, device=device).view(1, 3, 1, 1)

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.network.parameters())

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return class probabilities, float32 (N, 10), of uint8 (N, 32, 32, 3) on the device."""
        return self._in_batches(images, lambda x: self.network(x).float().softmax(1))

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Return the input of the classifier's last layer, float32 (N, F)."""
        return self.features_and_probabilities(images)[0]

    def features_and_probabilities(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features and class probabilities, float32 (N, F) and (N, 10), of one pass."""
        network: Any = self.network

        def call(x: torch.Tensor) -> torch.Tensor:
            maps = network.forward_features(x)  # (N, C, h, w), or tokens
            features = network.forward_head(maps, pre_logits=True).float().flatten(1)  # (N, F)
            return torch.cat([features, network.forward_head(maps).float().softmax(1)], 1)

        rows = self._in_batches(images, call)
        classes = len(CIFAR10_CLASSES)
        return rows[:, :-classes], rows[:, -classes:]

    @torch.inference_mode()
    def _in_batches(
        self, images: torch.Tensor, call: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        """Return `call` of all images, in batches of which the last is padded full, so that an
        image's result does not depend on how many come with it.

        Raises NonFiniteLabelsError if the network returned NaN or infinity.
        """
        found = []
        # Every call has the same shape; the rows of the padding are dropped.
        for start in range(0, len(images), self.batch):
            part = images[start : start + self.batch]
            missing = self.batch - len(part)
            if missing:
                part = torch.cat([part, part[-1:].expand(missing, *part.shape[1:])])
            x = self.prepare(part)
            with in_precision(self.precision, self.device):
                rows = call(x)
                if self.preprocessing.mirror:
                    rows = (rows + call(x.flip(3))) / 2
            found.append(rows[: self.batch - missing])
        rows = torch.cat(found)
        if not rows.isfinite().all():
            raise NonFiniteLabelsError
        return rows

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Convert uint8 (N, 32, 32, 3) to the network's float32 (N, 3, H, W)."""
        x = images.permute(0, 3, 1, 2).float() / 255  # (N, 3, H, W) in [0, 1]
        prepared = self.preprocessing
        mode, (height, width) = prepared.interpolation, prepared.resized
        if mode == "bicubic":
            # It overshoots, and Pillow, by which timm resizes, clips after each of the directions.
            x = F.interpolate(x, (x.shape[2], width), mode=mode, antialias=True).clamp(0, 1)
            x = F.interpolate(x, (height, width), mode=mode, antialias=True).clamp(0, 1)
        else:
            x = F.interpolate(x, (height, width), mode=mode, antialias=True)
        if prepared.resized != prepared.size:
            x = _center(x, prepared.size, self.mean)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)


def _center(x: torch.Tensor, size: tuple[int, int], fill: torch.Tensor) -> torch.Tensor:
    """Crop (N, 3, H, W) to its center of `size`, or pad it with the color `fill`, (1, 3, 1, 1)."""
    height, width = x.shape[-2:]
    if height < size[0] or width < size[1]:
        padded = fill.expand(len(x), 3, max(height, size[0]), max(width, size[1])).clone()
        top, left = (padded.shape[2] - height) // 2, (padded.shape[3] - width) // 2
        padded[:, :, top : top + height, left : left + width] = x
        x, (height, width) = padded, padded.shape[-2:]
    top, left = round((height - size[0]) / 2), round((width - size[1]) / 2)
    return x[:, :, top : top + size[0], left : left + size[1]]


@contextmanager
def timm_folder(weights: Weights) -> Iterator[Path]:
    """Yield the folder of a classifier with a config that timm reads.

    Configs on the Hub may call the architecture `timm/NAME.TAG`, which timm does not know.
    """
    # timm reads a directory: one with the right name is made of links.
    config = weights.config
    assert config is not None
    assert weights.folder is not None
    name = str(config.get("architecture", "")).rpartition("/")[2]
    if name == config.get("architecture"):
        yield weights.folder
        return
    with TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(config | {"architecture": name}))
        Path(folder, weights.file.name).symlink_to(weights.file.resolve())
        yield Path(folder)


def load_classifier(weights: Weights) -> tuple[torch.nn.Module, Preprocessing]:
    """Load a timm model and its preprocessing.

    Raises WeightsError unless its tensors are those of its config, and its classes CIFAR-10's ten.
    """
    declare_missing_operators()
    import timm

    # A bare file is a BiT; a directory says its architecture.
    try:
        if weights.folder is None:
            network = timm.create_model(BIT, num_classes=10, checkpoint_path=str(weights.file))
        else:
            with bounded_by(read_state(weights.file)), timm_folder(weights) as folder:
                # A named classifier would be left random where the config gives two class counts.
                network = timm.create_model(
                    f"local-dir:{folder}",
                    pretrained=True,
                    pretrained_cfg_overlay={"classifier": None},
                )
    except Exception as error:  # of timm, of safetensors, of pickle: a damaged file brings up many
        if lacks_memory(error):
            raise
        reason = _reason(error)
        raise WeightsError(f"{weights.file} does not load as a timm model: {reason}") from error
    # The classes must be CIFAR-10's, in its order.
    if network.num_classes != len(CIFAR10_CLASSES):
        raise WeightsError(
            f"the labeler must have the ten classes of CIFAR-10, {weights.source} has "
            f"{network.num_classes}: fine-tune it first"
        )
    names = network.pretrained_cfg.get("label_names") or CIFAR10_CLASSES
    if list(names) != list(CIFAR10_CLASSES):
        raise WeightsError(
            f"the labeler's classes must be {', '.join(CIFAR10_CLASSES)}, {weights.source} has "
            f"{', '.join(map(str, names))}"
        )
    # A bare file has no config: BiT's own preprocessing.
    config = network.pretrained_cfg
    if weights.folder is None:
        config = config | {"input_size": (3, BIT_SIZE, BIT_SIZE), "interpolation": "bilinear"}
        config = config | {"crop_pct": 1.0}
    with reading(weights.file, "a timm model with its preprocessing"):
        # Beside what timm knows: "mirror": true averages over both orientations.
        mirror = (weights.config or {}).get("mirror", False)
        return network.float(), _preprocessing(config | {"mirror": mirror})


def _reason(error: Exception) -> str:
    """Return the message in one line: torch names tensors that do not fit on many."""
    if "in loading state_dict" not in str(error):
        return first_line(error)
    line = " ".join(str(error).split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."


def _preprocessing(config: dict[str, Any]) -> Preprocessing:
    named = {name: config.get(name) for name in ("mean", "std", "interpolation")}
    optional = ("crop_pct", "crop_mode", "mirror")
    cropped = {name: config[name] for name in optional if config.get(name)}
    size = {"size": list(config["input_size"])[1:]}
    return convert_json(size | named | cropped, Preprocessing, "pretrained_cfg")
