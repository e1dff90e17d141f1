# `make train` installs and trains on real images; `make test` installs and tests. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: help train test test-all check format bench lock golden clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1 \t/' | expand -t 20

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"{sys.executable} is Python {sys.version.split()[0]}; 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

train: $(INSTALLED)  ## install, then train the default model on 1,797 real handwritten digits
	$(BIN)/mlvlab train --config configs/digits.yaml

test: $(INSTALLED)  ## install, then run the tests
	$(BIN)/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist worksteal

test-all: $(INSTALLED)  ## the tests and the slow ones
	$(BIN)/python -m pytest -q -m "" --numprocesses auto --maxprocesses 4 --dist worksteal

check: $(INSTALLED)  ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)  ## apply the formatter and the safe lint fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## measure, and write benchmarks/results/ and README's table
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/table.py --write
	$(BIN)/python benchmarks/plot.py

golden: $(INSTALLED)  ## write the golden files of the shipped configurations anew
	$(BIN)/python tests/golden/refresh.py

lock: $(INSTALLED)  ## resolve requirements.lock anew, for all supported Pythons
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--extra dev --extra track --extra sweep --extra opencv --extra serve \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --output-file requirements.lock pyproject.toml

clean:  ## remove what was installed and what was trained
	rm -rf $(VENV) experiments build dist *.egg-info
