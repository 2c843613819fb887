PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo test lint clean

# The main job: SeeNet's attention on a photograph, and the table that shows Caffe's numbers.
demo: $(VENV)/ready
	$(BIN)/seenet demo --out out/demo

# What takes minutes or gigabytes is apart:  .venv/bin/pytest -m slow
test: $(VENV)/ready lint
	$(BIN)/pytest -n 2 --dist worksteal

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is due: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check -e ".[test,lmdb]" -c constraints.txt --config-settings editable_mode=compat
	touch $@

clean:
	rm -rf $(VENV) out
