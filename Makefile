# make demo         emotions in speech with torch and with MLX, and a checkpoint converted for both
# make test         the tests; ARGS="-k audio" runs some of them, ARGS="--full-size" those of full-size models as well
# make weights      real weights for tests at full size, in build/weights: Whisper and SmolLM2, 300 MB to download
# make lint         ruff and mypy
# make site         the page with the bundled model as static files, in build/site-app
# make docs         the documentation site, in build/site; warnings are errors
# make constraints  constraints.txt: every dependency of the above, pinned at the newest releases that work together
#
# Each sets up .venv on its first run. PYTHON=... names another Python 3.11 or newer.

PYTHON ?= python3
ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
SYSTEM := $(shell uname -s)

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test weights lint site docs constraints blas programs
.DELETE_ON_ERROR:

demo: $(VENV)/ready-demo blas
	@$(BIN)/python benchmarks/demo.py

# One thread per worker: two workers with two threads each mostly wait for each other, and torch is four times slower
# next to an OpenBLAS with threads.
test: $(VENV)/ready-test blas programs
	$(PRELOAD) OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
	$(BIN)/python -m pytest -n 2 --dist loadgroup --junitxml=$(VENV)/tests.xml $(ARGS)

weights: $(VENV)/ready-test
	@$(BIN)/python tests/real_weights.py build/weights

lint: $(VENV)/ready-lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@$(MERGED)
	cd $(VENV)/merged && ../bin/mypy

site: $(VENV)/ready-site
	@$(BIN)/python site/build.py

docs: $(VENV)/ready-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "build/site/index.html"

# The package as it is installed, so that mypy checks the calls from e2v_port/ to the folders mapped into it.
MERGED = rm -rf $(VENV)/merged/e2v_port $(VENV)/merged/benchmarks && mkdir -p $(VENV)/merged && \
  cp -Rp pyproject.toml e2v_port benchmarks $(VENV)/merged && \
  cp -Rp converters runtimes taxonomy weights $(VENV)/merged/e2v_port

# Build environments, such as that of this package, have pinned tools as well.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_BUILD_CONSTRAINT := $(CURDIR)/constraints.txt

# torch keeps its pin: its newest release may be a CUDA build of several gigabytes.
constraints: $(VENV)/made
	rm -rf $(VENV)/newest
	$(PYTHON) -m venv $(VENV)/newest
	grep '^torch==' constraints.txt >$(VENV)/torch.txt
	env -u PIP_CONSTRAINT -u PIP_BUILD_CONSTRAINT $(VENV)/newest/bin/python -m pip install -q \
	  -c $(VENV)/torch.txt setuptools '.[$(EVERY_EXTRA)]'
	{ echo "# Made by make constraints: the releases that tests, checks and documentation run with."; \
	  $(VENV)/newest/bin/python -m pip freeze --all --exclude e2v-port --exclude pip | sed 's/+cpu$$//'; } >$(VENV)/constraints.txt
	mv $(VENV)/constraints.txt constraints.txt
	rm -rf $(VENV)/newest

EVERY_EXTRA := mlx-cpu,test,lint,plots,docs
EXTRAS_demo := mlx-cpu,torch
EXTRAS_test := mlx-cpu,test
EXTRAS_docs := docs
EXTRAS_site := onnx
EXTRAS_lint := mlx-cpu,serve,lint

# References of the speaker encoders. What they ask for besides cannot be installed everywhere: a compiler, a torchaudio
# that needs CUDA.
ALONE_test := Resemblyzer==0.1.4 speechbrain==1.1.2

$(VENV)/ready-%: $(VENV)/made pyproject.toml constraints.txt
	@echo "installing e2v-port[$(EXTRAS_$*)] into $(VENV): minutes the first time, torch is large"
	@$(BIN)/python -m pip install -qq -e '.[$(EXTRAS_$*)]'
	@[ -z '$(ALONE_$*)' ] || $(BIN)/python -m pip install -qq --no-deps $(ALONE_$*)
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

# $(call apt,packages): installs packages where that is allowed, silently; callers check the result.
apt = { \
  as_root=$$([ "$$(id -u)" = 0 ] || echo sudo -n); \
  install="$$as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $(1)"; \
  command -v apt-get && { $$install || { $$as_root apt-get -qq update && $$install; }; }; \
} >/dev/null 2>&1 || true

# MLX's wheels for Linux compute with a reference BLAS. Preloaded OpenBLAS is about 35 times faster.
BLAS := libopenblas.so.0
HAS_BLAS := $(BIN)/python -c 'import ctypes; ctypes.CDLL("$(BLAS)")' 2>/dev/null
PRELOAD = $(shell [ $(SYSTEM) != Linux ] || ! $(HAS_BLAS) || echo LD_PRELOAD=$(BLAS))

ifeq ($(SYSTEM),Linux)
blas: $(VENV)/made
	@$(HAS_BLAS) || $(call apt,libopenblas0-pthread)
	@$(HAS_BLAS) || echo "note: without OpenBLAS, MLX is about 35 times slower here: apt-get install libopenblas0-pthread"
endif

# Tests of the page need a browser (115 MB to download, 410 MB on disk), tests of `e2v listen` a sound server (no
# hardware), tests of `e2v express` a speech engine, tests of the programs in docs/embed.md ONNX Runtime for Node (113 MB
# to download, 290 MB on disk; nothing without npm), a C compiler and the header of ONNX Runtime.
HAS_BROWSER := command -v chromium || command -v chromium-browser || command -v google-chrome || command -v google-chrome-stable
HAS_SOUND := command -v pulseaudio && command -v paplay
SOUND := pulseaudio pulseaudio-utils libasound2-plugins libportaudio2
NODE_PACKAGE := $(shell grep -o 'onnxruntime-node@[0-9.]*[0-9]' docs/embed.md)
HAS_NODE := test -d $(VENV)/node/node_modules/onnxruntime-node
HEADER := usr/include/onnxruntime/onnxruntime_c_api.h
HAS_C := command -v cc && { test -f /$(HEADER) || test -f $(VENV)/onnxruntime/$(HEADER); }

# The header is in Debian 13 and Ubuntu 25.04, and is only unpacked, not installed; Debian 12 takes it from Debian 13.
APT_HERE := apt-get -qq -o Dir::Etc::sourcelist=/dev/null -o Dir::Etc::sourceparts="$$PWD/sources" \
  -o Dir::State::lists="$$PWD/lists" -o Dir::Cache="$$PWD/cache"
header = { ( \
  mkdir -p $(VENV)/apt/sources $(VENV)/apt/lists/partial $(VENV)/apt/cache/archives/partial && cd $(VENV)/apt && \
  for file in sources.list sources.list.d/debian.sources sources.list.d/ubuntu.sources; do \
    [ ! -f /etc/apt/$$file ] || sed s/bookworm/trixie/g /etc/apt/$$file >sources/$${file\#\#*/}; \
  done && $(APT_HERE) update && $(APT_HERE) download libonnxruntime-dev && dpkg -x *.deb ../onnxruntime \
) >/dev/null 2>&1 || true; rm -rf $(VENV)/apt; }

programs:
ifeq ($(SYSTEM),Linux)
	@{ $(HAS_BROWSER); } >/dev/null || $(call apt,chromium)
	@{ $(HAS_SOUND); } >/dev/null || $(call apt,$(SOUND))
	@command -v espeak-ng >/dev/null || $(call apt,espeak-ng)
	@command -v cc >/dev/null || $(call apt,gcc libc6-dev)
	@{ $(HAS_C); } >/dev/null || $(header)
	@$(HAS_NODE) || ! command -v npm >/dev/null || \
	  npm install --silent --ignore-scripts --prefix $(VENV)/node $(NODE_PACKAGE) >/dev/null 2>&1 || true
	@{ $(HAS_BROWSER); } >/dev/null || echo "note: tests of the page are skipped: apt-get install chromium"
	@{ $(HAS_SOUND); } >/dev/null || echo "note: tests of the microphone are skipped: apt-get install $(SOUND)"
	@command -v espeak-ng >/dev/null || echo "note: tests of a speech engine are skipped: apt-get install espeak-ng"
	@{ $(HAS_C); } >/dev/null || echo "note: tests of a program in C are skipped: apt-get install gcc libonnxruntime-dev"
	@$(HAS_NODE) || echo "note: tests of a program for Node are skipped: install Node 20 or newer with npm"
endif
