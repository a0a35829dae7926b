# make quickstart: set up .venv, then train on images that scikit-learn ships. About a minute on 2 CPU cores.
# make test:       set up .venv with the test extra, then run ruff, mypy and the first lane of tests.
# make reliability: run the second lane, the tests of docs/reliability.md and the slow ones, with many kills, damaged
#                  files, bad inputs and configs.
# make reliability-quick: run the second lane with fewer of them, as CI does after the first lane.
# make lock:       update requirements.lock to the newest versions that pyproject.toml allows. Needs Python 3.11.
# make audit:      ask the Python package index for known vulnerabilities of every version in requirements.lock.
#
# .venv gets the versions in requirements.lock.

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
LOCK := requirements.lock
# One process per core, at most four, because each holds JAX and PyTorch. Tests of one file stay in one process, because
# they share costly fixtures. Files run in the order that tests/conftest.py sets.
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

# Create a temporary environment for one command, $$venv, and delete it afterwards.
WITH_VENV = set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; $(PYTHON) -m venv "$$venv"

.PHONY: quickstart test reliability reliability-quick lock audit clean

quickstart: .venv/installed
	$(BIN)/python -m jaxresnet.main --config=configs/quickstart.py --workdir=runs/quickstart

test: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m 'not reliability'

reliability: .venv/installed-test
	$(PYTEST) -m reliability --thorough

reliability-quick: .venv/installed-test
	$(PYTEST) -m reliability

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxresnet needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed: .venv/bin/python pyproject.toml $(LOCK)
	$(BIN)/python $(PIP_INSTALL) --constraint $(LOCK) -e .
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml $(LOCK)
	$(BIN)/python $(PIP_INSTALL) --constraint $(LOCK) -e '.[test]'
	@touch $@ .venv/installed

lock:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "the lock must suit the oldest Python: make lock PYTHON=python3.11")'
	$(WITH_VENV); \
	"$$venv/bin/python" $(PIP_INSTALL) -e '.[test]'; \
	sed '/^#/!d' $(LOCK) > "$$venv/lock"; \
	"$$venv/bin/python" -m pip freeze --all --exclude-editable --exclude pip > "$$venv/frozen"; \
	sed 's/+.*//' "$$venv/frozen" | LC_ALL=C sort -f -t= -k1,1 >> "$$venv/lock"; \
	cp "$$venv/lock" $(LOCK)

audit:
	$(WITH_VENV); \
	"$$venv/bin/python" $(PIP_INSTALL) 'pip-audit>=2.10,<3'; \
	"$$venv/bin/pip-audit" --requirement $(LOCK) --no-deps --disable-pip --strict

clean:
	rm -rf .venv
