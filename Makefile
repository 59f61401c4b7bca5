# make demo: the whole method in seven minutes. make check test: what CI runs.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: install demo check test fast perf clean

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/pip install --quiet --no-deps bfcl-eval==2026.3.23  # data for tests; what it depends on would be several GB
	touch $@

demo: install
	$(BIN)/toolrefine train recipes/demo.toml

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest tests/test_layers.py

# Two processes of one thread each: two of two threads wait for each other.
test: install
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

fast: install
	$(BIN)/pytest -n 2 -m 'not e2e and not slow'

# make perf PERF='--only waves' measures one group of docs/performance.md
perf: install
	$(BIN)/python -m perf $(PERF)

clean:
	rm -rf .venv runs build
