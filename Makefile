# Every target sets up what it needs in .venv; nothing has to be done by hand before.
PYTHON ?= python3
PROFILE ?= offline
SET ?=
# The notebooks that JupyterLab shows, and options that it is given on top of ours.
NOTEBOOKS ?= book
LAB ?=
# nproc answers OMP_NUM_THREADS where it is set, which is about threads and not about jobs.
CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)

BIN := .venv/bin
READY := .venv/ready-$(shell cksum < pyproject.toml | cut -d ' ' -f 1)
# The hubs are never asked for what the offline profiles need.
export PYTHONNOUSERSITE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help book test lint lab bench clean
.DEFAULT_GOAL := help

help:
	@echo "make book                 rebuild the book: _build/offline/html/index.html"
	@echo "make book PROFILE=smoke   the same with a handful of pictures (or another profile)"
	@echo "make book SET='views=6'   with other values for a profile's or a chapter's parameters"
	@echo "make test                 lint and all tests (package, chapters, rendered pages)"
	@echo "make lab                  open JupyterLab on the chapters"
	@echo "make bench                benchmarks (not there yet: issue 7)"
	@echo "make clean                remove what was built; downloads and .venv stay"

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing packages into .venv (several minutes and about 7 GB the first time) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]' 2>.venv/pip.log || \
	  { grep -v WARNING .venv/pip.log; exit 1; }
	@rm -f .venv/ready-*; touch $@

book: $(READY)
	@$(BIN)/sing check --profile $(PROFILE) --set '$(SET)'
	@$(BIN)/python -m snakemake --snakefile book/Snakefile --cores $(CORES) --quiet rules \
	  --config profile=$(PROFILE) settings='$(SET)' --rerun-incomplete --nolock
	@echo "the book: _build/$(PROFILE)/html/index.html"

lint: $(READY)
	@$(BIN)/ruff check sing_nb tests

test: lint
	@$(BIN)/python -m pytest

lab: $(READY)
	@echo "JupyterLab opens the first chapter: Run > Run All Cells, then move a slider; Control-C ends it here"
	@# With a token, for this machine only, on the first chapter. data/lab turns off what asks other hosts.
	@$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir='$(NOTEBOOKS)' \
	  --LabApp.default_url=/lab/tree/01_setup.ipynb --LabApp.app_settings_dir=data/lab \
	  --LabApp.extension_manager=readonly --LabApp.news_url=None \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

bench:
	@echo "There are no benchmarks yet; issue 7 brings them."

clean:
	rm -rf _build .snakemake .pytest_cache .ruff_cache
