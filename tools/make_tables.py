"""Write worlds/cli/counted.json: what commands print without counting it each time.

python tools/make_tables.py     after a change of an architecture or an experiment, half a minute
"""

import json
import sys
from dataclasses import asdict
from typing import Any

from worlds.cli.counted import TABLES
from worlds.experiments.listing import overview
from worlds.experiments.plan import expand
from worlds.experiments.registry import recipes
from worlds.experiments.scales import SCALES
from worlds.models import architectures, describe


def count() -> dict[str, Any]:
    """Return all rows, as JSON has them; the networks are built without memory."""
    experiments = {
        scale: overview([expand(recipe, scale, None) for recipe in recipes()]) for scale in SCALES
    }
    models = [asdict(describe(architecture)) for architecture in architectures()]
    return json.loads(json.dumps({"models": models, "experiments": experiments}))


def main() -> int:
    TABLES.write_text(json.dumps(count(), indent=1) + "\n")
    print(TABLES)
    return 0


if __name__ == "__main__":
    sys.exit(main())
