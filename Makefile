# Everything lives inside this folder: the environment (.venv), downloaded packages and temporary files (.cache).
# `make demo` runs a real search; `make test` runs the tests. Both make the environment first where it is missing.
SHELL := /bin/bash
PYTHON ?= python3
ROOT := $(CURDIR)
BIN := $(ROOT)/.venv/bin
STAMP := .venv/.installed
export UV_CACHE_DIR ?= $(ROOT)/.cache/uv
export HYPOTHESIS_STORAGE_DIRECTORY ?= $(ROOT)/.cache/hypothesis
export MPLCONFIGDIR ?= $(ROOT)/.cache/matplotlib
UV = $(shell command -v uv 2>/dev/null || echo $(ROOT)/.cache/bootstrap/bin/uv)

.PHONY: demo test test-faults bench-overhead bench-backbones bench-search bench-statistics bench-leak bench-rows bench-driver pictures lint lock env clean

env: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "medtune needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Name another with: make PYTHON=python3.12 ..."; exit 2; }
	@command -v uv >/dev/null || test -x .cache/bootstrap/bin/uv || { $(PYTHON) -m venv .cache/bootstrap && .cache/bootstrap/bin/pip install --quiet --no-cache-dir --disable-pip-version-check uv==0.13.9; }
	@start=$$(date +%s); \
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv && \
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock && \
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . && \
	touch $(STAMP) && echo "environment made in $$(( $$(date +%s) - start )) s"

# Ray's sockets need a short path, so its temporary files lie in a folder of /tmp that is removed at the end; a token
# made for the occasion keeps it from leaving one in the home folder.
define in_temporary_folder
@folder=$$(mktemp -d /tmp/medtune.XXXXXX) && trap 'rm -rf "$$folder"' EXIT && export RAY_TMPDIR=$$folder TMPDIR=$$folder RAY_AUTH_TOKEN=$$($(BIN)/python -c 'import secrets; print(secrets.token_hex(32))') && $(1)
endef

demo: $(STAMP)
	$(call in_temporary_folder,$(BIN)/medtune demo)

test: $(STAMP)
	$(call in_temporary_folder,$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder)

# Faults forced on the real thing: minutes to an hour.
test-faults: $(STAMP)
	$(call in_temporary_folder,$(BIN)/python -m pytest -m slow -s)

bench-overhead: $(STAMP)
	$(call in_temporary_folder,$(BIN)/python -m benchmarks.overhead)

bench-backbones: $(STAMP)
	$(call in_temporary_folder,$(BIN)/python -m benchmarks.backbones && $(BIN)/python -m benchmarks.backbones --vmamba)

bench-search: $(STAMP)
	$(call in_temporary_folder,$(BIN)/python -m benchmarks.search)

bench-statistics: $(STAMP)
	$(BIN)/python -m benchmarks.statistics

# Reading the largest table there is: CheXpert's 223,414 rows.
bench-rows: $(STAMP)
	$(BIN)/python -m benchmarks.rows

# What trials by the thousand cost the driver.
bench-driver: $(STAMP)
	$(BIN)/python -m benchmarks.driver

# How much an image-level split inflates: make bench-leak SEARCH=search.yaml
bench-leak: $(STAMP)
	$(BIN)/python -m benchmarks.leak $(SEARCH)

# The pictures of docs: augmentation; with a browser, of the report and of MLflow's pages (and of a search in a terminal
# by hand: python -m benchmarks.terminal demo/runs/digits picture.svg).
pictures: $(STAMP)
	$(BIN)/python -m benchmarks.policies
	$(call in_temporary_folder,PICTURES=docs/pictures $(BIN)/python -m pytest -m slow tests/search/test_pages.py)

lint: $(STAMP)
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

# Versions and hashes, without the addresses they were downloaded from.
lock:
	$(UV) pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet -o requirements.lock

clean:
	rm -rf .venv .cache
