"""The audit as one HTML page: templates/audit.html.j2, filled in, with its pictures inside.

    html = make_page(report, audit)

Everything on it comes from the report (cifar5m/auditing/report.py); pictures come from the shards.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from cifar5m.auditing import charts
from cifar5m.auditing.inputs import Audit
from cifar5m.auditing.report import NEAR
from worlds.cli.pages import render
from worlds.formats.shards import encode_png

SHOWN = 24  # pictures of a kind
BESIDE = 3  # generated images beside one reference image


class Pictures:
    """Pixels of generated images and of reference images, as data URIs."""

    def __init__(self, audit: Audit) -> None:
        self._starts = np.array([shard.start for shard in audit.shards])
        self._offsets = np.cumsum([0, *(len(shard) for shard in audit.shards)])
        self._images, self._references = audit.tar_images(), audit.cifar10

    def generated(self, index: int) -> str:
        """Return the dataset's image of a global index, which must be in one of the shards."""
        # Shards that were left out make gaps between index and row.
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._offsets[place] + index - self._starts[place]
        out = np.empty((1, *self._images.shape[1:]), np.uint8)
        self._images.gather(np.array([row]), out)
        return _data_uri(out[0])

    def reference(self, split: str, index: int) -> str:
        return _data_uri(self._references[split].gather([index])[0])


def _data_uri(image: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


def make_page(report: dict[str, Any], audit: Audit) -> str:
    """Return the page of an audit's report."""
    return render(
        "cifar5m.auditing",
        "audit.html.j2",
        title=f"Audit of {report['dataset']['name']}",
        report=report,
        details=report["details"],
        cifar10=report["cifar10"]["name"],
        names=audit.plan.class_names,
        pictures=Pictures(audit),
        charts=charts,
        group_by_reference=group_by_reference,
        near=NEAR,
        shown=SHOWN,
    )


def group_by_reference(
    rows: Sequence[dict[str, Any]], shown: int
) -> list[tuple[list[dict[str, Any]], int]]:
    """Return the closest images of each of the first `shown` reference images, at most BESIDE of
    them, and how many more the report lists; so that a page shows each reference image once.
    """
    # The rows come nearest first, so each group begins with its nearest.
    groups: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["photograph"], []).append(row)
    return [(group[:BESIDE], len(group[BESIDE:])) for group in list(groups.values())[:shown]]
