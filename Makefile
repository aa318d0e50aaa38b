# `make demo` needs mtlcli alone; `make test` and the rest need the tools for tests and style too. All install into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install demo test test-all lint types format docs clean

help:
	@echo "make demo    train, evaluate and use a small model on made-up text"
	@echo "make test    run the tests;  make test-all: the slow ones too"
	@echo "make lint    ruff;  make types: mypy;  make docs: the generated pages;  make clean: remove $(VENV) and runs/demo"

install: $(VENV)/.installed-tools

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; use make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@echo "installing PyTorch and mtlcli into $(VENV): up to a few minutes, once"
	$(BIN)/pip install torch==2.13.0
	$(BIN)/pip install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-tools: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e '.[test,dev]'
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/mtl train --config examples/demo.yaml --output runs/demo --overwrite
	$(BIN)/mtl eval runs/demo
	$(BIN)/mtl predict runs/demo --task sst examples/sentences.txt

test: install
	$(BIN)/python -m pytest

test-all: install
	$(BIN)/python -m pytest -m 'slow or not slow'

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install
	$(BIN)/python docs/generate.py

clean:
	rm -rf $(VENV) runs/demo
