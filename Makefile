# make demo | test | lint | bench | docs. Each makes .venv itself; nothing else is needed than Python 3.11+, git and make.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The first of these that is at least 3.11; choose another with `make test PYTHON=python3.13`.
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
    $(p) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(p))))
BIN := .venv/bin
READY := .venv/.ready

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: help
help:  ## This list
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/make \1\t\2/p' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or later is needed: install it, or run 'make PYTHON=/path/to/python3.11 ...'" >&2; exit 1; fi
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	    { echo "$(PYTHON) is not a Python of at least 3.11" >&2; exit 1; }
	@# Debian keeps ensurepip in a package of its own; where it is missing, an installed pip can do its work.
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv --clear .venv 2>/dev/null || \
	    { $(PYTHON) -m venv --clear --without-pip .venv && $(PYTHON) -m pip --python .venv/bin/python install --quiet pip; } || \
	    { rm -rf .venv; echo "$(PYTHON) can't make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --editable '.[dev]' --constraint constraints.txt
	@touch $@

.PHONY: venv
venv: $(READY)  ## Make .venv with everything that development needs

.PHONY: demo
demo: $(READY)  ## Run the demo SaaS; ARGS=--check proves it and exits
	@$(BIN)/python -m demo $(ARGS)

.PHONY: test
test: $(READY)  ## Run the tests; ARGS goes to pytest (ARGS='-x tests/catalog')
	@$(BIN)/python -m pytest $(ARGS)

.PHONY: lint
lint: $(READY)  ## Style, types, floors, sizes, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tools.async_to_sync --check
	$(BIN)/python -m tools.bounds
	$(BIN)/python -m tools.cli_page --check

.PHONY: format
format: $(READY)  ## Rewrite what can be rewritten by machine
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python -m tools.async_to_sync --write

.PHONY: bench
bench: $(READY)  ## Run the benchmarks, or one with NAME=bind
	@for program in $(if $(NAME),benchmarks/$(NAME).py,$(sort $(filter-out benchmarks/_%,$(wildcard benchmarks/*.py)))); do \
	    [ -f "$$program" ] || { echo "there is no $$program" >&2; exit 2; }; \
	    name=$$(basename "$$program" .py); \
	    $(BIN)/python -m "benchmarks.$$name" $(ARGS); \
	done

.PHONY: soak
soak: $(READY)  ## A million operations that go wrong in every way: no foreign row; OPERATIONS=50000 SEED=7
	@TENANTRY_SOAK=$(or $(OPERATIONS),1000000) TENANTRY_SOAK_SEED=$(SEED) $(BIN)/python -m pytest -q -s -p no:logging tests/soak

.PHONY: docs
docs: $(READY)  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

.PHONY: clean
clean:  ## Remove what was made; the next make starts afresh
	rm -rf .venv site build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
