"""The tool draws a panel for each parametrization and optimizer, and prints the exponents."""

import json
import sys

from PIL import Image


def test_it_draws_and_prints_exponents(tmp_path, monkeypatch, capsys):
    import coordinate_check

    out = tmp_path / "check.png"
    argv = ["coordinate_check", "--arch", "mlp_1x", "--widths", "4", "8", "--batch", "4"]
    argv += ["--optimizers", "sgd", "adam", "--trials", "1", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", argv)
    coordinate_check.main()
    found = json.loads(capsys.readouterr().out)["exponents"]
    assert set(found) == {f"{k}, {o}" for k in ("standard", "muP") for o in ("sgd", "adam")}
    assert all(set(layers) == {"1", "3"} for layers in found.values())
    with Image.open(out) as picture:
        assert picture.width > picture.height > 500
