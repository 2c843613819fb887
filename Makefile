PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
QUIET = --quiet --disable-pip-version-check

.PHONY: demo test lint docs clean

# The main job: SeeNet's attention on a photograph, and the table that shows Caffe's numbers.
demo: $(VENV)/ready
	$(BIN)/seenet demo --out out/demo

# What takes minutes or gigabytes is apart:  .venv/bin/pytest -m slow
test: $(VENV)/ready lint
	$(BIN)/pytest -n 2 --dist worksteal

# The API reference, from the docstrings, in out/docs.
API = port port.net port.layer port.pycaffe port.attention.attend port.attention.maps port.models.seenet \
	port.models.crelu port.models.deeplab prototxt prototxt.read prototxt.plan prototxt.layers.declare prototxt.errors \
	weights runtime runtime.net runtime.python_layer reference.pycaffe
docs: $(VENV)/ready
	$(BIN)/pdoc --docformat google --output-directory out/docs $(API)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(QUIET) --upgrade pip
	$(BIN)/pip install $(QUIET) -e ".[test,onnx]" -c constraints.txt --config-settings editable_mode=compat
	$(BIN)/pip install $(QUIET) --no-deps caffe2onnx==2.0.1 onnx2torch==1.5.15
	$(BIN)/pip install $(QUIET) pydensecrf2 -c constraints.txt || echo "no dense CRF: its package needs a C++ compiler"
	touch $@

clean:
	rm -rf $(VENV) out
