"""Write dogbird/ilsvrc2012.txt and dogbird/classes.txt from WordNet 3.0 and timm's list of wnids.

    python -m nltk.downloader wordnet
    python tools/make_class_lists.py

Only the 1,000 wnids, which are facts, are taken from timm; all names are WordNet's.
"""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from dogbird.tasks import SYNSETS
from dogbird.wordnet import classes_below, find_wnid, open_wordnet

PACKAGE = Path(__file__).resolve().parents[1] / "dogbird"


def timm_wnids() -> list[str]:
    spec = find_spec("timm")
    assert spec is not None
    assert spec.origin is not None
    listed = Path(spec.origin).parent / "data" / "_info" / "imagenet_synsets.txt"
    return sorted(listed.read_text().split())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wordnet", type=Path, help="nltk data directory (default: nltk's own)")
    args = parser.parse_args()
    wordnet, wnids = open_wordnet(args.wordnet), timm_wnids()
    rows = [f"{wnid} {find_wnid(wnid, wordnet).lemma_names()[0]}" for wnid in wnids]
    (PACKAGE / "ilsvrc2012.txt").write_text("\n".join(rows) + "\n")
    found = [
        f"{label} {wnid} {name}"
        for label, synset in enumerate(SYNSETS)
        for wnid, name in classes_below(synset, wnids, wordnet).items()
    ]
    (PACKAGE / "classes.txt").write_text("\n".join(found) + "\n")
    print(f"{len(rows)} wnids, {len(found)} classes of DogBird")
    return 0


if __name__ == "__main__":
    sys.exit(main())
