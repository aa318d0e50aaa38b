# Two commands on a fresh machine: `make demo` and `make test`. Both install into .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help install demo test test-all lint types format clean

help:
	@echo "make demo    train, evaluate and use a small model on made-up text (about a minute once installed)"
	@echo "make test    run the tests;  make test-all: the slow ones too"
	@echo "make lint    ruff;  make types: mypy;  make clean: remove $(VENV) and runs/demo"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is older than 3.11; use make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q torch==2.13.0
	$(BIN)/pip install -q -c constraints.txt -e '.[test,dev]'
	@touch $@

demo: install
	$(BIN)/mtl train --task sst --task quora --task sts --balancer pcgrad --sample --output runs/demo --overwrite
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

clean:
	rm -rf $(VENV) runs/demo
