# bezel in a few words: `make demo` shows it, `make test` checks it. Everything else is below.
# make VARIABLE=value: MODEL=<folder> for demo and parity, JOBS=<n>, BUILD=<folder>, CMAKE_ARGS=…,
# TIDY_SINCE=<commit or all> for lint, FUZZ_RUNS=<n> for fuzz.

BUILD ?= build
JOBS ?= $(shell cmake/jobs.sh)
CMAKE_ARGS ?=
MODEL ?=
FUZZ_RUNS ?= 1000000
TIDY_SINCE ?=
PYTHON_IN_VENV := .venv/bin/python
# CMake and ninja as wheels, where setup found the system's too old.
export PATH := $(CURDIR)/.venv/bin:$(PATH)
CMAKE_BUILD := cmake --build $(BUILD) --parallel $(JOBS)

.DEFAULT_GOAL := help
.PHONY: help setup setup-lint setup-fuzz configure package build demo test lint format names bench bench-peers parity verify verify-mutants fuzz clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## system packages and .venv; a second when nothing is missing
	@cmake/setup.sh

setup-lint:
	@cmake/setup.sh lint

setup-fuzz:
	@cmake/setup.sh fuzz

configure: setup
	@test -f $(BUILD)/build.ninja -a -z "$(CMAKE_ARGS)" || \
	  cmake -S . -B $(BUILD) -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(PYTHON_IN_VENV) $(CMAKE_ARGS)

package: configure  # only what `import bezel` needs
	@$(CMAKE_BUILD) --target bezel_package
	@$(PYTHON_IN_VENV) cmake/link_into_venv.py $(BUILD)/python

build: package  ## compile everything; `import bezel` works in .venv
	@$(CMAKE_BUILD)

demo: package  ## look inside a trained miniature, or MODEL=<folder of a Gemma 4 checkpoint>
	@$(PYTHON_IN_VENV) -m bezel.demo $(MODEL)

test: build  ## all tests: C++ (ctest) and Python (pytest)
	@ctest --test-dir $(BUILD) --parallel $(JOBS) --output-on-failure; cpp=$$?; \
	 $(PYTHON_IN_VENV) -m pytest -q -n $(JOBS) --dist loadfile; python=$$?; \
	 exit $$((cpp ? cpp : python))

lint: setup-lint configure  ## clang-format, ruff, mypy; clang-tidy on changed files
	@$(CMAKE_BUILD) --target build.ninja >/dev/null  # a pull may have brought sources
	@failed=0; \
	 git ls-files '*.h' '*.cpp' '*.cu' | xargs -r clang-format --dry-run -Werror || failed=1; \
	 $(PYTHON_IN_VENV) -m ruff check . || failed=1; \
	 $(PYTHON_IN_VENV) -m ruff format --check . || failed=1; \
	 $(PYTHON_IN_VENV) -m mypy || failed=1; \
	 $(PYTHON_IN_VENV) cmake/tidy.py $(BUILD) $(TIDY_SINCE) || failed=1; \
	 exit $$failed

format: setup-lint  ## rewrite the sources as lint wants them
	@git ls-files '*.h' '*.cpp' '*.cu' | xargs -r clang-format -i
	@$(PYTHON_IN_VENV) -m ruff check --fix .
	@$(PYTHON_IN_VENV) -m ruff format .

names: configure  ## after a change of hooks/hook_points.h: the names that Python knows
	@$(CMAKE_BUILD) --target list_hook_points
	@$(BUILD)/hooks/list_hook_points python > python/bezel/hook_names.py

bench: build  ## the speed tables
	@PYTHONPATH=$(BUILD)/python $(or $(PEERS),$(PYTHON_IN_VENV)) tests/bench/bench.py \
	  --programs $(BUILD)/tests $(if $(WRITE),--write $(WRITE))

bench-peers: build  ## the same beside TransformerLens and nnsight (in .venv-peers, over .venv)
	@test -x .venv-peers/bin/python || $(PYTHON_IN_VENV) -m venv .venv-peers
	@$(PYTHON_IN_VENV) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	  "$$(.venv-peers/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/venv.pth"
	@.venv-peers/bin/python -m pip install --quiet -r tests/bench/peers.txt
	@$(MAKE) bench PEERS=.venv-peers/bin/python

verify: package  ## verify_models on the small models; writes verify/records
	@$(CMAKE_BUILD) --target verify_models
	@PYTHONPATH=$(BUILD)/python $(PYTHON_IN_VENV) tests/verify/records.py \
	  --program $(BUILD)/verify/verify_models

verify-mutants: package  ## deliberate defects: does verify_models catch and blame each?
	@PYTHONPATH=$(BUILD)/python $(PYTHON_IN_VENV) tests/verify/mutants.py \
	  --write verify/records/mutants.md

parity: package  ## the accuracy tables: every name against transformers
	@$(PYTHON_IN_VENV) tests/bench/parity.py $(MODEL) $(if $(WRITE),--write $(WRITE))

fuzz: setup-fuzz setup  ## the checkpoint readers on FUZZ_RUNS malformed inputs
	@cmake --preset fuzz -DPython_EXECUTABLE=$(CURDIR)/$(PYTHON_IN_VENV)
	@cmake --build --preset fuzz --parallel $(JOBS) --target fuzzers
	@cmake/fuzz.sh build-fuzz $(FUZZ_RUNS)

clean:  ## remove what was built; .venv stays
	@rm -rf $(BUILD) build-debug build-asan build-tsan build-fuzz build-wheel dist
