"""Tables that were counted when the package was made: what `worlds-models` and
`worlds-experiment list` print, without building a network. tools/make_tables.py writes it.
"""

import json
from pathlib import Path
from typing import Any, Final

TABLES: Final = Path(__file__).with_name("counted.json")


def counted(table: str) -> Any:
    """Return the rows of "models", or text and totals of "experiments" by scale."""
    return json.loads(TABLES.read_text())[table]
