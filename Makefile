# Two commands on a machine that has only Python 3.11 to 3.13: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-all lint lock
demo: .venv/installed
	$(BIN)/python experiments/run.py --config=dldl_v2_thin

test: .venv/installed
	$(BIN)/pytest -n auto --maxprocesses=8 -m "not slow"

test-all: test
	$(BIN)/pytest -n auto --maxprocesses=8 -m slow

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# requirements.lock pins every package that was tested together; pyproject.toml holds the lower bounds.
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[test,faces]'
	touch $@

lock:
	$(BIN)/python -m pip freeze --exclude-editable > requirements.lock
