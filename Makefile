# make train    installs into .venv once, then trains CONFIG on the embedded demo data
# make test     installs into .venv once, then runs the tests
# make parity   installs PyTorch besides and compares the models with it
# make lint     ruff and pyright
# make clean    removes .venv, runs and caches of this folder
.PHONY: train test parity lint install install-dev clean
.DEFAULT_GOAL := train

CONFIG ?= configs/demo.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))

# The first of these that starts and is a version we run on.
IS_SUPPORTED := import sys, venv; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))
PYTHON ?= $(firstword $(foreach p,python3 python3.12 python3.13 python3.11,\
	$(shell $(p) -c '$(IS_SUPPORTED)' >/dev/null 2>&1 && echo $(p))))
REQUIREMENTS := $(if $(shell nvidia-smi >/dev/null 2>&1 && echo yes),requirements-cuda.txt,requirements.txt)

train: install
	.venv/bin/python -m trashseg_jax.main --config=$(CONFIG) --workdir=$(WORKDIR)

test: install-dev
	.venv/bin/python -m pytest

parity: install-dev
	.venv/bin/python -m pip install -q -r requirements-parity.txt
	.venv/bin/python -m pytest tests/test_torch_parity.py

lint: install-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/pyright --pythonpath .venv/bin/python

install: .venv/installed
install-dev: .venv/installed-dev

# The stamps are written last: an interrupted installation is done again.
.venv/installed: requirements.txt requirements-cuda.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 is needed; pass PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install -q -r $(REQUIREMENTS)
	.venv/bin/python -m pip install -q --no-deps -e .
	touch $@

.venv/installed-dev: .venv/installed requirements-dev.txt requirements-onnx.txt requirements-tune.txt
	.venv/bin/python -m pip install -q -r requirements-dev.txt
	touch $@

clean:
	rm -rf .venv runs build *.egg-info .pytest_cache .ruff_cache .hypothesis
