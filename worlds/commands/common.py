"""Parts that the commands of worlds share."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

AUGMENTS: Final = ("none", "flip", "crop+flip", "crop+flip+cutout", "cutout")
TOLERANCE: Final = 0.03  # largest |Real - Ideal| up to T0 that counts as close, of no experiment


def print_report(
    runs: Sequence[Path], out: Path, only: Sequence[str] = (), tolerance: float = TOLERANCE
) -> int:
    """Write the report of run directories, print each verdict and a JSON line."""
    from worlds.report.write import write_report

    def tell(done: int, total: int, name: str) -> None:
        print(f"{done + 1} of {total}: {name}", file=sys.stderr)

    written = write_report(list(runs), out, tolerance=tolerance, only=list(only), on_figure=tell)
    # A line an experiment, what fails of it, then the notes.
    states = [entry.verdict.status for entry in written.entries]
    missing = sum(len(entry.missing) for entry in written.entries)
    for entry in written.entries:
        print(f"{entry.verdict.status:<6} {entry.experiment.name}: {entry.sentence}")
        for text, state in entry.verdict.lines:
            if state == "fails":
                print(f"       fails: {text}")
        for text in entry.duplicates:
            print(f"duplicate: {text}")
    for problem in written.problems:
        print(f"note: {problem}")
    # For programs.
    summary = {
        "page": str(written.page),
        "figures": sum(bool(entry.svgs) for entry in written.entries),
        **{state: states.count(state) for state in ("holds", "fails", "open")},
        "missing": missing,
    }
    print(json.dumps(summary))
    return 0
