.DEFAULT_GOAL := help
PYTHON ?= python

.PHONY: help setup test lint types bench golden clean

help:  ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## install tilewright in place, with what tests and checks need
	$(PYTHON) -m pip install -e '.[test,dev]'

test:  ## run all tests
	$(PYTHON) -m pytest

lint:  ## check style
	$(PYTHON) -m ruff check .

types:  ## check types
	$(PYTHON) -m mypy

bench:  ## measure the speed of engines, planner, sweep and models of kernels on this computer
	$(PYTHON) -c 'from analysis.cli import main; main()' bench

golden:  ## rewrite the expected outputs of the tests; read the diff before you commit it
	$(PYTHON) -m pytest --update-golden

clean:  ## remove what builds and checks leave behind
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
