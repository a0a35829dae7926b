# make quickstart: set up .venv, then train on images that a dependency ships. About a minute on 2 CPU cores.
# make test:       set up .venv with the test extra, then run the whole suite.
# make reliability: run the tests of docs/reliability.md with many more kills, damaged files, bad inputs and configs.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test reliability clean

quickstart: .venv/installed
	$(BIN)/python -m jaxresnet.main --config=configs/quickstart.py --workdir=runs/quickstart

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/python -m pytest

reliability: .venv/installed-test
	$(BIN)/python -m pytest -m reliability --thorough

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxresnet needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@ .venv/installed

clean:
	rm -rf .venv
