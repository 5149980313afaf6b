PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= auto

.PHONY: install tools demo test test-lowest test-bounds test-transformers soak lint types pictures clean

install: $(STAMP)

COMPILE := import solvers.precompile, migrations.warm, app.statistics.warm as instance; solvers.precompile.warm(); migrations.warm.warm(); instance.warm()

# Kernels are compiled once, here, rather than in the first minute of the first service.
$(STAMP): pyproject.toml agent/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("moeplace needs Python 3.11 or newer, found %d.%d: run make PYTHON=python3.11 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable ./agent --editable . --group dev
	$(BIN)/python -c '$(COMPILE)'
	touch $(STAMP)

# Programs that tests drive and `make install` does not bring. Without them those tests skip, and fail where CI is
# set. TOOLS are Debian packages.
TOOLS := chromium prometheus systemd

tools: install
	@missing=; for tool in $(TOOLS); do \
		dpkg-query --show --showformat '$${db:Status-Abbrev}' $$tool 2>/dev/null | grep -q '^ii' || missing="$$missing $$tool"; \
	done; \
	if [ -n "$$missing" ]; then \
		apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends $$missing; \
	fi
	$(BIN)/pip install --quiet --disable-pip-version-check --group deploy
	@test -x $(BIN)/helm || $(BIN)/python deploy/kubernetes/fetch_helm.py $(BIN)/helm

demo: install
	$(BIN)/moeplace demo

test: install
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# The lowest versions of the direct dependencies that pyproject.toml declares; `make test` takes the newest. A part
# of the tests, which starts the service, serves every kind of request, keeps it in Redis and solves.
LOWEST := .venv-lowest
LOWEST_TESTS := tests/app/access tests/app/http tests/app/nodes tests/app/placements tests/app/storage tests/app/telemetry \
	tests/app/cli/test_solve.py tests/app/server/test_connections.py tests/app/observability/test_metrics.py tests/app/supervisor/test_serve.py \
	tests/agent/test_serving.py tests/agent/test_client.py

test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet --disable-pip-version-check uv
	$(LOWEST)/bin/uv pip compile --quiet --resolution lowest-direct --output-file $(LOWEST)/lowest.txt pyproject.toml agent/pyproject.toml
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --requirement $(LOWEST)/lowest.txt --group dev
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --no-deps --editable ./agent --editable .
	NUMBA_CACHE_DIR=$(LOWEST)/kernels $(LOWEST)/bin/python -c '$(COMPILE)'
	NUMBA_CACHE_DIR=$(LOWEST)/kernels $(LOWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal $(LOWEST_TESTS)

# Kernels do not look whether an index is in range; compiled anew, these tests do. Six minutes on two cores.
test-bounds: install
	NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(VENV)/bounds $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/solvers tests/migrations

# Not part of `test`: plain torch brings gigabytes of CUDA on most machines. TORCH=torch==... takes another
# version.
TORCH ?= torch==2.13.*
test-transformers: install
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable './agent[transformers]'
	$(BIN)/python -m pytest tests/agent/hooks tests/agent/architectures

# What the service survives, at length: kills, simulated fleets with wrong clocks, fuzzed requests. Two hours on two
# cores; writes benchmarks/results/soak.md. SOAK=... names parts and options.
SOAK ?=
soak: install
	$(BIN)/python -m benchmarks.soak $(SOAK)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo

types: install
	$(BIN)/mypy

# docs/console*.png anew, from a fleet that runs for them.
pictures: install tools
	$(BIN)/python -m docs.pictures.console docs

clean:
	rm -rf $(VENV) $(LOWEST) .mypy_cache .pytest_cache .ruff_cache .hypothesis
