import subprocess
import sys

import worlds

HEAVY = ("torch", "numba", "numpy", "torchvision", "diffusers", "timm", "matplotlib", "PIL")


def test_public_names_are_sorted_and_importable():
    assert list(worlds.__all__) == sorted(worlds.__all__)
    for name in worlds.__all__:
        assert getattr(worlds, name).__name__ == name
    assert set(worlds.__all__) <= set(dir(worlds))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(worlds, "DreamLoader")


def test_import_worlds_imports_nothing_heavy():
    code = f"import sys, worlds; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
