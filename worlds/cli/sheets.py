"""Contact sheets: rows of images with a caption below each, enlarged by whole factors.

draw_sheet([Row("cat", "1,000", [Cell(image, "93%"), ...])], "a title", "a note")
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

INK, FAINT, PAPER = (24, 24, 27), (113, 113, 122), (255, 255, 255)
DOUBT: Final = (190, 18, 60)
_MARGIN, _GAP, _CELL = 24, 6, 96  # pixels; images are enlarged up to _CELL
_CAPTION = 28  # pixels below an image


@dataclass(frozen=True)
class Cell:
    image: np.ndarray  # uint8 (H, W, 3)
    caption: str = ""
    doubtful: bool = False  # its caption is red


@dataclass(frozen=True)
class Row:
    name: str  # at the left; "" in all rows leaves no column for names
    note: str  # below the name
    cells: Sequence[Cell]


def draw_sheet(rows: Sequence[Row], title: str = "", note: str = "") -> "Image":
    """Draw the rows below a title and a note; all images get the size of the smallest."""
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    # Sizes: of an image as shown, of the column of names, of the sheet.
    shapes = [cell.image.shape[:2] for row in rows for cell in row.cells]
    height, width = np.min(shapes, axis=0).tolist()
    factor = max(1, _CELL // max(height, width))
    width, height = factor * width, factor * height
    large, text, small = (ImageFont.load_default(size=size) for size in (26, 18, 14))
    longest = max(text.getlength(row.name) for row in rows)
    left = _MARGIN + (int(longest) + 24 if longest else 0)
    top, step = _MARGIN + (76 if title else 0), height + _CAPTION
    columns = max(len(row.cells) for row in rows)
    right = max(left + columns * (width + _GAP) - _GAP, _MARGIN + int(small.getlength(note)))
    sheet = Image.new("RGB", (right + _MARGIN, top + len(rows) * step + _MARGIN - 12), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_MARGIN, _MARGIN), title, INK, large, anchor="lt")
    draw.text((_MARGIN, _MARGIN + 38), note, FAINT, small, anchor="lt")
    # Rows: names at the left, images with their captions.
    for number, row in enumerate(rows):
        y = top + number * step
        draw.text((_MARGIN, y + height // 2 - 12), row.name, INK, text, anchor="lm")
        draw.text((_MARGIN, y + height // 2 + 12), row.note, FAINT, small, anchor="lm")
        for column, cell in enumerate(row.cells):
            x = left + column * (width + _GAP)
            image = Image.fromarray(cell.image)
            sheet.paste(ImageOps.fit(image, (width, height), Image.Resampling.NEAREST), (x, y))
            place = (x + width // 2, y + height + 11)
            ink = DOUBT if cell.doubtful else FAINT
            draw.text(place, cell.caption, ink, small, anchor="mm")
    return sheet
