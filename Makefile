# What users and CI call. Every verb makes the environment first where it is missing.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests run side by side, a process for each core; each takes a module at a time, with the module's servers and models.
TEST_WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses=$(TEST_WORKERS) --maxprocesses=8 --dist=loadscope

.DEFAULT_GOAL := help
.PHONY: help setup study test test-slow test-gpu check format bench bench-gpu clean

help:
	@echo "make study      train, attack and chart the embedded digits, tracked in MLflow (about 5 minutes on 2 cores)"
	@echo "make test       all tests that need no GPU and no network"
	@echo "make test-slow  the tests that take minutes"
	@echo "make check      linters, types, import rules; never edits"
	@echo "make bench      attack libraries side by side (hours; BENCH=--quick: minutes), training beside its floor (benchmarks/README.md)"
	@echo "make test-gpu   the tests that need a CUDA device (GPU_PYTHON=python3: without an environment of its own)"
	@echo "make bench-gpu  operators, attack steps and peers on a CUDA device (GPU_PYTHON as above)"
	@echo "make setup      only make the environment ($(VENV))"

setup: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "robustlab needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) --version); try make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

study: $(READY)
	PATH="$(CURDIR)/$(BIN):$$PATH" mlflow run . --env-manager=local --experiment-name robustlab

test: $(READY)
	$(PYTEST) -m 'not slow and not gpu'

test-slow: $(READY)
	$(PYTEST) -m 'slow and not gpu'

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=.:kernels $(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_dependencies.py
	$(BIN)/python -m tests.audit

bench: $(VENV)/.bench-ready
	PYTHONPATH=.:kernels OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.attacks $(BENCH)
	PYTHONPATH=.:kernels $(BIN)/python -m benchmarks.training $(BENCH_TRAINING)

# The last two ask for packages that do not build any more or are years old; what they need is in the extra.
$(VENV)/.bench-ready: $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps adv-lib torchattacks
	@touch $@

# A GPU machine may have torch, triton and pytest, and no way to install more: GPU_PYTHON names its interpreter then.
ifdef GPU_PYTHON
GPU_READY :=
else
GPU_PYTHON := $(BIN)/python
GPU_READY := $(READY)
endif

test-gpu: $(GPU_READY)
	$(GPU_PYTHON) -m pytest -o addopts="-ra --strict-markers --import-mode=importlib" -m gpu tests/kernels tests/gpu

bench-gpu: $(GPU_READY)
	PYTHONPATH=.:kernels $(GPU_PYTHON) -m benchmarks.on_gpu $(BENCH)

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
