# Each target first makes .venv, if there is none or pyproject.toml or constraints.txt changed since.
# Choose the Python with `make PYTHON=/path/to/python3.12 test`, the number of test workers with JOBS=4.

VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.installed
JOBS ?= 2

.PHONY: help demo test test-all lint types bench clean compiler

help:
	@echo "make demo      compile a layer, run it and check it; train a small language model"
	@echo "make test      the tests that every change must pass (under ten minutes on two cores)"
	@echo "make test-all  all tests"
	@echo "make lint      ruff: style and layout"
	@echo "make types     mypy"
	@echo "make bench     the benchmarks; results go to benchmarks/results"
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

clean:
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

$(READY): pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" .ci/make-venv $(VENV)
	@touch $@

compiler:
	@.ci/need-compiler
