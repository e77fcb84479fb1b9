# Everything from a bare Python >= 3.11 and make; the environment is .venv.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: install quickstart gallery test bench gpu lint types docs notebooks clean

install: $(STAMP)

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mot_gen needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V). Say: make PYTHON=python3.12 ..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[dev,docs,emoji,speech,recognition]'
	@touch $(STAMP)

quickstart: install
	$(BIN)/mot-gen quickstart

gallery: install
	$(BIN)/python -m benchmarks.gallery

test: install
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

bench: install
	$(BIN)/python -m benchmarks

# What only a GPU can show; writes docs/gpu.md. Without a GPU it ends at once.
gpu: install
	$(BIN)/python -m benchmarks.gpu

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

types: install
	$(BIN)/mypy

# The site, into build/site. Broken links and anchors are errors, and so is anything that a page would load from elsewhere.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --clean
	@echo "To read it: $(BIN)/python -m http.server --directory build/site"

notebooks: install
	$(BIN)/uv pip install --quiet --python $(BIN)/python 'jupyterlab>=4'
	$(BIN)/jupyter lab notebooks

clean:
	rm -rf .venv build dist *.egg-info
