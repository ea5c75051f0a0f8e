# One word per job. Needs make, git and Python 3.11 or newer with venv; everything else goes into .venv.
#
#   make demo         the training run: one learner, many actors, a live table
#   make test         all tests, except the fault tests that take minutes
#   make test-fault   all fault tests, those that take minutes too; installs their Debian packages where it may
#   make test-planted plants bugs in a copy of the tree: each must turn the test red that is named for it
#   make check        ruff, mypy --strict, the layer rule
#   make cogment-sdk  the real Cogment SDK in an environment of its own, for the tests that use it (make test does it)
#   make bench        every benchmark, one JSON line per result; installs what it measures against
#   make lock         requirements.lock again, with the newest versions
#   make clean        removes .venv, .venv-cogment, caches and build output; never an archive
#
# PYTHON=/path/to/python3.12 picks the interpreter, VENV=... another place for the environment.

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := $(VENV)/.peers
COGMENT := $(VENV)-cogment
VERSION_OF := -c 'import platform; print(platform.python_version())'

.PHONY: demo test test-fault test-planted fault-tools cogment-sdk check bench lock clean install
.DEFAULT_GOAL := test

# The stamp holds the version of the interpreter, so that naming another one makes the environment anew.
ifneq ($(PYTHON),)
ifneq ($(shell $(PYTHON) $(VERSION_OF) 2>/dev/null),$(shell cat $(STAMP) 2>/dev/null))
.PHONY: $(STAMP)
endif
endif

install: $(STAMP)

# Picks the newest interpreter that is new enough and has venv; else says what is missing and what to do about it.
define find_python
python=; old=; bare=; \
for candidate in $${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3}; do \
  found=$$("$$candidate" $(VERSION_OF) 2>/dev/null) || continue; \
  "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { old="$$candidate is Python $$found"; continue; }; \
  "$$candidate" -c 'import ensurepip, venv' 2>/dev/null || { bare="$${bare:-$$candidate}"; continue; }; \
  python=$$candidate; break; \
done; \
if [ -z "$$python" ]; then \
  if [ -n "$$bare" ]; then \
    echo "$$bare comes without venv: apt-get install $$(basename $$bare)-venv, or name another: make PYTHON=/path/to/python3.11"; \
  elif [ -n "$$old" ]; then \
    echo "$$old, but 3.11 or newer is needed: install one and name it: make PYTHON=/path/to/python3.11"; \
  elif [ -n "$(PYTHON)" ]; then \
    echo "PYTHON=$(PYTHON) does not run: name an interpreter that does, Python 3.11 or newer"; \
  else \
    echo "no python3 was found: apt-get install python3 python3-venv (3.11 or newer), or name one: make PYTHON=/path/to/python3.11"; \
  fi >&2; \
  exit 1; \
fi
endef

export PYTHON

$(STAMP): pyproject.toml requirements.lock
	@$(find_python); \
	version=$$("$$python" $(VERSION_OF)); \
	if [ -x $(BIN)/python ] && { [ -z "$$PYTHON" ] || [ "$$($(BIN)/python $(VERSION_OF))" = "$$version" ]; } \
	    && $(BIN)/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  echo "updating $(VENV) (Python $$($(BIN)/python $(VERSION_OF)))"; \
	else \
	  echo "making $(VENV) with $$python (Python $$version)"; \
	  "$$python" -m venv --clear $(VENV) || exit 1; \
	fi
	@echo "installing requirements.lock and this project into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python $(VERSION_OF) > $(STAMP)

demo: $(STAMP)
	@$(BIN)/broadcaster demo

# A Cogment SDK as it is published: its metadata asks for packages that are too old to stand beside ours, so it lives apart.
# Without it tests are skipped, nothing else.
cogment-sdk: $(STAMP)
	@if [ -f $(COGMENT)/.installed ] && cmp -s tests/cogment/requirements.txt $(COGMENT)/.installed \
	    && [ "$$($(COGMENT)/bin/python $(VERSION_OF) 2>/dev/null)" = "$$(cat $(STAMP))" ]; then exit 0; fi; \
	echo "making $(COGMENT) with the Cogment SDK, for the tests that use it"; \
	$(BIN)/python -m venv --clear $(COGMENT) \
	  && $(COGMENT)/bin/python -m pip install --quiet --disable-pip-version-check --retries 1 --timeout 20 \
	    --no-deps --ignore-requires-python -r tests/cogment/requirements.txt \
	  && cp tests/cogment/requirements.txt $(COGMENT)/.installed \
	  || { rm -rf $(COGMENT); echo "the Cogment SDK could not be installed: tests that use it will be skipped" >&2; }

# Written down once: where PYTHONDONTWRITEBYTECODE is set, each of the many processes that tests start would compile all of it again.
COMPILE := $(BIN)/python -m compileall -q broadcaster clients tests

test: $(STAMP) cogment-sdk
	@$(COMPILE)
	@$(BIN)/python -m pytest -n 3 --dist loadfile

# What the fault tests need beside Python, by Debian package; what is missing after this is counted as skipped.
FAULT_TOOLS := btrfs-progs e2fsprogs iproute2 libfaketime nftables strace xfsprogs

fault-tools:
	@missing=$$(for package in $(FAULT_TOOLS); do \
	  dpkg-query -W -f='$${Status}\n' $$package 2>/dev/null | grep -q 'ok installed' || echo $$package; done); \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing what the fault tests need:" $$missing; \
	  apt-get install -qq -y --no-install-recommends $$missing >/dev/null \
	    || { apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing >/dev/null; } \
	    || echo "could not be installed, so tests will be skipped:" $$missing >&2; \
	else \
	  echo "not installed, so tests will be skipped:" $$missing "(as root: apt-get install" $$missing")" >&2; \
	fi

test-fault: $(STAMP) fault-tools
	@$(COMPILE)
	@$(BIN)/python -m pytest -m "" tests/fault

test-planted: $(STAMP) fault-tools
	@$(BIN)/python -m tests.fault.planted

check: $(STAMP)
	@echo "ruff: rules"
	@$(BIN)/ruff check .
	@echo "ruff: format"
	@$(BIN)/ruff format --check .
	@echo "mypy: strict, both packages"
	@$(BIN)/mypy
	@echo "layers"
	@$(BIN)/python -m pytest -q tests/test_layers.py

# torch: the build for processors is enough; pip takes the default one unless one is there already.
$(PEERS): pyproject.toml $(STAMP)
	@echo "installing the peers of the benchmarks into $(VENV)"
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e '.[bench]'; then touch $(PEERS); \
	else echo "not all of them could be installed: the table will name those that are missing" >&2; fi

bench: $(STAMP) $(PEERS) cogment-sdk
	@command -v redis-server >/dev/null || echo "redis-server is missing, a peer: apt-get install redis-server" >&2
	@$(BIN)/python -m benchmarks.run

lock: $(STAMP)
	@echo "resolving for Python 3.11 and newer into requirements.lock"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --extra dev --no-emit-package model-broadcaster \
	    --custom-compile-command "make lock" pyproject.toml --output-file requirements.lock

clean:
	@echo "removing $(VENV), $(COGMENT), caches and build output"
	@rm -rf $(VENV) $(COGMENT) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov
	@find broadcaster clients tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
