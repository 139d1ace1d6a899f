# Two commands for a newcomer: `make demo` and `make test`. Everything lives in .venv; delete it to start again.
# TORCH chooses the PyTorch build: a requirement, a wheel file, or options for pip, for example
#   make demo TORCH="torch --index-url https://download.pytorch.org/whl/cpu"     (small CPU build)
PYTHON ?= python3
TORCH ?= torch
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow install install-dev lint clean

demo: $(VENV)/.installed
	$(BIN)/kdistill demo --resume

test: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: install-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make demo PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install -q -c constraints.txt $(TORCH)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[serve,hospital]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	touch $@

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

clean:
	rm -rf $(VENV) runs
