# make generate   install, then make 1,000 labeled images with the bundled networks (no network, no GPU)
# make test       install, then run the test suite; test-slow and test-gpu run the marked tests
# make gpu-report   the GPU tests and benchmarks on one page, in parts of ten minutes; needs a GPU
# make fuzz       20,000 mutated inputs to every reader, counted; minutes
# make lint       ruff and mypy, as CI runs them
# make docs       the documentation site into build/site
# make bench      speed of generating, packing, loading and training, beside the peers that are installed
PYTHON ?= python3
VENV ?= .venv
OUT ?= out/tiny
N ?= 1000

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALLED := $(VENV)/.installed
INSTALLED_TEST := $(VENV)/.installed-test

.PHONY: generate test test-slow test-gpu gpu-report fuzz lint format docs bench clean

generate: $(INSTALLED)
	$(BIN)/cifar5m-generate --recipe tiny-conditional --n $(N) --out $(OUT)
	$(BIN)/cifar5m-verify $(OUT)
	$(BIN)/cifar5m-preview $(OUT)
	$(BIN)/python examples/two_worlds.py $(OUT) --n 40 --batch-size 8 --steps 100 --lr 0.003 --out $(OUT).runs --picture $(OUT)/preview/two-worlds.png
	@echo "Look at $(OUT)/preview: the images by class, their labels, and two-worlds.png. Next: docs/own.md"

test: $(INSTALLED_TEST)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(INSTALLED_TEST)
	$(BIN)/python -m pytest -m slow

test-gpu: $(INSTALLED_TEST)
	$(BIN)/python -m pytest -m gpu

gpu-report: $(INSTALLED_TEST)
	$(BIN)/python tools/gpu_report.py

fuzz: $(INSTALLED_TEST)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz.run

lint: $(INSTALLED_TEST)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED_TEST)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(INSTALLED)
	$(PIP) install -q -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

bench: $(INSTALLED)
	$(BIN)/python benchmarks/generation.py
	$(BIN)/python benchmarks/packing.py
	$(BIN)/python benchmarks/loaders.py
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/audit.py

# One torch first: where a CPU build is at hand it is kept, and nothing asks for another.
$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, set PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV): some minutes"
	$(PIP) install -q -c constraints.txt -e .
	touch $@

$(INSTALLED_TEST): pyproject.toml constraints.txt $(INSTALLED) | $(VENV)/bin/python
	$(PIP) install -q -c constraints.txt -e ".[test]"
	touch $@

clean:
	rm -rf $(VENV) out
