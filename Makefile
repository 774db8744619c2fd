# Every target does the set-up that it needs: nothing has to be typed before `make demo` or `make test`.
# Another Python than python3: make PYTHON=python3.12 test
# Packages are those of constraints.txt, by hash. Others within the bounds of pyproject.toml, such as on a newer Python: make test LOCK=

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
TOOLS := .venv-tools
SOURCES := src tests benchmarks examples docs

LOCK ?= constraints.txt
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check
HASHED := $(PIP_INSTALL) --require-hashes --requirement
THIS := $(PIP_INSTALL) --no-deps --no-build-isolation --editable .

.PHONY: install demo demo-consortium test test-all test-lowest check bench bench-scale parity chaos fuzz docs lock sbom clean

install: $(STAMP)

$(VENV)/pyvenv.cfg:
	@command -v $(PYTHON) >/dev/null || { echo "Hansa needs Python 3.11 or newer, and there is no $(PYTHON); write: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Hansa needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Write: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make a virtual environment; on Debian and Ubuntu install python3-venv" >&2; exit 1; }

$(STAMP): pyproject.toml $(LOCK) | $(VENV)/pyvenv.cfg
	@echo "installing Hansa into $(VENV) (once)"
	@$(BIN)/python $(if $(LOCK),$(HASHED) $(LOCK),$(PIP_INSTALL) --editable '.[dev]')
	@$(BIN)/python $(THIS)
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/hansa demo

# Four hosts with services of their own, of which nothing is shared but public files; one is killed on the way.
demo-consortium: $(STAMP)
	$(BIN)/python tests/service/consortium_demo.py

# Passive: XGBoost's threads sleep at their barriers. Spinning, they take the cores from the processes under test.
test test-all parity: export OMP_WAIT_POLICY := PASSIVE

# Tests and the demo start many processes: each would compile all modules anew where bytecode may not be kept.
demo demo-consortium test test-all: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)
	$(BIN)/python -m pytest -m "not slow" $(PYTEST_OPTIONS)

test-all: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_OPTIONS)

# All tests that need no checking tools, with the lowest versions that pyproject.toml allows (of Python too: PYTHON=python3.11).
test-lowest: export OMP_WAIT_POLICY := PASSIVE
test-lowest: $(LOWEST)/.installed
	$(LOWEST)/bin/python -m pytest -m "not slow" --ignore tests/test_docs.py $(PYTEST_OPTIONS)

$(LOWEST)/.installed: pyproject.toml constraints-lowest.txt
	@echo "installing Hansa with its lowest versions into $(LOWEST) (once)"
	@$(PYTHON) -m venv --clear $(LOWEST)
	@$(LOWEST)/bin/python $(HASHED) constraints-lowest.txt
	@$(LOWEST)/bin/python $(THIS)
	@touch $@

check: $(STAMP)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_architecture.py

bench: $(STAMP)
	$(BIN)/python -m benchmarks

# One party's many rows: in memory, by column, codes on disk under a cap, on Ray workers, beside XGBoost's external memory; growth and a
# projection: make bench-scale SCALE_OPTIONS="--rows 1000000 3000000 10000000"
bench-scale: $(STAMP)
	$(BIN)/python -m benchmarks.bench_scale $(SCALE_OPTIONS)

# Alone, together and pooled XGBoost on every real table: make parity PARITY_OPTIONS="--splits 3 --modes federated"
parity: $(STAMP)
	$(BIN)/python -m benchmarks.bench_parity $(PARITY_OPTIONS)

# Real processes killed, stopped, cut off and out of disk, as a seed draws: make chaos CHAOS_OPTIONS="--schedules 20 --mode secure-aggregation"
chaos: $(STAMP)
	$(BIN)/python tests/cli/chaos.py $(CHAOS_OPTIONS)

# Every decoder of what comes from others, under atheris: make fuzz FUZZ_OPTIONS="--seconds 60 --only plans"
fuzz: $(STAMP)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python $(PIP_INSTALL) --editable '.[fuzz]'
	$(BIN)/python tests/fuzz.py $(FUZZ_OPTIONS)

docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "the site is in site/: open site/index.html"

# The locks, made anew from pyproject.toml: for every Python from 3.11 on and every system; and the lowest versions, on Python 3.11.
lock: $(TOOLS)/.installed
	printf 'uv\ncyclonedx-bom\n' | $(COMPILE) --universal - --output-file constraints-tools.txt
	$(COMPILE) --universal --extra dev pyproject.toml --output-file constraints.txt
	$(COMPILE) --resolution lowest-direct --extra test pyproject.toml --output-file constraints-lowest.txt

COMPILE := $(TOOLS)/bin/uv pip compile --quiet --upgrade --python-version 3.11 --generate-hashes --no-annotate --no-header

# A bill of materials (CycloneDX JSON): what .venv holds, what of it Hansa needs to run, and from which package.
sbom: $(STAMP) $(TOOLS)/.installed
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-file sbom.json $(BIN)/python
	@echo "the bill of materials is sbom.json"

$(TOOLS)/.installed: constraints-tools.txt | $(VENV)/pyvenv.cfg
	@$(PYTHON) -m venv --clear $(TOOLS)
	@$(TOOLS)/bin/python $(HASHED) constraints-tools.txt
	@touch $@

clean:
	rm -rf build dist site report.html sbom.json .mypy_cache .ruff_cache .pytest_cache .hypothesis src/*.egg-info
	find src tests benchmarks examples docs -name __pycache__ -type d -prune -exec rm -rf {} +
