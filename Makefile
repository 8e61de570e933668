# make demo    the main job on this machine: emotions in speech with torch and with MLX, and a checkpoint converted for both
# make test    all tests; ARGS="-k audio" for some of them
# make lint    ruff and mypy
#
# The first time each sets up what it needs in .venv. PYTHON=... names another Python 3.11 or newer.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
SYSTEM := $(shell uname -s)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint blas browser
.DELETE_ON_ERROR:

demo: $(VENV)/ready-demo blas
	@$(BIN)/python benchmarks/demo.py

# One thread for each worker: two workers with two threads each wait for each other more than they compute, and torch is
# four times slower beside an OpenBLAS that starts threads of its own.
test: $(VENV)/ready-test blas browser
	$(PRELOAD) OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	$(BIN)/python -m pytest -n 2 --dist loadgroup --junitxml=$(VENV)/tests.xml $(ARGS)

lint: $(VENV)/ready-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

EXTRAS_demo := mlx-cpu
EXTRAS_test := mlx-cpu,test
EXTRAS_lint := mlx-cpu,serve,lint

$(VENV)/ready-%: $(VENV)/made pyproject.toml constraints.txt
	@echo "installing e2v-port[$(EXTRAS_$*)] into $(VENV): minutes the first time, torch is large"
	@$(BIN)/python -m pip install -qq -c constraints.txt -e '.[$(EXTRAS_$*)]'
	@touch $@

$(VENV)/made:
	@command -v '$(PYTHON)' >/dev/null || \
	  { echo "error: $(PYTHON) not found: install Python 3.11 or newer, or make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $$($(PYTHON) --version 2>&1) is too old: make PYTHON=/path/to/python3.11 or newer" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module: apt-get install python3-venv, or another Python" >&2; exit 1; }
	@rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	@touch $@

# MLX's wheels for Linux compute with a reference BLAS. OpenBLAS, preloaded, is some 35 times faster.
BLAS := libopenblas.so.0
HAS_BLAS := $(BIN)/python -c 'import ctypes; ctypes.CDLL("$(BLAS)")' 2>/dev/null
PRELOAD = $(shell [ $(SYSTEM) != Linux ] || ! $(HAS_BLAS) || echo LD_PRELOAD=$(BLAS))

# The tests of the page drive a real browser: some 115 MB to download, 410 MB on disk.
HAS_BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable

browser:
ifeq ($(SYSTEM),Linux)
	@{ $(HAS_BROWSER); } >/dev/null || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo -n); \
	  install="$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends chromium"; \
	  command -v apt-get && { $$install || { $$as_root apt-get -qq update && $$install; }; }; \
	} >/dev/null 2>&1 || true
	@{ $(HAS_BROWSER); } >/dev/null || echo "note: the tests of the page are skipped: apt-get install chromium"
endif

ifeq ($(SYSTEM),Linux)
blas: $(VENV)/made
	@$(HAS_BLAS) || { \
	  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo -n); \
	  install="$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y libopenblas0-pthread"; \
	  command -v apt-get && { $$install || { $$as_root apt-get -qq update && $$install; }; }; \
	} >/dev/null 2>&1 || true
	@$(HAS_BLAS) || echo "note: without OpenBLAS MLX is some 35 times slower here: apt-get install libopenblas0-pthread"
endif
