# Two commands do everything on a fresh Debian 12 or Ubuntu 24.04: `make demo` and `make test`.
PRESET ?= release
BUILD := build/$(PRESET)
CACHE ?= $(or $(LONGGEN_CACHE),$(HOME)/.cache/longgen)
JOBS ?= $(shell nproc)
DATA := $(or $(LONGGEN_TEST_DATA),$(CURDIR)/build/data)
# Tests of the cuda backend run where there is a GPU.
GPU := $(wildcard /dev/nvidia0)
MODEL := $(or $(LONGGEN_TEST_MODEL),$(CACHE)/SmolLM2-135M-Instruct.Q4_1.gguf)

PREFIX ?= /usr/local

.PHONY: help setup build install demo demo-seeds test model compare format lint clean fuzz

help:
	@echo "make demo        set up, build, and run the whole loop on an embedded tiny model"
	@echo "make test        set up, build, fetch the small real model, run all tests"
	@echo "make build       build/$(PRESET)/bin/longgen   (PRESET=release|debug|asan-ubsan|tsan)"
	@echo "make install     into PREFIX (/usr/local) under DESTDIR: program, completions, library, headers"
	@echo "make compare     peers and longgen side by side; ROWS='prefill-2k decode-0' selects (bench/compare)"
	@echo "make demo-seeds  the demo under five seeds"
	@echo "make model       fetch SmolLM2-135M-Instruct (98 MB GGUF) into $(CACHE)"
	@echo "make fuzz        every reader under libFuzzer and sanitizers (needs clang; docs/fuzzing.md)"
	@echo "make format lint clang-format and clang-tidy"

setup:
	@scripts/setup.sh

$(BUILD)/build.ninja: CMakeLists.txt CMakePresets.json | setup
	cmake --preset $(PRESET)

build: setup $(BUILD)/build.ninja
	cmake --build $(BUILD) -j $(JOBS)

install: build
	DESTDIR="$(DESTDIR)" cmake --install $(BUILD) --prefix "$(PREFIX)"

compare: build
	bench/compare/run.sh --longgen $(BUILD)/bin/longgen $(if $(ROWS),--rows $(ROWS))

demo: build
	$(BUILD)/bin/longgen demo

demo-seeds: build
	for seed in 0 1 2 3 4; do $(BUILD)/bin/longgen demo --seed $$seed || exit 1; done

model:
	@scripts/fetch_model.sh "$(MODEL)"

test: build
	@scripts/fetch_model.sh "$(MODEL)" || $(if $(LONGGEN_REQUIRE_DATA),exit 1,true)
	@scripts/unpack_test_data.sh "$(DATA)" || $(if $(LONGGEN_REQUIRE_DATA),exit 1,true)
	LONGGEN_TEST_MODEL="$(MODEL)" LONGGEN_TEST_DATA="$(DATA)" \
	    ctest --test-dir $(BUILD) --output-on-failure -j 2 $(if $(GPU),,-LE '^cuda(_long)?$$')

format:
	git ls-files '*.h' '*.cpp' '*.cu' '*.cuh' | xargs clang-format -i

lint: build
	git ls-files '*.h' '*.cpp' | xargs clang-format --dry-run -Werror
	git ls-files 'longgen/*.cpp' 'bench/*.cpp' | xargs -P $(JOBS) -n 4 clang-tidy -p $(BUILD) --quiet

fuzz:
	@scripts/fuzz.sh $(FUZZ_EXECUTIONS)

clean:
	rm -rf build
