# Thin front door: scripts/setup.sh prepares the machine, CMake presets build.
PRESET ?= release
JOBS ?= $(shell nproc)
CLANG_TIDY ?= $(shell command -v clang-tidy-19 || echo clang-tidy)
CLANG_FORMAT ?= $(shell command -v clang-format-19 || echo clang-format)
SOURCES = $(shell git ls-files --cached --others --exclude-standard '*.h' '*.cpp' '*.cu' '*.cuh')

.PHONY: help demo test build asan hostile format tidy clean
.NOTPARALLEL:

help:
	@echo 'make demo    set up this machine, build, answer questions about a long text with a real model'
	@echo 'make test    set up this machine, build, run all tests   (PRESET=release|debug|asan|ci)'
	@echo 'make build   set up this machine, build                  (PRESET=..., program in build/PRESET/gsa)'
	@echo 'make hostile damaged and hostile files under the sanitizers'
	@echo 'make asan    all tests under the address and undefined-behaviour sanitizers'
	@echo 'make format  format all sources with clang-format'
	@echo 'make tidy    clang-tidy over the sources of a built preset'
	@echo 'make clean   remove build/ (keeps .venv)'

demo: PRESET = release
demo: build
	scripts/demo.sh

build:
	scripts/setup.sh
	cmake --preset $(PRESET) -DBUILD_TESTING=OFF
	cmake --build --preset $(PRESET) -j $(JOBS)

test:
	scripts/setup.sh --with-tests
	cmake --preset $(PRESET) -DBUILD_TESTING=ON
	cmake --build --preset $(PRESET) -j $(JOBS)
	scripts/test.sh $(PRESET)

asan:
	$(MAKE) test PRESET=asan

HOSTILE_TESTS = core_gguf_test core_hostile_file_test core_safetensors_test core_text_file_test \
	text_hostile_tokenizer_test

hostile:
	scripts/setup.sh --with-tests
	cmake --preset asan -DBUILD_TESTING=ON
	cmake --build --preset asan -j $(JOBS) --target $(HOSTILE_TESTS)
	ctest --preset asan --parallel $(JOBS) -R 'Gguf|Safetensors|TextFile|Hostile'

format:
	$(CLANG_FORMAT) -i $(SOURCES)

tidy:
	$(CLANG_TIDY) -p build/$(PRESET) --quiet $(filter src/%.cpp apps/%.cpp,$(SOURCES))

clean:
	rm -rf build
