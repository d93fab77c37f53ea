"""VGG and AlexNet for 32 px, as the paper's code shrinks them: one linear layer as the head; and
Myrtle5 ("mCNN" in that code), five layers.

Figures 2a, 4b, 10, 11a, 12, 17 and 18. At 224 px the first two are torchvision's (imagenet.py).
"""

from torch import nn

from worlds.models.layers import check_positive, init_fan_out
from worlds.models.registry import Architecture

# Channels of 3x3 convolutions; 0 is a 2x2 max-pool.
LAYERS = {
    11: (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    13: (64, 64, 0, 128, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0),
    16: (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0),
    19: (64, 64, 0, 128, 128, 0, *(256,) * 4, 0, *(512,) * 4, 0, *(512,) * 4, 0),
}


def vgg(num_classes: int, depth: int, batch_norm: bool) -> nn.Sequential:
    """Build a VGG: convolutions N(0, sqrt(2 / (9 * outputs))), head N(0, 0.01), every bias 0."""
    layers: list[nn.Module] = []
    channels = 3
    for width in LAYERS[depth]:
        # 0 in the table is a pool.
        if width == 0:
            layers.append(nn.MaxPool2d(2))
            continue
        layers.append(nn.Conv2d(channels, width, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(width))
        layers.append(nn.ReLU(inplace=True))
        channels = width
    # The head has a rule of its own.
    head = nn.Linear(channels, num_classes)
    model = nn.Sequential(*layers, nn.Flatten(), head)
    init_fan_out(model)
    nn.init.normal_(head.weight, 0.0, 0.01)
    nn.init.zeros_(head.bias)
    return model


def alexnet(num_classes: int) -> nn.Sequential:
    """Build five convolutions (maps of 8, 4, 2 pixels a side, then 1), no norm, no dropout."""
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=5),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, num_classes),
    )


def myrtle5(num_classes: int, width: int = 64, batch_norm: bool = True) -> nn.Sequential:
    """Build biased 3x3 convolutions on maps of 32, 32, 16 and 8 pixels, a global max, the head."""
    check_positive(width=width)
    layers: list[nn.Module] = []
    channels = 3
    for doublings in range(4):
        layers.append(nn.Conv2d(channels, width << doublings, 3, padding=1))
        channels = width << doublings
        if batch_norm:
            layers.append(nn.BatchNorm2d(channels))
        layers.append(nn.ReLU(inplace=True))
        # Maps halve after the second and the third convolution.
        if doublings in (1, 2):
            layers.append(nn.MaxPool2d(2))
    head = [nn.MaxPool2d(8), nn.Flatten(), nn.Linear(channels, num_classes)]
    return nn.Sequential(*layers, *head)


_FIGURES = {"vgg11_bn": "2a 4b 10 11a 12 17 18", "vgg16": "2a 4b 11a 17 18"}
ARCHITECTURES = (
    *(
        Architecture(
            name, "vgg", 32, vgg, {"depth": depth, "batch_norm": norm}, _FIGURES.get(name, "")
        )
        for depth in LAYERS
        for name, norm in ((f"vgg{depth}", False), (f"vgg{depth}_bn", True))
    ),
    Architecture("alexnet", "alexnet", 32, alexnet, figure="2a 4b 10 11a 12 17 18"),
    Architecture("myrtle5", "myrtle", 32, myrtle5, figure="2a 4b 11a 12 17"),
)
