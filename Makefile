# Each target is short enough to read. `make run` and `make test` need Python 3.11 with venv, make and git, nothing else.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON ?= python3.11
WORKSPACE ?= workspace/churn
BIN := .venv/bin
READY := .venv/.ready
PYTEST := $(BIN)/pytest -n 2 --dist loadgroup

.PHONY: run test coverage explore test-all sims bench soak lab docs check lock readme export sync lint types notebooks clean

run: $(READY)  ## the main job on the churn example
	@test -f $(WORKSPACE)/charter.toml || $(BIN)/mlops-nb init $(WORKSPACE) --example churn
	@$(BIN)/mlops-nb run $(WORKSPACE)

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

test: sync lint types notebooks  ## at most 10 minutes on two cores
	$(PYTEST) -m "not slow"

coverage: $(READY)  ## the tests of `make test` once more, with the lines they reach; tracing costs them half their time again
	$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered --cov-fail-under=85

explore: $(READY)  ## the property tests on examples nobody has seen
	HYPOTHESIS_PROFILE=explore $(PYTEST) -m hypothesis

test-all: $(READY)  ## the long tests: kill matrix, other tables, wheel, browser, faults
	$(PYTEST) -m slow --durations=20

export: $(READY)
	$(BIN)/nbdev-export

sync: $(READY)  ## mlops_nb/ is what nbs/ exports, and README.md is what nbs/index.ipynb says
	@sums() { find mlops_nb -name '*.py' | LC_ALL=C sort | xargs sha256sum; }; \
	before=$$(sums); $(BIN)/nbdev-export; \
	test "$$before" = "$$(sums)" || { echo "mlops_nb/ was not what nbs/ exports; it has been exported again: commit it"; exit 1; }

lint: $(READY)
	$(BIN)/ruff check nbs mlops_nb reports tests
	$(BIN)/ruff format --check nbs reports tests

types: $(READY)
	$(BIN)/mypy mlops_nb

notebooks: $(READY)  ## every notebook runs from top to bottom
	$(BIN)/nbdev-test --n-workers 2

check: test  ## what CI asks of a commit, and that the tree is clean afterwards
	git diff --exit-code

sims: $(READY)  ## the statistical claims at full size; tables under nbs/tables
	$(BIN)/python -m tests.sims
	$(BIN)/python -m tests.diagnosis_faults

bench: $(READY)  ## the server against its limits, a naive server and its peers in one run, drift against evidently; tables and plot under nbs/tables
	$(BIN)/python -m tests.bench
	$(BIN)/python -m tests.bench_drift

soak: $(READY)  ## ten minutes at 70 % of capacity with a bad client in the room, then every fault with its guards out; tables under nbs/tables
	$(BIN)/python -m tests.soak
	$(BIN)/python -m tests.serving_faults --out nbs/tables/serving_faults.json

lab: $(READY)  ## JupyterLab on the workspace
	@test -f $(WORKSPACE)/charter.toml || $(BIN)/mlops-nb init $(WORKSPACE) --example churn
	$(BIN)/jupyter lab --notebook-dir $(WORKSPACE)

docs: $(READY)  ## the notebooks as HTML pages under _docs
	$(BIN)/jupyter nbconvert --to html --output-dir _docs nbs/*.ipynb

readme: $(READY)
	$(BIN)/jupyter nbconvert --to markdown --output-dir . --output README nbs/index.ipynb

lock: $(READY)  ## resolve again; no index address may stand in the file
	$(BIN)/uv pip compile --quiet --upgrade --python-version 3.11 --extra dev --no-emit-index-url --no-emit-find-links --no-annotate --no-header pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv build dist *.egg-info .coverage* .mypy_cache .ruff_cache .pytest_cache _docs
