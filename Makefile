# Needs python3.11 (or 3.12) with venv, and make; everything else is installed into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-kafka test test-recipe unit chaos bench clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/installed  ## a simulated ward through the real flow, with a live table
	$(BIN)/tidegate demo ward

demo-kafka: $(VENV)/installed  ## the same through a real Kafka broker, which it starts; needs java and mvn
	$(BIN)/tidegate demo-kafka

test: $(VENV)/installed-dev  ## lint, types, layout rules, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) unit
	$(BIN)/pytest --ignore tests/unit --ignore tests/tidy

$(VENV)/installed-train: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --editable '.[dev,train,genai]'
	touch $@

test-recipe: $(VENV)/installed-train  ## the training recipe at toy size, and a user's own generator; downloads torch
	$(BIN)/pytest tests/recipe tests/unit/test_genai.py

unit: $(VENV)/installed-dev  ## the quick part of the tests
	$(BIN)/pytest -n auto tests/unit tests/tidy

SEEDS ?= 20
FIRST ?= 1
chaos: $(VENV)/installed-dev  ## faults drawn by seeds against real brokers: SEEDS=n FIRST=k; needs java, mvn and mosquitto
	$(BIN)/python -m tests.chaos.harness --seeds $(SEEDS) --first $(FIRST)

bench: $(VENV)/installed
	$(BIN)/tidegate bench windows
	$(BIN)/tidegate bench ward
	$(BIN)/tidegate bench read

clean:
	rm -rf $(VENV) build *.egg-info
