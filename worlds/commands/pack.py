"""worlds-pack STORE OUT: make the memory-mapped pack that loaders are fastest on, from any store.

    worlds-pack out/cifar5m out/cifar5m-pack
    worlds-pack out/cifar5m-pack --check

The last line is the folder of the pack.
"""

import argparse
import sys
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    parse = argparse.ArgumentParser(
        prog="worlds-pack",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parse.add_argument("store", metavar="STORE", help="a folder, or hf://datasets/OWNER/NAME")
    parse.add_argument("out", metavar="OUT", nargs="?", type=Path, help="folder of the pack")
    parse.add_argument("--check", action="store_true", help="verify the hashes of the pack STORE")
    return parse


def main(argv: list[str] | None = None) -> int:
    args = parser().parse_args(argv)
    try:
        if args.check == (args.out is not None):
            raise ValueError("give OUT to make a pack, or --check to verify the pack STORE")
        folder = check(Path(args.store)) if args.check else make(args.store, args.out)
    except (ValueError, OSError) as error:
        print(f"worlds-pack: {error}", file=sys.stderr)
        return 2
    print(folder)
    return 0


def check(folder: Path) -> Path:
    from worlds.pack import verify_pack

    verify_pack(folder)
    return folder


def make(source: str, out: Path) -> Path:
    from tqdm import tqdm

    from worlds.pack import write_pack
    from worlds.stores import open_store

    store = open_store(source)
    with tqdm(total=len(store), unit=" images", disable=None) as bar:
        write_pack(list(store.splits.values()), out, lambda done, _: bar.update(done - bar.n))
    return out


if __name__ == "__main__":
    raise SystemExit(main())
