# Each target first makes .venv, if there is none or pyproject.toml or constraints.txt changed since.
# Choose the Python with `make PYTHON=/path/to/python3.12 test`, the number of test workers with JOBS=4.

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
JOBS ?= 2
GPU_PYTHON ?= $(if $(wildcard $(PY)),$(PY),python3)
GPU_OPTIONS ?=
ARCHITECTURES ?= sm_90

.PHONY: help demo test test-all lint types bench gpu gpu-binaries clean compiler

help:
	@echo "make demo      compile a layer, run it and check it; train a small language model"
	@echo "make test      the tests that every change must pass (about ten minutes on two cores)"
	@echo "make test-all  all tests"
	@echo "make lint      ruff: style and layout"
	@echo "make types     mypy"
	@echo "make bench     the benchmarks; results go to benchmarks/results"
	@echo "make gpu       on a GPU: verify, tune, measure; goes on where it ended; results go to benchmarks/results"
	@echo "make gpu-binaries  compile for that beforehand, without a GPU (ARCHITECTURES='sm_90 sm_100')"
	@echo "make clean     remove what the above made, but not .venv"

demo: $(READY) compiler
	@$(PY) examples/demo.py

test: $(READY) compiler
	@$(PY) -m pytest -q -n $(JOBS) -m "not slow"

test-all: $(READY) compiler
	@$(PY) -m pytest -q -n $(JOBS)

lint: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

types: $(READY)
	@$(PY) -m mypy

bench: $(READY) compiler
	@$(PY) -m benchmarks

# These run in the Python that has PyTorch for the GPU: .venv if there is one, else python3, else GPU_PYTHON=...
gpu:
	@$(GPU_PYTHON) -m benchmarks.gpu $(GPU_OPTIONS)

gpu-binaries:
	@$(GPU_PYTHON) -m benchmarks.gpu.binaries $(ARCHITECTURES)

clean:
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

$(READY): pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" .ci/make-venv $(VENV)
	@touch $@

compiler:
	@.ci/need-compiler
