# Each target sets up what it needs (tools/setup.sh: packages and .venv; a second when they are there).
# build/        the tree that tests run from: build/bin/lowtide, build/bin/lowtide-agent.so
# build/clang   the same code by clang under ASan and UBSan
# build/tsan    by clang under ThreadSanitizer: what many threads write, alone
# build/fuzz    libFuzzer's targets alone: the reader there does not insist on checksums

JOBS ?= 2
PYTHON := .venv/bin/python
RUFF := .venv/bin/ruff
C_FILES := $(shell git ls-files -co --exclude-standard '*.c' '*.h')
SHELL_FILES := $(shell git ls-files -co --exclude-standard '*.sh') .ci/run
FUZZ_SECONDS ?= 60

.PHONY: build test demo lint bench fuzz soak sanitize sid chromium setup clean

build: setup
	@cmake -S . -B build -G Ninja --log-level=NOTICE -DPython_EXECUTABLE=$(CURDIR)/$(PYTHON)
	@cmake --build build --parallel $(JOBS)
	@$(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --force-reinstall .

setup:
	@tools/setup.sh

# lint builds build/clang, which the tests run too. The last line printed is the sum over all of them.
test: build lint build/fuzz build/tsan sid chromium
	@$(PYTHON) tools/run_tests.py

# The Pythons that this machine lacks, for tests alone: it goes on without them, aloud.
sid: setup
	@tools/get_sid.sh

chromium: setup
	@tools/get_chromium.sh

demo: build
	@examples/demo.sh $(CURDIR)/$(PYTHON) $(CURDIR)/.venv/bin/lowtide

lint: build/clang
	.venv/bin/clang-format --dry-run --Werror $(C_FILES)
	$(PYTHON) tools/lint_rooms.py
	$(RUFF) check .
	$(RUFF) format --check .
	$(PYTHON) -m mypy
	shellcheck $(SHELL_FILES)
	npm run --prefix web --silent check

sanitize: build/clang
	@ctest --test-dir build/clang --output-on-failure --parallel $(JOBS)

.PHONY: build/clang
build/clang: setup
	@cmake -S . -B $@ -G Ninja --log-level=NOTICE -DCMAKE_C_COMPILER=clang -DPython_EXECUTABLE=$(CURDIR)/$(PYTHON) \
	    -DLOWTIDE_SANITIZE=address,undefined
	@cmake --build $@ --parallel $(JOBS)

.PHONY: build/tsan
build/tsan: setup
	@cmake -S . -B $@ -G Ninja --log-level=NOTICE -DCMAKE_C_COMPILER=clang -DPython_EXECUTABLE=$(CURDIR)/$(PYTHON) \
	    -DLOWTIDE_SANITIZE=thread
	@cmake --build $@ --parallel $(JOBS) --target test_alloc_store test_alloc_count test_alloc_threads

.PHONY: build/fuzz
build/fuzz: setup
	@cmake -S . -B $@ -G Ninja --log-level=NOTICE -DCMAKE_C_COMPILER=clang -DPython_EXECUTABLE=$(CURDIR)/$(PYTHON) \
	    -DLOWTIDE_SANITIZE=address,undefined -DLOWTIDE_FUZZ=ON
	@cmake --build $@ --parallel $(JOBS) --target fuzzers

bench: build
	$(PYTHON) -m pip install --quiet -r bench/requirements.txt
	$(PYTHON) bench/run.py --lowtide .venv/bin/lowtide $(BENCH_ARGS)
	$(PYTHON) bench/cache.py
	$(PYTHON) bench/isolate.py
	$(PYTHON) bench/alloc.py
	$(PYTHON) bench/accuracy.py
	$(PYTHON) bench/tracing.py
	$(PYTHON) bench/free.py
	$(PYTHON) bench/limit.py
	$(PYTHON) bench/stream.py

# New inputs stay in build/corpus; the kept corpus, in the repository, is only read.
fuzz: build/fuzz
	@set -e; for target in build/fuzz/bin/fuzz_*; do name=$${target##*/fuzz_}; mkdir -p build/corpus/$$name; \
	    $$target -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=4096 -artifact_prefix=build/corpus/ \
	        build/corpus/$$name tests/fuzz/corpus/$$name; done

soak: build sid
	$(PYTHON) -m pytest -m soak --timeout 7200
	$(PYTHON) bench/limit.py --soak 3600

clean:
	rm -rf build
