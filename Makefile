# make study · make test · make lab. Each first builds .venv where it is missing or older than the lock file or pyproject.toml.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
AXE := axe-core@4.11.0

.PHONY: study test test-browser lab check lock clean-venv
.DEFAULT_GOAL := study

study: .venv/installed  ## the default study on the embedded data; ARGS="--profile full" and the like are passed on
	$(BIN)/python run_all.py $(ARGS)

test: .venv/installed  ## everything but the browser tests
	$(BIN)/python -m pytest -m "not browser" -n auto --dist loadfile --no-loadscope-reorder

test-browser: .venv/installed .venv/$(AXE) .venv/no-news  ## the report in headless Chromium (Debian: apt-get install chromium npm)
	$(BIN)/python -m pytest -m browser

# The rules of accessibility that the pages are checked against. Only that test needs them: it is skipped without.
.venv/$(AXE): .venv/installed
	npm install --prefix .venv/npm --no-save --no-audit --no-fund --ignore-scripts --silent $(AXE) \
		&& touch $@ || echo "axe-core was not installed: the test of accessibility is skipped"

# JupyterLab asks at its first start whether to fetch news.
.venv/no-news: .venv/installed
	$(BIN)/jupyter labextension disable --level=sys_prefix @jupyterlab/apputils-extension:announcements
	touch $@

lab: .venv/installed .venv/no-news  ## JupyterLab in notebooks/
	cd notebooks && ../$(BIN)/python -m jupyterlab

check: .venv/installed  ## style, and that no notebook is committed with outputs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

# A venv that was half made is made anew: the last line marks it as whole.
.venv/installed: requirements.lock pyproject.toml tools/check_machine.py
	$(PYTHON) tools/check_machine.py
	rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation --no-index -e .
	touch $@

lock:  ## pins the newest versions that pyproject.toml allows, with hashes and without addresses (needs uv)
	uv pip compile pyproject.toml --group test --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
		--no-emit-find-links --no-annotate --no-header --upgrade --output-file requirements.lock

clean-venv:
	rm -rf .venv
