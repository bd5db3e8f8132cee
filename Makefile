# Each target sets up what it needs: a virtual environment in .venv, made once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: test demo check format bench clean

$(BIN)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $@

test: $(BIN)/.ready
	$(BIN)/python -m pytest -n 2

demo: $(BIN)/.ready
	$(BIN)/python examples/demo.py

check: $(BIN)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(BIN)/.ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(BIN)/.ready
	$(BIN)/python benchmarks/cost_of_a_look.py

clean:
	rm -rf $(VENV) build dist *.egg-info demo_logs
