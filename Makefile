# make quickstart: set up .venv (1.2 GB), then train on images that scikit-learn ships. About a minute on 2 CPU cores.
# make test:       set up .venv with the test extra, then run ruff, mypy and the first lane of tests.
# make first-lane: as make test, without ruff and mypy, which are make lint (mypy with 3.11 alone).
# make reliability: run the second lane, the tests of docs/reliability.md and the slow ones, with many kills, damaged
#                  files, bad inputs and configs.
# make reliability-quick: run the second lane with fewer of them, as CI does after the first lane.
# make site:       build the site in build/site, with the shipped model to try in the browser, and check its links. Needs npm.
# make dist:       build the wheel and the source distribution in dist, and check them with twine.
# make golden:     store what PyTorch computes in tests/golden, for Pythons without it. Needs Python 3.11.
# make lock:       update the locks to the newest versions that pyproject.toml allows: with PYTHON=python3.13 its own
#                  lock, and with python3.11 all others.
# make audit:      ask the Python package index for known vulnerabilities of every version in all locks.
#
# With PYTHON=python3.13, any target takes that Python. If .venv is of another version, the environment is .venv-3.13.
# VENV=folder names another, and LOCK=/dev/null ONNX_LOCK=/dev/null takes the newest versions.
#
# .venv gets the versions in requirements.lock, or, from Python 3.12, in requirements-3.13.lock. .venv-onnx, in which the
# tests export to ONNX, gets those in requirements-onnx.lock, because the converter holds back orbax-checkpoint. .venv-ray
# has Ray, in the versions in requirements-ray.lock, and .venv-aot the compilers for GPUs and TPUs, in those in
# requirements-aot.lock. In .venv, JAX would look for their devices.
# .venv-site has the site's tools, without this package's dependencies, in the versions in requirements-site.lock. What npm
# installs, the runtime of the browser's page and the driver of its test, is in the versions in jaxresnet/web and
# tests/browser.

PYTHON ?= $(firstword $(wildcard .venv/bin/python) python3)
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
# A version that is not that of .venv gets an environment of its own.
VENV ?= $(if $(wildcard .venv/bin/python),$(if $(wildcard .venv/bin/python$(VERSION)),.venv,.venv-$(VERSION)),.venv)
BIN := $(VENV)/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
OLDEST_LOCK := requirements.lock
NEWEST_LOCK := requirements-3.13.lock
LOCK := $(if $(filter 3.11,$(VERSION)),$(OLDEST_LOCK),$(NEWEST_LOCK))
ONNX_LOCK := requirements-onnx.lock
RAY_LOCK := requirements-ray.lock
AOT_LOCK := requirements-aot.lock
SITE_LOCK := requirements-site.lock
# Pages and reference; ruff formats the signatures. zensical 0.1 was not tried: its part with the theme could not be had.
SITE_TOOLS := 'zensical>=0.0.73,<0.1' 'mkdocstrings[python]>=1.0,<2' 'ruff>=0.12,<0.18'
# One process per core, at most four, because each holds JAX and PyTorch. Tests of one file stay in one process, because
# they share costly fixtures. Files run in the order that tests/conftest.py sets.
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
	$(if $(UNTIL),--until=$(UNTIL))

# Create a temporary environment for one command, $$venv, and delete it afterwards.
WITH_VENV = set -e; venv=$$(mktemp -d); trap 'rm -rf "$$venv"' EXIT; $(PYTHON) -m venv "$$venv"

# Install the newest versions of an extra, or of what $(1) names, and write them to a lock. The comments of the lock stay.
define WRITE_LOCK
$(WITH_VENV); \
"$$venv/bin/python" $(PIP_INSTALL) $(1); \
sed '/^#/!d' $(2) > "$$venv/lock"; \
"$$venv/bin/python" -m pip freeze --all --exclude-editable --exclude pip > "$$venv/frozen"; \
sed 's/+.*//' "$$venv/frozen" | LC_ALL=C sort -f -t= -k1,1 >> "$$venv/lock"; \
cp "$$venv/lock" $(2)
endef

.PHONY: quickstart test lint first-lane reliability reliability-quick site dist golden lock audit clean

quickstart: $(VENV)/installed
	$(BIN)/jaxresnet train --config=configs/quickstart.py --workdir=runs/quickstart
	@echo "next: source $(BIN)/activate"
	@echo "      jaxresnet predict --workdir=runs/quickstart --grid=wrong.png   # draws its mistakes"
	@echo "      jaxresnet --help                                               # lists all commands"

test: lint first-lane

# Annotations of JAX and NumPy differ between versions, so mypy reads those of one alone.
lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(if $(filter 3.11,$(VERSION)),$(BIN)/mypy)

first-lane: $(VENV)/installed-test .venv-onnx/installed
	$(PYTEST) -m 'not reliability'

reliability: $(VENV)/installed-test .venv-onnx/installed .venv-ray/installed .venv-aot/installed tests/browser/node_modules
	$(PYTEST) -m reliability --thorough

reliability-quick: $(VENV)/installed-test .venv-onnx/installed .venv-ray/installed .venv-aot/installed tests/browser/node_modules
	$(PYTEST) -m reliability

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxresnet needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/installed: $(VENV)/bin/python pyproject.toml $(LOCK)
	@echo "installing jaxresnet and its dependencies, 1.2 GB, into $(VENV): a few minutes ..."
	$(BIN)/python $(PIP_INSTALL) --constraint $(LOCK) -e .
	@touch $@

$(VENV)/installed-test: $(VENV)/bin/python pyproject.toml $(LOCK)
	$(BIN)/python $(PIP_INSTALL) --constraint $(LOCK) -e '.[test]'
	@touch $@ $(VENV)/installed

.venv-onnx/installed: pyproject.toml $(ONNX_LOCK)
	test -x .venv-onnx/bin/python || $(PYTHON) -m venv .venv-onnx || { rm -rf .venv-onnx; exit 1; }
	.venv-onnx/bin/python $(PIP_INSTALL) --constraint $(ONNX_LOCK) -e '.[onnx]'
	@touch $@

.venv-ray/installed: pyproject.toml $(RAY_LOCK)
	test -x .venv-ray/bin/python || $(PYTHON) -m venv .venv-ray || { rm -rf .venv-ray; exit 1; }
	.venv-ray/bin/python $(PIP_INSTALL) --constraint $(RAY_LOCK) -e '.[ray]'
	@touch $@

.venv-aot/installed: pyproject.toml $(AOT_LOCK)
	test -x .venv-aot/bin/python || $(PYTHON) -m venv .venv-aot || { rm -rf .venv-aot; exit 1; }
	.venv-aot/bin/python $(PIP_INSTALL) --constraint $(AOT_LOCK) -e '.[aot]'
	@touch $@

.venv-site/installed: $(SITE_LOCK)
	test -x .venv-site/bin/python || $(PYTHON) -m venv .venv-site || { rm -rf .venv-site; exit 1; }
	.venv-site/bin/python $(PIP_INSTALL) --requirement $(SITE_LOCK)
	@touch $@

tests/browser/node_modules: tests/browser/package-lock.json
	npm ci --ignore-scripts --prefix tests/browser
	@touch $@

build/try: .venv-onnx/installed $(wildcard jaxresnet/web/*.* pretrained/cifar10/*)
	rm -rf $@
	.venv-onnx/bin/python -m jaxresnet export --format=web --out=$@

build/report: .venv-onnx/installed results/small.jsonl $(wildcard jaxresnet/report/*.* configs/*.py)
	.venv-onnx/bin/python -m jaxresnet report --workdir=results --out=$@
	@touch $@

site: .venv-site/installed build/try build/report
	.venv-site/bin/python -m scripts.site

dist:
	rm -rf dist
	$(WITH_VENV); \
	"$$venv/bin/python" $(PIP_INSTALL) 'build>=1.3,<2' 'twine>=6.2,<8'; \
	"$$venv/bin/python" -m build --outdir dist; \
	"$$venv/bin/python" -m twine check --strict dist/*

golden: $(VENV)/installed-test
	rm -f tests/golden/*.npz
	STORE_GOLDEN=1 $(BIN)/python -m pytest --thorough $$(grep -rl 'from_torch(' tests --include='test_*.py')

ifeq ($(VERSION),3.13)
lock:
	$(call WRITE_LOCK,-e '.[test]',$(NEWEST_LOCK))
else
lock:
	@[ $(VERSION) = 3.11 ] || { echo "there is no lock for Python $(VERSION): make lock PYTHON=python3.11, or 3.13"; exit 1; }
	$(call WRITE_LOCK,-e '.[test]',$(OLDEST_LOCK))
	$(call WRITE_LOCK,-e '.[onnx]',$(ONNX_LOCK))
	$(call WRITE_LOCK,-e '.[ray]',$(RAY_LOCK))
	$(call WRITE_LOCK,-e '.[aot]',$(AOT_LOCK))
	$(call WRITE_LOCK,$(SITE_TOOLS),$(SITE_LOCK))
endif

audit:
	$(WITH_VENV); \
	"$$venv/bin/python" $(PIP_INSTALL) 'pip-audit>=2.10,<3'; \
	"$$venv/bin/pip-audit" --requirement $(OLDEST_LOCK) --requirement $(NEWEST_LOCK) --requirement $(ONNX_LOCK) --requirement $(RAY_LOCK) --requirement $(AOT_LOCK) --requirement $(SITE_LOCK) --no-deps --disable-pip --strict

clean:
	rm -rf $(VENV) .venv .venv-* build dist tests/browser/node_modules
