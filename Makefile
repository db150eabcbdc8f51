# `make sweep` and `make test` need Python 3.11 or newer, make and access to a Python package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SPEC ?= sweeps/quickstart.yaml

# Tests and sweeps start many processes. Where this is set, each would compile the package's source again.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: sweep test check pytest soak docs audit clean

sweep: $(VENV)/.run
	$(BIN)/adapad sweep $(SPEC)

test: check pytest

pytest: $(VENV)/.test
	$(BIN)/python -m pytest -n 3 --dist loadgroup --no-loadscope-reorder -m "not soak"

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

soak: $(VENV)/.test
	$(BIN)/python -m pytest -m soak

$(VENV)/.run: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e .
	touch $@

$(VENV)/.test: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[test]"
	touch $(VENV)/.run $@

# The site of docs/, README.md and the docstrings, in build/site.
docs: $(VENV)/.run
	$(BIN)/python -m pip install --quiet --no-compile -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

# Checks the installed packages for known vulnerabilities; needs the network.
audit: $(VENV)/.run
	$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

clean:
	rm -rf $(VENV) build *.egg-info
