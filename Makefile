# Everything a newcomer needs: `make demo`, `make test`, `make check`, `make bench`, `make docs`.
# The first call builds .venv; later calls reuse it until pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Without a GPU, torch is installed first and by exact version, so that a CPU build that pip can see (a wheel folder or
# an index in pip's own configuration, PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL) wins over the registry's CUDA build.
CPU_TORCH ?= torch==2.13.0
HAS_GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -c GPU || echo 0)

.PHONY: setup demo test check format bench docs wheel clean

setup: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
ifeq ($(HAS_GPU),0)
	$(BIN)/python -m pip install --quiet "$(CPU_TORCH)"
	$(BIN)/python -m pip install --quiet --editable ".[dev]"
else
	$(BIN)/python -m pip install --quiet --editable ".[dev,gpu]"
endif
	touch $(STAMP)

# make demo [TEXT=path/to/file.txt]
demo: $(STAMP)
	$(BIN)/sgl run examples/demo.py $(TEXT)

# make test [ARGS="-k radix"]
test: $(STAMP)
	$(BIN)/python -m pytest $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/eval_embedded.py --runtime engine
	$(BIN)/python benchmarks/engine.py
	$(BIN)/python benchmarks/language.py
	$(BIN)/python benchmarks/cpu.py --shapes T

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

wheel: $(STAMP)
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf $(VENV) dist site build
