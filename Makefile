# make quickstart: set up .venv (1.2 GB), then train on images that scikit-learn ships. About a minute on 2 CPU cores.
# make test:       set up .venv with the test extra, then run ruff, mypy and the first lane of tests.
# make reliability: run the second lane, the tests of docs/reliability.md and the slow ones, with many kills, damaged
#                  files, bad inputs and configs.
# make reliability-quick: run the second lane with fewer of them, as CI does after the first lane.
# make site:       build the site in build/site, with the shipped model to try in the browser, and check its links. Needs npm.
# make lock:       update requirements.lock to the newest versions that pyproject.toml allows. Needs Python 3.11.
# make audit:      ask the Python package index for known vulnerabilities of every version in requirements.lock.
#
# .venv gets the versions in requirements.lock. .venv-onnx, in which the tests export to ONNX, gets those in
# requirements-onnx.lock, because the converter holds back orbax-checkpoint. .venv-ray has Ray, in
# the versions in requirements-ray.lock, and .venv-aot the compilers for GPUs and TPUs, in those in requirements-aot.lock. In .venv, JAX would look for their devices. .venv-site has the site's tools,
# without this package's dependencies, in the versions in requirements-site.lock. What npm installs, the runtime of the
# browser's page and the driver of its test, is in the versions in jaxresnet/web and tests/browser.

PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
LOCK := requirements.lock
ONNX_LOCK := requirements-onnx.lock
RAY_LOCK := requirements-ray.lock
AOT_LOCK := requirements-aot.lock
SITE_LOCK := requirements-site.lock
# Pages and reference; ruff formats the signatures. zensical 0.1 was not tried: its part with the theme could not be had.
SITE_TOOLS := 'zensical>=0.0.73,<0.1' 'mkdocstrings[python]>=1.0,<2' 'ruff>=0.12,<0.18'
# One process per core, at most four, because each holds JAX and PyTorch. Tests of one file stay in one process, because
# they share costly fixtures. Files run in the order that tests/conftest.py sets.
PYTEST := $(BIN)/python -m pytest --numprocesses=logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder

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

.PHONY: quickstart test reliability reliability-quick site lock audit clean

quickstart: .venv/installed
	$(BIN)/jaxresnet train --config=configs/quickstart.py --workdir=runs/quickstart
	@echo "next: source .venv/bin/activate"
	@echo "      jaxresnet predict --workdir=runs/quickstart --grid=wrong.png   # draws its mistakes"
	@echo "      jaxresnet --help                                               # lists all commands"

test: .venv/installed-test .venv-onnx/installed
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(PYTEST) -m 'not reliability'

reliability: .venv/installed-test .venv-onnx/installed .venv-ray/installed .venv-aot/installed tests/browser/node_modules
	$(PYTEST) -m reliability --thorough

reliability-quick: .venv/installed-test .venv-onnx/installed .venv-ray/installed .venv-aot/installed tests/browser/node_modules
	$(PYTEST) -m reliability

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jaxresnet needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }

.venv/installed: .venv/bin/python pyproject.toml $(LOCK)
	@echo "installing jaxresnet and its dependencies, 1.2 GB, into .venv: a few minutes ..."
	$(BIN)/python $(PIP_INSTALL) --constraint $(LOCK) -e .
	@touch $@

.venv/installed-test: .venv/bin/python pyproject.toml $(LOCK)
	$(BIN)/python $(PIP_INSTALL) --constraint $(LOCK) -e '.[test]'
	@touch $@ .venv/installed

.venv-onnx/installed: pyproject.toml $(ONNX_LOCK)
	$(PYTHON) -m venv .venv-onnx || { rm -rf .venv-onnx; exit 1; }
	.venv-onnx/bin/python $(PIP_INSTALL) --constraint $(ONNX_LOCK) -e '.[onnx]'
	@touch $@

.venv-ray/installed: pyproject.toml $(RAY_LOCK)
	$(PYTHON) -m venv .venv-ray || { rm -rf .venv-ray; exit 1; }
	.venv-ray/bin/python $(PIP_INSTALL) --constraint $(RAY_LOCK) -e '.[ray]'
	@touch $@

.venv-aot/installed: pyproject.toml $(AOT_LOCK)
	$(PYTHON) -m venv .venv-aot || { rm -rf .venv-aot; exit 1; }
	.venv-aot/bin/python $(PIP_INSTALL) --constraint $(AOT_LOCK) -e '.[aot]'
	@touch $@

.venv-site/installed: $(SITE_LOCK)
	$(PYTHON) -m venv .venv-site || { rm -rf .venv-site; exit 1; }
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

lock:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "the lock must suit the oldest Python: make lock PYTHON=python3.11")'
	$(call WRITE_LOCK,-e '.[test]',$(LOCK))
	$(call WRITE_LOCK,-e '.[onnx]',$(ONNX_LOCK))
	$(call WRITE_LOCK,-e '.[ray]',$(RAY_LOCK))
	$(call WRITE_LOCK,-e '.[aot]',$(AOT_LOCK))
	$(call WRITE_LOCK,$(SITE_TOOLS),$(SITE_LOCK))

audit:
	$(WITH_VENV); \
	"$$venv/bin/python" $(PIP_INSTALL) 'pip-audit>=2.10,<3'; \
	"$$venv/bin/pip-audit" --requirement $(LOCK) --requirement $(ONNX_LOCK) --requirement $(RAY_LOCK) --requirement $(AOT_LOCK) --requirement $(SITE_LOCK) --no-deps --disable-pip --strict

clean:
	rm -rf .venv .venv-onnx .venv-ray .venv-aot .venv-site build
