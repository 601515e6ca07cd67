# genai: `make demo` trains and samples a first model, `make test` runs the tests; nothing else is needed first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# The version that the tests and figures were made with; any torch>=2.9 works.
TORCH ?= torch==2.13.0
RUN ?= runs/gan/demo
export GENAI_TEST_DATA ?= $(wildcard $(abspath ../shared/data))

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint bench clean

help:  ## Print this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

install: $(VENV)/.installed  ## Make .venv and install genai into it, with the tested torch

$(VENV)/.installed: pyproject.toml Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: genai needs Python >= 3.11, $(PYTHON) is older - type make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: install  ## Train a GAN on real pictures of clothes (3 minutes), sample from it, say where the pictures are
	$(BIN)/genai train gan --resume run.dir=$(RUN)
	$(BIN)/genai sample $(RUN) -n 100 --seed 1 --out $(RUN)/samples/demo
	@echo "Ten kinds of clothes, one in each row: $(RUN)/samples/demo/grid.png"

test: lint  ## Lint, check types and run the tests (under 10 minutes on two cores)
	$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: lint  ## The same with the slow tests
	$(BIN)/python -m pytest -n 2

lint: install  ## Lint and check types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install  ## Measure speed side by side with what a user would pick instead
	$(BIN)/python scripts/bench/all.py

clean:  ## Remove the environment and caches; runs stay
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache src/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
