# Everything needs only git, make and Python 3.11 or newer; `make help` lists the targets.
#
#   EXTRA=cuda make demo       also installs JAX for NVIDIA GPUs (EXTRA=tpu: for TPUs)
#   make test ARGS="-k maml"   hands ARGS to pytest (ARGS="-m slow" runs the slow tests)
#   make PYTHON=/path/to/python3.12 demo    builds the environment with that Python
#   make lock UPGRADE=1        moves every pin to the newest release allowed

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
PYTHON ?=
EXTRA ?=
ARGS ?=
WORKERS ?= 2

BIN := $(VENV)/bin
PY := $(BIN)/python

# What the caller's shell has set up for another Python must not reach ours. Without bytecode every process
# compiles all of its imports anew; with PYTHONOPTIMIZE asserts of tests would be left out.
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE PYTHONOPTIMIZE VIRTUAL_ENV
export PIP_DISABLE_PIP_VERSION_CHECK := 1

ifneq ($(filter-out cuda tpu,$(EXTRA)),)
$(error EXTRA=$(EXTRA) is not known; it can be cuda or tpu)
endif
INSTALLED := $(VENV)/.installed$(if $(EXTRA),-$(EXTRA))

CANDIDATES := $(PYTHON) python3.13 python3.12 python3.11 python3 python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# Installs $(1) with uv (seconds), or with pip where uv cannot be had or cannot reach an index
# that only pip is configured for.
PIP_INSTALL := $(PY) -m pip install -qq
install_into = { [ -x $(BIN)/uv ] && $(BIN)/uv pip install --quiet --python $(1)/bin/python $(2); } || \
	{ echo "==> no uv, or it could not do it; trying pip (slower)"; $(1)/bin/python -m pip install -qq $(2); }
install_with_either = $(call install_into,$(VENV),$(1))

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' Makefile

.PHONY: demo
demo: $(INSTALLED) ## set up, train MAML-PPO on point navigation, evaluate it
	@RUN=runs/demo-$$(date +%Y%m%d-%H%M%S); \
	echo "==> training with configs/maml_ppo_point.yaml into $$RUN"; \
	$(BIN)/metarl train configs/maml_ppo_point.yaml --run-dir "$$RUN" && \
	echo "==> evaluating $$RUN" && \
	$(BIN)/metarl evaluate "$$RUN"

PYTEST := $(PY) -m pytest -n $(WORKERS) --dist worksteal -q
APART := worlds docs distributed robots metaworld ray

.PHONY: test
test: $(INSTALLED) ## set up, run the tests (ARGS="..." for pytest)
	@echo "==> running the tests with $(WORKERS) workers"
	@$(PYTEST) $(APART:%=--ignore=tests/%) $(ARGS)

.PHONY: test-worlds test-docs test-distributed
test-worlds: $(INSTALLED) ## run the tests of games, driving and recommendation
test-docs: $(INSTALLED) ## run what README, docs and examples say
test-distributed: $(INSTALLED) ## run the tests of several devices
test-worlds test-docs test-distributed: test-%:
	@echo "==> running the tests of tests/$* with $(WORKERS) workers"
	@$(PYTEST) tests/$* $(ARGS)

# The optional packages have environments of their own: Meta-World asks for a MuJoCo that is not the newest.
.PHONY: test-robots test-metaworld test-ray
test-robots: $(VENV)-robots/.installed ## run the tests of robots, XLand-MiniGrid, Craftax and Weights & Biases
test-metaworld: $(VENV)-metaworld/.installed ## run those of Meta-World, and those of robots with its MuJoCo
test-ray: $(VENV)-ray/.installed ## run the tests of sweeps on a Ray cluster of this machine
test-robots: EXTRA_TESTS := tests/robots tests/envs/test_xland.py tests/envs/test_xland_solvable.py tests/envs/test_craftax.py tests/runs/test_loggers.py
test-metaworld: EXTRA_TESTS := tests/metaworld tests/robots/test_physics.py tests/robots/test_film.py
test-ray: EXTRA_TESTS := tests/ray
test-ray: WORKERS := 0
test-robots test-metaworld test-ray: test-%:
	@echo "==> running $(EXTRA_TESTS) with $(WORKERS) workers"
	@$(VENV)-$*/bin/python -m pytest -n $(WORKERS) --dist worksteal -q $(EXTRA_TESTS) $(ARGS)

# What is supported, beyond the one environment of the lock: each Python with each JAX, newest of everything else.
# Interpreters are found on PATH or named: make matrix PYTHON3.12=/path/to/python3.12
MATRIX := 3.11-0.10 3.12-0.10 3.13-0.10 3.12-0.11 3.13-0.11
PYTHON3.11 ?= python3.11
PYTHON3.12 ?= python3.12
PYTHON3.13 ?= python3.13

.PHONY: matrix $(MATRIX:%=matrix-%)
matrix: $(MATRIX:%=matrix-%) ## Python 3.11 to 3.13 with JAX 0.10 and 0.11: contracts, exactness, one training
$(MATRIX:%=matrix-%): matrix-%: $(VENV)/.uv
	@echo "==> Python $(firstword $(subst -, ,$*)) with JAX $(lastword $(subst -, ,$*))"
	@$(PYTHON$(firstword $(subst -, ,$*))) -m venv --clear $(VENV)-matrix-$*
	@$(call install_into,$(VENV)-matrix-$*,-e ".[dev]" "jax==$(lastword $(subst -, ,$*)).*")
	@$(VENV)-matrix-$*/bin/python -c "import sys, jax, metarl_jax; print(sys.version.split()[0], 'jax', jax.__version__)"
	@$(VENV)-matrix-$*/bin/python -m pytest -n $(WORKERS) --dist worksteal -q \
	  tests/algorithms/test_contract.py tests/meta/test_exactness.py $(ARGS)
	@$(VENV)-matrix-$*/bin/metarl train maml_ppo_point num_iterations=20 \
	  --run-dir $(VENV)-matrix-$*/run-$$(date +%Y%m%d-%H%M%S)

.PHONY: lint
lint: $(INSTALLED) ## ruff check, and hadolint where it is installed
	@echo "==> ruff check"
	@$(BIN)/ruff check .
	@if [ -x $(BIN)/hadolint ]; then echo "==> hadolint"; $(BIN)/hadolint Containerfile; fi

.PHONY: format-check
format-check: $(INSTALLED) ## ruff format --check
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check .

.PHONY: format
format: $(INSTALLED) ## rewrite the sources with ruff format
	@$(BIN)/ruff format .

.PHONY: types
types: $(INSTALLED) ## mypy
	@echo "==> mypy"
	@$(BIN)/mypy

.PHONY: docs
docs: $(INSTALLED) ## build the documentation site into build/site, strictly
	@echo "==> building build/site"
	@JAX_PLATFORMS=cpu $(PY) -m sphinx -q -W --keep-going -n -b html -d build/doctrees docs build/site
	@echo "==> checking its links"
	@$(PY) docs/check_site.py build/site
	@echo "build/site/index.html"

.PHONY: install
install: $(INSTALLED) ## set up only: the environment, the pinned packages, this package

# --- set-up ---------------------------------------------------------------------------------

# A virtual environment with uv in it. An interpreter is tried by running it, since a name on
# PATH may be a shim with nothing behind it.
$(VENV)/.uv: requirements-uv.lock
	@if ! $(PY) -c '$(NEW_ENOUGH)' >/dev/null 2>&1; then \
	  found=; \
	  for p in $(CANDIDATES); do \
	    if "$$p" -c 'import venv, ensurepip; $(NEW_ENOUGH)' >/dev/null 2>&1; then found=$$p; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: no Python 3.11 or newer with its venv module found (tried: $(strip $(CANDIDATES))); install one (Debian, Ubuntu: python3 and python3-venv) or name one with PYTHON=" >&2; \
	    exit 1; \
	  fi; \
	  echo "==> creating $(VENV) with $$found ($$("$$found" -c 'import platform; print(platform.python_version())'))"; \
	  "$$found" -m venv --clear $(VENV) || exit 1; \
	fi
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null
	@echo "==> installing uv"
	@$(PIP_INSTALL) --require-hashes -r requirements-uv.lock || echo "==> no uv here; pip will do"
	@touch $@

$(VENV)/.installed: $(VENV)/.uv requirements.lock pyproject.toml
	@echo "==> installing the packages pinned in requirements.lock"
	@$(call install_with_either,--no-deps --require-hashes -r requirements.lock)
	@echo "==> installing metarl_jax itself (editable)"
	@$(call install_with_either,--no-deps --no-build-isolation -e .)
	@touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	@echo "==> installing the $* extra (large wheels, not in requirements.lock)"
	@$(call install_with_either,--no-build-isolation -e ".[$*]")
	@touch $@

$(VENV)-robots/.installed $(VENV)-metaworld/.installed $(VENV)-ray/.installed: $(VENV)-%/.installed: $(VENV)/.uv requirements-%.lock pyproject.toml
	@echo "==> creating $(@D), with the packages pinned in requirements-$*.lock"
	@$(PY) -m venv $(@D)
	@$(call install_into,$(@D),--no-deps --require-hashes -r requirements-$*.lock)
	@$(call install_into,$(@D),--no-deps --no-build-isolation -e .)
	@touch $@

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-emit-find-links \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

.PHONY: lock
lock: $(VENV)/.uv ## pin again what pyproject.toml asks for (UPGRADE=1: newest of all)
	@echo "==> resolving pyproject.toml into requirements.lock"
	@$(COMPILE) --extra dev pyproject.toml -o requirements.lock
	@echo "==> resolving the extras into requirements-robots.lock, requirements-metaworld.lock and requirements-ray.lock"
	@$(COMPILE) --extra dev --extra robots --extra xland --extra craftax --extra wandb -c requirements.lock pyproject.toml -o requirements-robots.lock
	@$(COMPILE) --extra dev --extra metaworld -c requirements.lock pyproject.toml -o requirements-metaworld.lock
	@$(COMPILE) --extra dev --extra ray -c requirements.lock pyproject.toml -o requirements-ray.lock
	@echo "==> resolving uv into requirements-uv.lock"
	@echo uv | $(COMPILE) --no-annotate - -o requirements-uv.lock

.PHONY: clean
clean: ## remove caches and build products (not runs/, not the environment)
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .jax_cache
	@find . \( -path ./.git -o -path './$(VENV)' \) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## clean, and remove the environment
	@rm -rf $(VENV) $(VENV)-robots $(VENV)-metaworld $(VENV)-ray $(MATRIX:%=$(VENV)-matrix-%)
