"""The audit as one HTML page: self-contained, with its pictures inside, for light and dark screens.

    html = make_page(report, Pictures(folder, shards, photographs))

Everything on it comes from the report (cifar5m/auditing/report.py); pictures come from the shards.
"""

import base64
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cifar5m.auditing import charts
from cifar5m.auditing.report import NEAR
from worlds.data.images import TarImages
from worlds.data.splits import Split
from worlds.formats.layout import Shard
from worlds.formats.shards import encode_png

SHOWN = 24  # pictures of a kind

_STYLE = """
:root { color-scheme: light dark; --ink: #18181b; --faint: #5b5b66; --paper: #fff; --card: #f4f4f5;
  --line: #d4d4d8; --blue: #3b6ea5; --red: #be123c; --shade: 59, 110, 165; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --faint: #a1a1aa; --paper: #18181b;
  --card: #27272a; --line: #3f3f46; --blue: #7fb0e6; --red: #fb7185; --shade: 127, 176, 230; } }
body { margin: 0 auto; max-width: 1080px; padding: 24px; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0; font-size: 28px; } h2 { margin: 40px 0 8px; font-size: 21px; }
p { max-width: 75ch; margin: 8px 0; } .faint { color: var(--faint); }
table { border-collapse: collapse; } .wide { overflow-x: auto; }
th, td { padding: 4px 14px 4px 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--line); }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.matrix td, .matrix th { padding: 4px 8px; border: 0; font-size: 14px; }
.pairs { display: flex; flex-wrap: wrap; gap: 12px; }
figure { margin: 0; padding: 10px; background: var(--card); border-radius: 6px;
  border-left: 4px solid transparent; }
figure.flagged { border-left-color: var(--red); }
figure img { width: 96px; height: 96px; image-rendering: pixelated; margin-right: 4px; }
figcaption { font-size: 13px; line-height: 1.35; } figcaption b { color: var(--red); }
.bar { height: 12px; margin-top: 6px; min-width: 1px; background: var(--blue); }
svg { max-width: 100%; height: auto; } svg text { fill: var(--faint); font-size: 12px; }
"""

# What each figure of the summary is called, how it is written, and what it says.
_FIGURES: dict[str, tuple[str, str, str]] = {
    "images": ("Images", ",d", ""),
    "duplicates": ("Exact duplicates", ",d", "images whose pixels equal an earlier image's"),
    "copies_of_train": ("Copies of train photographs", ",d", "equal in every pixel"),
    "copies_of_test": ("Copies of test photographs", ",d", "equal in every pixel"),
    "near_train_pixel": ("Near a train photograph, in pixels", ",d", "flagged, see below"),
    "near_test_pixel": ("Near a test photograph, in pixels", ",d", "flagged, see below"),
    "near_train_feature": ("Near a train photograph, in features", ",d", "of the labeller"),
    "near_test_feature": ("Near a test photograph, in features", ",d", "of the labeller"),
    "mean_confidence": ("Mean confidence of the labels", ".1%", "largest probability"),
    "share_below_half": ("Labels below 50 % confidence", ".1%", ""),
    "smallest_class_share": ("Smallest class", ".1%", "share of the images"),
    "largest_class_share": ("Largest class", ".1%", "share of the images"),
    "labeler_agreement": ("Agreement of labellers", ".1%", "the least, if there are several"),
    "labeler_cifar10_accuracy": ("Labeller's accuracy on {cifar10} test", ".2%", ""),
    "labeler_cifar10_expected_calibration_error": (
        "Labeller's calibration error there",
        ".2%",
        "mean gap of confidence and accuracy in 15 bins",
    ),
    "suspected_label_errors": ("Suspected label errors", ",d", "by confident learning"),
    "frechet_labeler": (
        "Frechet distance to {cifar10} train",
        ".2f",
        "in the labeller's features; no FID, compares with the next line",
    ),
    "frechet_labeler_of_cifar10_test": ("The same of {cifar10} test", ".2f", ""),
    "fid": ("FID to {cifar10} train", ".2f", "Inception features, torch-fidelity"),
    "kid": ("KID to {cifar10} train", ".5f", "Inception features, torch-fidelity"),
    "fd_dinov2": ("FD-DINOv2 to {cifar10} train", ".2f", "ViT-L/14 features by timm"),
    "classification_accuracy_score": ("Classification accuracy score", ".2%", ""),
}


class Pictures:
    """Pixels of generated images and of photographs, as data URIs."""

    def __init__(self, folder: Path, shards: list[Shard], photographs: dict[str, Split]) -> None:
        self._starts = np.array([shard.start for shard in shards])
        self._offsets = np.cumsum([0, *(len(shard) for shard in shards)])
        self._images = TarImages([folder / s.tar for s in shards], [len(s) for s in shards])
        self._photographs = photographs

    def generated(self, index: int) -> str:
        """The dataset's image of a global index, which must be in one of the shards."""
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        row = self._offsets[place] + index - self._starts[place]
        out = np.empty((1, *self._images.shape[1:]), np.uint8)
        self._images.gather(np.array([row]), out)
        return _data_uri(out[0])

    def photograph(self, split: str, index: int) -> str:
        return _data_uri(self._photographs[split].gather([index])[0])


def _data_uri(image: np.ndarray) -> str:
    return "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()


@dataclass(frozen=True)
class _Page:
    report: dict[str, Any]
    names: list[str]
    pictures: Pictures

    @property
    def cifar10(self) -> str:
        return str(self.report["cifar10"]["name"])


def make_page(report: dict[str, Any], names: list[str], pictures: Pictures) -> str:
    """The page of a report; `names` are the classes'."""
    page = _Page(report, names, pictures)
    name = report["dataset"]["name"]
    parts: list[Callable[[_Page], Iterator[str]]] = [
        _head,
        _summary,
        _nearest,
        _duplicates,
        _classes,
        _labels,
        _how,
    ]
    body = "\n".join(line for part in parts for line in part(page))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n'  # else a browser asks for favicon.ico, and complains
        f"<title>Audit of {escape(name)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _head(page: _Page) -> Iterator[str]:
    about = page.report["dataset"]
    yield f"<h1>Audit of {escape(about['name'])}</h1>"
    facts = [f"{page.report['summary']['images']:,} images"]
    if about["shards_audited"] < about["shards_planned"]:
        facts.append(f"{about['shards_audited']:,} of {about['shards_planned']:,} shards so far")
    facts += [str(about[key]) for key in ("recipe", "distribution") if about.get(key)]
    facts.append(f"against {page.cifar10}")
    facts.append(f"fingerprint {about['fingerprint'][:12]}")
    yield f'<p class="faint">{escape(" · ".join(facts))}</p>'
    yield "<p>Images are flagged here, none is dropped.</p>"


def _summary(page: _Page) -> Iterator[str]:
    yield "<h2>Summary</h2><table>"
    for key, value in page.report["summary"].items():
        label, form, note = _FIGURES.get(key, (key, "", ""))
        if value is None:
            shown, note = "not measured", page.report["not_measured"][key]
        else:
            shown = format(value, form)
        label = label.format(cifar10=page.cifar10)
        yield (
            f'<tr><th scope="row">{escape(label)}</th><td class="number">{shown}</td>'
            f'<td class="faint">{escape(note)}</td></tr>'
        )
    yield "</table>"


def _nearest(page: _Page) -> Iterator[str]:
    found = page.report["details"]["neighbours"]
    spaces = {
        "pixel": ("pixels", "root mean square difference in grey levels"),
        "feature": ("the labeller's features", "Euclidean distance at unit length"),
    }
    for space, (what, unit) in spaces.items():
        if f"{space}_train" not in found:
            continue
        yield f"<h2>Nearest photographs, in {what}</h2>"
        yield (
            f"<p>The distance is the {unit}. The ratio is the nearest photograph's distance to the "
            f"mean distance of the 50 nearest; below {NEAR} the image is flagged (red).</p>"
        )
        yield _nearest_table(page, space)
        series = {
            "this set": found[f"{space}_train"]["ratio_histogram"],
            f"{page.cifar10} test": found["baseline"][space]["ratio_histogram"],
        }
        yield charts.lines(series, f"ratio to the nearest of {page.cifar10} train")
        for split, shown in (("train", SHOWN), ("test", SHOWN // 2)):
            yield f"<h3>Closest to {escape(page.cifar10)} {split}</h3>"
            closest = found[f"{space}_{split}"]["closest"][:shown]
            yield _figures(_pair(page, split, row) for row in closest)


def _nearest_table(page: _Page, space: str) -> str:
    found = page.report["details"]["neighbours"]
    rows = {
        "this set to train": found[f"{space}_train"],
        "this set to test": found[f"{space}_test"],
        f"{page.cifar10} test to train": found["baseline"][space],
    }
    cells = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(
            f'<td class="number">{row[kind][quantile]:.3g}</td>'
            for kind in ("distance_quantiles", "ratio_quantiles")
            for quantile in ("0", "0.01", "0.5")
        )
        + f'<td class="number">{row["near_share"]:.2%}</td></tr>'
        for name, row in rows.items()
    )
    heads = "".join(
        f'<th class="number">{kind}, {name}</th>'
        for kind in ("distance", "ratio")
        for name in ("least", "1 %", "median")
    )
    heads += '<th class="number">flagged</th>'
    return f'<div class="wide"><table><tr><th></th>{heads}</tr>{cells}</table></div>'


def _figures(figures: Iterable[str]) -> str:
    return f'<div class="pairs">{"".join(figures)}</div>'


def _figure(sources: list[tuple[str, str]], caption: str, flagged: bool) -> str:
    images = "".join(f'<img src="{uri}" alt="{escape(alt)}">' for uri, alt in sources)
    kind = ' class="flagged"' if flagged else ""
    return f"<figure{kind}>{images}<figcaption>{caption}</figcaption></figure>"


def _pair(page: _Page, split: str, row: dict[str, Any]) -> str:
    flagged = row["ratio"] < NEAR
    ratio = f"ratio {row['ratio']:.3f}"
    caption = (
        f"image {row['index']:,}: {escape(page.names[row['label']])}<br>"
        f"{split} {row['photograph']:,}: {escape(page.names[row['photograph_label']])}<br>"
        f"{f'<b>{ratio}</b>' if flagged else ratio}, distance {row['distance']:.3g}"
    )
    sources = [
        (page.pictures.generated(row["index"]), f"image {row['index']}"),
        (page.pictures.photograph(split, row["photograph"]), f"{split} {row['photograph']}"),
    ]
    return _figure(sources, caption, flagged)


def _duplicates(page: _Page) -> Iterator[str]:
    pairs = page.report["details"]["duplicates"]
    yield "<h2>Exact duplicates</h2>"
    if not pairs:
        yield "<p>No two images of the set are equal.</p>"
        return
    yield "<p>Equal pixels at different indices. A generated set should have none.</p>"
    yield _figures(
        _figure(
            [(page.pictures.generated(pair[key]), f"image {pair[key]}") for key in pair],
            f"<b>image {pair['index']:,}</b><br>equal to {pair['equal_to']:,}",
            True,
        )
        for pair in pairs[:SHOWN]
    )


def _classes(page: _Page) -> Iterator[str]:
    classes = page.report["details"]["classes"]
    yield "<h2>Classes and confidence</h2>"
    yield charts.class_bars(classes["table"])
    if classes["confidence_histogram"]:
        yield charts.columns(classes["confidence_histogram"], "confidence of the label", "images")


def _labels(page: _Page) -> Iterator[str]:
    labels = page.report["details"]["labels"]
    if labels["calibration"]:
        found = labels["calibration"]
        yield f"<h2>Calibration of the labeller on {escape(page.cifar10)} test</h2>"
        yield (
            f"<p>Accuracy {found['accuracy']:.2%}, mean confidence {found['mean_confidence']:.2%} "
            f"on {found['images']:,} photographs. On the line confidence is accuracy; above it "
            "the labeller is more often right than it says.</p>"
        )
        yield charts.reliability(found["bins"])
    for name, found in labels["agreement"].items():
        yield f"<h2>Agreement with labelling {escape(name)}</h2>"
        yield f"<p>{found['agreement']:.2%} of the labels are equal. Rows: the set's own.</p>"
        yield charts.matrix(found["matrix"], page.names)
    if labels["suspected"]:
        yield "<h2>Suspected label errors</h2>"
        held = escape(labels["suspected"]["held_against"])
        yield f"<p>The labels held against {held}, the most doubtful first.</p>"
        worst = labels["suspected"]["worst"][:SHOWN]
        yield _figures(_suspect(page, row) for row in worst) if worst else "<p>None.</p>"


def _suspect(page: _Page, row: dict[str, Any]) -> str:
    caption = (
        f"image {row['index']:,}<br>labelled {escape(page.names[row['label']])} "
        f"({row['probability_of_label']:.0%})<br>rather {escape(page.names[row['suggested']])} "
        f"({row['probability_of_suggested']:.0%})"
    )
    uri = page.pictures.generated(row["index"])
    return _figure([(uri, f"image {row['index']}")], caption, False)


def _how(page: _Page) -> Iterator[str]:
    yield "<h2>How it was measured</h2>"
    labeler = page.report["labeler"]
    who = f"{labeler['source']} (sha256 {labeler['sha256'][:12]})" if labeler else "none"
    yield (
        f"<p>Distances in pixels are exact. Features and calibration: labeller {escape(who)}. "
        "The ratio is that of Carlini et al. 2023, section 5. A small one means that an "
        "image has one photograph much closer than any other; metrics like these miss copies that "
        "are shifted, mirrored or recoloured. All figures are in audit.json, each image's own "
        "in images/*.npz.</p>"
    )
