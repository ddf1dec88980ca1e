# make demo   sets everything up and does the main job on real files
# make test   sets everything up and runs the whole suite
# make lint   style and types
# make docs   writes the command reference
# make crash  kills the program 200 times, and looks at what is left
# make trees  tries thousands of trees: archived, changed, archived again, restored
# make tour   writes docs/tour.md, a transcript of a real run
# make wheel  builds a wheel, installs it apart from all this, and does the main job with it
# make man    writes the man pages into build/man
# make cuts   cuts 200 connections of each kind, and checks that nothing is lost
# make bench  compares with the rivals that are installed
# make damage 1,000 damages to an archive: what is found, restored and named
# make fuzz   ten minutes of hostile input for every decoder
# make load   a million files, 200 GB, 100 runs, 10,000 snapshots: about an hour

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: cuts demo test lint format docs tour wheel man bench load crash trees fuzz damage clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/python bench/demo.py

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed
	$(BIN)/python bench/reference.py

tour: $(VENV)/.installed
	$(BIN)/python bench/tour.py

wheel: $(VENV)/.installed
	rm -rf build/wheel
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/pip install --quiet build/wheel/*.whl
	build/wheel/venv/bin/python bench/demo.py build/wheel/demo

man: $(VENV)/.installed
	$(BIN)/python bench/manpages.py

bench: $(VENV)/.installed
	$(BIN)/python bench/compare.py

load: $(VENV)/.installed
	nice $(BIN)/python bench/load.py

crash: $(VENV)/.installed
	PYARCHIVER_CRASH=all $(BIN)/python -m pytest -n 2 tests/test_crash*.py tests/test_cas_thaw.py
	PYTHONPATH=tests $(BIN)/python tests/kill_campaign.py 200

trees: $(VENV)/.installed
	PYARCHIVER_TREES=3000 $(BIN)/python -m pytest tests/test_cas_roundtrip.py -k any_tree

fuzz: $(VENV)/.installed
	nice $(BIN)/python tests/fuzz.py --seconds 600

damage: $(VENV)/.installed
	PYARCHIVER_DAMAGE=1000 nice $(BIN)/python -m pytest -s tests/test_damage.py -k random_damage

clean:
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

cuts: $(VENV)/.installed
	PYARCHIVER_CUTS=200 $(BIN)/python -m pytest tests/test_sftp_cuts.py
