# Two commands do all the set-up:
#
#   make koopman_lm   environment, install, then the recipe on embedded data
#   make test         the suite on JAX, PyTorch and TensorFlow
#
# Everything is installed into .venv; nothing else on the machine is touched.

PYTHON ?= python3
VENV ?= .venv
BACKENDS ?= jax torch tensorflow
# Further flags of the recipe and of pytest: make koopman_lm ARGS="--epochs 4"
ARGS ?=
PYTEST_ARGS ?=
# Processes of pytest, each with gigabytes of compiled code.
WORKERS ?= 2

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet -c constraints.txt
SOURCES := $(wildcard *.py */*.py */*/*.py)

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: koopman_lm test lint format tables wheel wheel-test constraints clean
.DELETE_ON_ERROR:

koopman_lm: $(VENV)/.run
	$(BIN)/python recipes/koopman_lm.py $(ARGS)

# Runs every backend even where one fails, and fails in the end.
test: $(VENV)/.test
	@status=0; \
	for backend in $(BACKENDS); do \
		echo "== pytest on $$backend"; \
		KERAS_BACKEND=$$backend $(BIN)/python -m pytest -m "not slow" \
			-n $(WORKERS) --dist loadfile --no-loadscope-reorder \
			$(PYTEST_ARGS) || status=1; \
	done; \
	exit $$status

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p build/typing && ln -sfn ../.. build/typing/orrery
	MYPYPATH=build/typing $(BIN)/mypy --cache-dir build/typing/cache \
		-p orrery.layers -p orrery.losses -p orrery.metrics

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The tables of README.md and docs/ from the CSVs of results/.
tables:
	$(PYTHON) docs/tables.py

wheel: dist/.wheel

# As a stranger: a clean environment, the wheel alone, no checkout in sight.
wheel-test: dist/.wheel
	rm -rf build/wheel-test
	$(PYTHON) -m venv build/wheel-test
	build/wheel-test/bin/python -m pip --disable-pip-version-check install \
		--quiet -c constraints.txt "$$(ls dist/orrery-*.whl)[jax]"
	cd build/wheel-test && KERAS_BACKEND=jax \
		bin/python -I ../../tests/check_wheel.py

# After `make test` in a fresh .venv: what it resolved becomes the constraint.
constraints: $(VENV)/.test $(VENV)/.lint
	{ sed -n '/^#/p' constraints.txt; \
	  $(PIP) freeze --exclude-editable | sed 's/+cpu$$//'; } \
		> constraints.new
	mv constraints.new constraints.txt

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Orrery needs Python 3.11 or newer; $(PYTHON) is" \
		"$$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 ..."; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of packages: a second call installs nothing.
$(VENV)/.run: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e ".[jax,text,plot,science]"
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e ".[jax,torch,tensorflow,text,data,plot,science,forecast,onnx,test]"
	@touch $@

$(VENV)/.lint: $(BIN)/python constraints.txt
	$(INSTALL) ruff mypy
	@touch $@

# From an empty build/: setuptools would pack what an older tree left there.
dist/.wheel: $(BIN)/python pyproject.toml $(SOURCES) $(wildcard saved_models/*/*)
	rm -rf build/lib build/bdist.* dist
	$(PIP) wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build/lib build/bdist.*
	@touch $@
