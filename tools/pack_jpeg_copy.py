"""Pack the maintainers' JPEG copy of CIFAR-10, so that the commands can be tried on photographs.

    python tools/pack_jpeg_copy.py --data ../shared/data --out /tmp/cifar10-jpeg

The pixels are those of the JPEG copy (quality 75), not of CIFAR-10: say so beside any figure.
"""

import argparse
import sys
from pathlib import Path


def main(argv: list[str] | None = None) -> int:
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--data", type=Path, required=True, help="the folder of cifar10_jpeg.py")
    parse.add_argument("--out", type=Path, required=True, help="the pack's folder")
    args = parse.parse_args(argv)
    sys.path.insert(0, str(args.data))
    import cifar10_jpeg  # type: ignore[import-not-found]

    from worlds import ArrayStore, write_pack

    train, test = cifar10_jpeg.load("train"), cifar10_jpeg.load("test")
    store = ArrayStore(*train, *test, class_names=cifar10_jpeg.CLASSES)
    write_pack(list(store.splits.values()), args.out)
    print(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
