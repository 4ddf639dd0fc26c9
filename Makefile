# make demo and make test are all that a newcomer needs; `make help` lists the rest.

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2

BIN := $(VENV)/bin
# By content, so that a clone or a checkout, which renews every file's time, installs nothing anew.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)
BROWSER := $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
QUICK := not slow$(if $(BROWSER),, and not browser)
SLOW := slow$(if $(BROWSER),, and not browser)

define PYTHON_CHECK
import importlib.util, sys
if not (3, 11) <= sys.version_info < (3, 14):
    sys.exit("katuna needs Python 3.11, 3.12 or 3.13, and %s is %d.%d: name another, as in `make test PYTHON=python3.12`"
             % (sys.executable, sys.version_info[0], sys.version_info[1]))
missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
if missing:
    sys.exit("%s has no module %s: install it (Debian, Ubuntu: apt-get install python3-venv) or name another Python, "
             "as in `make test PYTHON=python3.12`" % (sys.executable, missing[0]))
endef
export PYTHON_CHECK

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow check cluster-up format venv constraints clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

demo: $(STAMP) ## run the search of katib/digits-tpe.yaml: 12 trainings, about a minute
	$(BIN)/katuna tune katib/digits-tpe.yaml

test: $(STAMP) ## the tests, but for those that take minutes
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "$(QUICK)"

test-slow: $(STAMP) ## the tests that take minutes
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "$(SLOW)"

check: $(STAMP) ## all that CI checks: format, lint, types, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	@$(MAKE) test

cluster-up: $(STAMP) ## a real Kubernetes control plane with the Training Operator, until Ctrl-C (Linux, root, Go)
	$(BIN)/python tests/cluster/plane.py .cluster

format: $(STAMP) ## write files as `make check` wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

venv: $(STAMP) ## only install, into .venv

constraints: $(STAMP) ## pin what is installed in .venv (constraints.txt says how it is used)
	$(BIN)/pip check
	@{ sed -n '/^#/p' constraints.txt; \
	  { $(BIN)/pip freeze --all --exclude-editable --exclude pip | grep '=='; grep '^[^#]' constraints.txt; } | LC_ALL=C sort -t= -k1,1 -f -s -u; \
	} > constraints.new
	@mv constraints.new constraints.txt
	@rm -f $(VENV)/.installed-* && touch $(VENV)/.installed-`cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1`

clean: ## remove .venv and what tools keep; runs/ stays
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamp comes last: a folder without one was never finished and is built anew; one with an older stamp is brought up to date.
$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "there is no $(PYTHON) here: install Python 3.11, 3.12 or 3.13, or name yours: make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c "$$PYTHON_CHECK"
	@ls $(VENV)/.installed-* >/dev/null 2>&1 || { \
	  echo "Installing katuna into $(VENV), once. PyTorch alone is a download of about 3 GB: this takes minutes."; \
	  rm -rf $(VENV) && $(PYTHON) -m venv $(VENV); }
	@rm -f $(VENV)/.installed-*
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$([ -t 1 ] && echo --progress-bar=on) \
	  -c constraints.txt setuptools -e '.[cluster,dev]'
	@touch $@
