# make demo     the first paper put to the test, and the wall written
# make test     the whole test suite
# make nightly  what is slower: mutation tests, nightly-marked tests, benchmarks
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SLOTS ?= 2

.PHONY: demo test check docs gallery bench nightly clean

.venv/demo: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

.venv/test: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,docs]'
	@touch $@ .venv/demo

demo: .venv/demo
	$(BIN)/assay run cmd/few_modes_model_the_run
	$(BIN)/assay report

test: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: .venv/test
	$(BIN)/ruff check src tests bench tools
	$(BIN)/ruff format --check src tests bench tools
	$(BIN)/mypy

docs: .venv/test
	$(BIN)/mkdocs build --strict

gallery: .venv/test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gallery]'
	OMP_NUM_THREADS=1 $(BIN)/python tools/gallery.py

bench: .venv/test
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python bench/cmd_peers.py --out docs/bench/cmd.md
	$(BIN)/python bench/curvature_peers.py --out docs/bench/curvature.md
	$(BIN)/python bench/optim_peers.py --out docs/bench/optim.md
	$(BIN)/python bench/loss_peers.py --out docs/bench/losses.md
	$(BIN)/python bench/learning_rules.py --out docs/bench/learn.md
	$(BIN)/python bench/saliency_peers.py --out docs/bench/saliency.md
	$(BIN)/python bench/rebasin_peers.py --out docs/bench/rebasin.md
	$(BIN)/python bench/tv_peers.py --out docs/bench/tv.md

nightly: .venv/test
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m nightly
	$(BIN)/python tools/mutate.py

clean:
	rm -rf .venv build dist site wall .mypy_cache .ruff_cache .hypothesis
