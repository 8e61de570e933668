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

.PHONY: demo test lint blas programs
.DELETE_ON_ERROR:

demo: $(VENV)/ready-demo blas
	@$(BIN)/python benchmarks/demo.py

# One thread for each worker: two workers with two threads each wait for each other more than they compute, and torch is
# four times slower beside an OpenBLAS that starts threads of its own.
test: $(VENV)/ready-test blas programs
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

# $(call apt,packages): installs them where that is allowed, and says nothing: who calls it looks whether they are there.
apt = { \
  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo -n); \
  install="$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(1)"; \
  command -v apt-get && { $$install || { $$as_root apt-get -qq update && $$install; }; }; \
} >/dev/null 2>&1 || true

# MLX's wheels for Linux compute with a reference BLAS. OpenBLAS, preloaded, is some 35 times faster.
BLAS := libopenblas.so.0
HAS_BLAS := $(BIN)/python -c 'import ctypes; ctypes.CDLL("$(BLAS)")' 2>/dev/null
PRELOAD = $(shell [ $(SYSTEM) != Linux ] || ! $(HAS_BLAS) || echo LD_PRELOAD=$(BLAS))

ifeq ($(SYSTEM),Linux)
blas: $(VENV)/made
	@$(HAS_BLAS) || $(call apt,libopenblas0-pthread)
	@$(HAS_BLAS) || echo "note: without OpenBLAS MLX is some 35 times slower here: apt-get install libopenblas0-pthread"
endif

# The tests of the page drive a real browser (some 115 MB to download, 410 MB on disk), those of `e2v listen` a sound server
# without hardware, those of `e2v express` a speech engine.
HAS_BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable
HAS_SOUND := command -v pulseaudio && command -v paplay
SOUND := pulseaudio pulseaudio-utils libasound2-plugins libportaudio2

programs:
ifeq ($(SYSTEM),Linux)
	@{ $(HAS_BROWSER); } >/dev/null || $(call apt,chromium)
	@{ $(HAS_SOUND); } >/dev/null || $(call apt,$(SOUND))
	@command -v espeak-ng >/dev/null || $(call apt,espeak-ng)
	@{ $(HAS_BROWSER); } >/dev/null || echo "note: the tests of the page are skipped: apt-get install chromium"
	@{ $(HAS_SOUND); } >/dev/null || echo "note: tests of the microphone are skipped: apt-get install $(SOUND)"
	@command -v espeak-ng >/dev/null || echo "note: tests of a speech engine are skipped: apt-get install espeak-ng"
endif
