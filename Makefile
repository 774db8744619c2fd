# Every target does the set-up that it needs: nothing has to be typed before `make demo` or `make test`.
# Another Python than python3: make PYTHON=python3.12 test

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := src tests benchmarks examples docs

.PHONY: install demo test test-all check bench docs clean

install: $(STAMP)

$(VENV)/pyvenv.cfg:
	@command -v $(PYTHON) >/dev/null || { echo "Hansa needs Python 3.11 or newer, and there is no $(PYTHON); write: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Hansa needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Write: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install python3-venv" >&2; exit 1; }

$(STAMP): pyproject.toml | $(VENV)/pyvenv.cfg
	@echo "installing Hansa into $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/hansa demo

# Passive: XGBoost's threads sleep at their barriers. Spinning, they take the cores from the processes under test.
test test-all: export OMP_WAIT_POLICY := PASSIVE

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_OPTIONS)

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

check: $(STAMP)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "the site is in site/: open site/index.html"

clean:
	rm -rf build dist site report.html .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find src tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +
