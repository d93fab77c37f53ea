"""cifar5m-import: make shards of an existing set: CIFAR-5m as released, other .npz sets, images.

    cifar5m-import part{0..5}.npz --out cifar5m            # what is missing is downloaded
    cifar5m-import 1m.npz --out edm-1m --pack              # keys image and label
    cifar5m-import a.npz --test b.npz --keys x,y --out mine
    cifar5m-import pictures/ --out mine                    # pictures/train/CLASS/*.png

Of the released parts, 0 to 4 become train and 5 test. The same command again resumes;
finished shards are never made twice.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from worlds.cli.exit import exit_code
from worlds.cli.parser import Parser
from worlds.cli.progress import ProgressBars

_OWN = ("pack", "dry_run", "quiet")  # options that are no parameters of `import_dataset`


def make_parser() -> Parser:
    from cifar5m.shards.import_sources import BASE_URL, FORMS

    parser = Parser("cifar5m-import", __doc__)
    add = parser.add_argument
    add(
        "paths",
        metavar="PART.npz",
        nargs="+",
        type=Path,
        help=".npz files with X and Y or image and label, or one directory of images",
    )
    add("--out", type=Path, required=True, help="dataset directory")
    add("--format", dest="form", default="auto", choices=("auto", *FORMS), help="default: auto")
    add("--split", choices=("train", "test"), help="split of .npz files whose names do not say it")
    add(
        "--test",
        metavar="FILE",
        nargs="+",
        type=Path,
        default=[],
        help=".npz files of the test split",
    )
    add(
        "--keys", metavar="IMAGES,LABELS", type=parse_keys, help="names of the arrays in .npz files"
    )
    add(
        "--class-names",
        metavar="NAME",
        nargs="+",
        help="in the order of labels (default: CIFAR-10's)",
    )
    add("--base-url", default=BASE_URL, help=f"where missing part{{i}}.npz are ({BASE_URL})")
    add("--shard-size", type=int, default=10_000, help="images a shard, >= 1 (default 10000)")
    add("--workers", type=int, help="encoding processes (default: one a CPU)")
    add("--pack", action="store_true", help="then write the pack, OUT.pack")
    add("--dry-run", action="store_true", help="print sizes and time, then stop")
    add("--quiet", action="store_true", help="no progress bar")
    return parser


def parse_keys(text: str) -> tuple[str, str]:
    """Return `X,Y` as two names."""
    names = text.split(",")
    if len(names) != 2 or not all(names):
        raise argparse.ArgumentTypeError(f"expected IMAGES,LABELS, got {text!r}")
    return names[0], names[1]


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    args = parser.parse_args(argv)
    return exit_code(parser, lambda: run(args), args.out)


def run(args: argparse.Namespace) -> int:
    from cifar5m.shards.importing import import_dataset
    from cifar5m.shards.packing import pack

    with ProgressBars(args.quiet, "finished shards are kept") as on_progress:
        if args.dry_run:
            print_estimate(args, on_progress)
            return 0
        # Shards, then the pack of them if it is asked for.
        given = {name: value for name, value in vars(args).items() if name not in _OWN}
        print(import_dataset(**given, on_progress=on_progress))
        if args.pack:
            print(pack(args.out, workers=args.workers, on_progress=on_progress))
    return 0


def print_downloads(missing: Sequence[Path], base_url: str) -> None:
    """Print which released parts would be downloaded, and their sizes as the server tells them."""
    from cifar5m.shards.importing import released_part
    from cifar5m.weights.download import FetchError, ask_size

    sizes: list[int | None] = []
    for path in missing:
        url = released_part(path, base_url).url
        try:
            sizes.append(ask_size(url))
        except FetchError as error:
            sizes.append(None)
            print(f"{path}: {error} and put it there")
            continue
        told = "size not told" if sizes[-1] is None else f"{sizes[-1]:,} bytes"
        print(f"{path}: to download from {url}, {told}")
    known = [size for size in sizes if size is not None]
    if known:
        more = "" if len(known) == len(sizes) else "at least "
        print(f"to download: {more}{sum(known) / 1e9:,.3f} GB in {len(sizes)} files")
    print("once the parts are there, a dry run tells size and time of the shards as well")


def print_estimate(args: argparse.Namespace, on_progress: ProgressBars) -> None:
    """Print what the import would make, and how long it takes by its first images."""
    from cifar5m.shards.importing import estimate, load_source, missing_paths, plan_of
    from worlds.runtime.processes import worker_count

    workers = worker_count(args.workers)
    if missing := missing_paths(args.paths):
        print_downloads(missing, args.base_url)
        return
    said = {"split": args.split, "test": args.test, "keys": args.keys}
    # Read the source, encode some of it, and extrapolate.
    source = load_source(args.paths, args.out, args.form, on_progress, **said)
    plan = plan_of(source, args.shard_size)
    layout, cost = plan.layout, estimate(source)
    images = len(layout)
    minutes = images * cost.write_seconds / workers / 60
    # Named ranges, such as the paper's test images.
    subsets = (
        f"{name}: {part['split']} {part['start']:,} to {part['stop'] - 1:,}"
        for name, part in source.subsets.items()
    )
    rows = {
        "source": f"{source.form}, {len(source.files)} files",
        "splits": ", ".join(f"{name} {length:,}" for name, length in layout.splits),
        "subsets": ", ".join(subsets) or "none",
        "images": f"{images:,}",
        "shards": f"{len(layout.shards()):,} of {layout.shard_size:,} images",
        "bytes": f"{cost.bytes(images):,} ({cost.image_bytes:,.0f} an image in the tar)",
        "speed": f"{1 / cost.write_seconds:,.0f} images/s a process",
        "time": f"{minutes:,.1f} minutes with {workers} processes, the disk permitting",
        "fingerprint": plan.fingerprint,
    }
    for name, value in rows.items():
        print(f"{name:12} {value}")


if __name__ == "__main__":
    sys.exit(main())
