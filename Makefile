# Every target sets up what it needs in .venv; nothing has to be done by hand before.
PYTHON ?= python3
PROFILE ?= offline
# Who runs the jobs: a folder of data/cluster, and more options for Snakemake; nobody but this machine if empty.
CLUSTER ?=
CLUSTER_OPTIONS ?=
SET ?=
# What `make report` is about: as --model, --images and --out of `sing report`, and words to ask about.
MODEL ?=
IMAGES ?=
OUT ?= report
ASK ?=
# More options for pip, such as an index that has a smaller build of torch.
PIP_OPTIONS ?=
# Benchmarks of these files in tests/bench only, as in ONLY=method or ONLY="method features".
ONLY ?=
# The notebooks that JupyterLab shows, and options that it is given on top of ours.
NOTEBOOKS ?= book
LAB ?=
# nproc answers OMP_NUM_THREADS where it is set, which is about threads and not about jobs.
CORES ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
# The longest that make audit waits for the advisories.
AUDIT_SECONDS ?= 600
# All tests if not empty: also those that take minutes, such as killed runs and clusters.
SLOW ?=
# Tests run side by side in so many processes, each with one thread.
TESTERS ?= 2

BIN := .venv/bin
# Named after what pyproject.toml holds, and so done anew when that changes.
SUM := $(shell cksum < pyproject.toml | cut -d ' ' -f 1)
READY := .venv/ready-book-$(SUM)
TESTING := .venv/ready-test-$(SUM)
RACING := .venv/ready-bench-$(SUM)
EXTRAS_book := book
EXTRAS_test := book,hub,cluster,test
EXTRAS_bench := book,hub,cluster,test,bench
HOLDS_book := book
HOLDS_test := book test
HOLDS_bench := book test bench
# The hubs are never asked for what the offline profiles need.
export PYTHONNOUSERSITE := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help book report plan test lint lab bench audit clean
.DEFAULT_GOAL := help

help:
	@echo "make book                 rebuild the book: _build/offline/html/index.html"
	@echo "make book PROFILE=smoke   the same with a handful of pictures (or another profile)"
	@echo "make book SET='views=6'   with other values for a profile's or a chapter's parameters"
	@echo "make report MODEL=mine.py:build IMAGES=photos   what your own classifier ignores: report/index.html"
	@echo "make plan PROFILE=...     what a run needs and takes here, and its jobs; nothing runs"
	@echo "make book CLUSTER=slurm PROFILE=imagenet13   jobs on a cluster, data/cluster"
	@echo "make test                 lint and tests (package, chapters, rendered pages); make test SLOW=1: all of them"
	@echo "make lab                  open JupyterLab on the chapters"
	@echo "make bench                races against other implementations: ratios"
	@echo "make bench ONLY=method    the benchmarks of one file in tests/bench"
	@echo "make audit                known weaknesses of the installed packages, a report"
	@echo "make clean                remove what was built; downloads and .venv stay"

# One rule for all extras: .venv/ready-test-<sum> says that [book,hub,cluster,test] are there.
.venv/ready-%-$(SUM): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Python 3.10 or newer is needed; choose one with: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing packages into .venv (a few minutes and some gigabytes the first time) ..."
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_OPTIONS) -e '.[$(EXTRAS_$*)]'
	@touch $(foreach done,$(HOLDS_$*),.venv/ready-$(done)-$(SUM))

# What runs the rules of book/Snakefile: this machine, or a cluster.
SNAKEMAKE = $(BIN)/python -m snakemake --snakefile book/Snakefile --quiet rules --rerun-incomplete --nolock \
  $(if $(CLUSTER),--workflow-profile data/cluster/$(CLUSTER) $(CLUSTER_OPTIONS),--cores $(CORES)) \
  --config profile=$(PROFILE) settings='$(SET)'

book: $(READY)
	@$(BIN)/sing check --profile $(PROFILE) --set '$(SET)'
	@$(SNAKEMAKE)
	@echo "the book: _build/$(PROFILE)/html/index.html"

report: $(READY)
	@test -n '$(MODEL)' || { echo "Say which classifier: make report MODEL=mine.py:build IMAGES=photos (or MODEL=lite0)"; exit 2; }
	@$(BIN)/sing report --model '$(MODEL)' $(if $(IMAGES),--images '$(IMAGES)') --out '$(OUT)' $(if $(ASK),--ask '$(ASK)')

plan: $(READY)
	@$(BIN)/sing check --profile $(PROFILE) --set '$(SET)' || true
	@$(SNAKEMAKE) --dry-run

lint: $(TESTING)
	@$(BIN)/ruff check sing_nb tests
	@$(BIN)/ruff check --quiet --select S --ignore S603 book .ci/audit

test: lint
	@# Downloaded once, before the workers ask for it together.
	@$(BIN)/sing fetch --profile smoke
	@$(BIN)/python -m pytest -n $(TESTERS) --dist loadgroup --no-loadscope-reorder $(if $(SLOW),,-m 'not slow')
	@$(if $(SLOW),,$(BIN)/python -m pytest --collect-only -q -m slow $$(grep -rl mark.slow tests) | tail -1 | \
	  sed "s|^\([0-9]*\)/.*|left out: \1 slow tests (clusters, killed runs ...); make test SLOW=1 runs them, and .ci/run does|")

lab: $(READY)
	@echo "JupyterLab opens the first chapter: Run > Run All Cells, then move a slider; Control-C ends it here"
	@# With a token, for this machine only, on the first chapter. data/lab turns off what asks other hosts.
	@$(BIN)/jupyter lab --ServerApp.ip=127.0.0.1 --ServerApp.root_dir='$(NOTEBOOKS)' \
	  --LabApp.default_url=/lab/tree/01_setup.ipynb --LabApp.app_settings_dir=data/lab \
	  --LabApp.extension_manager=readonly --LabApp.news_url=None \
	  --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

bench: $(RACING)
	@$(BIN)/python -m pytest -q -n 0 --benchmark-group-by=group --benchmark-columns=min,rounds \
	  $(patsubst %,tests/bench/bench_%.py,$(or $(ONLY),method features))

audit: $(TESTING)
	@$(BIN)/python .ci/audit _build/audit.json $(AUDIT_SECONDS)

clean:
	rm -rf _build .snakemake .pytest_cache .ruff_cache .hypothesis
