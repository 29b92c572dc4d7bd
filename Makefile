# Everything runs from .venv; the stamp is rebuilt when the dependencies change.
VENV := .venv
PY := $(VENV)/bin/python
PYTHON ?= python3

.PHONY: demo test test-fast lint format clean

demo: $(VENV)/.demo
	$(PY) cli.py submit --dataset sample --method gradshap --model efficientnet_lite0 --output runs/demo
	$(PY) cli.py status runs/demo
	$(PY) cli.py query runs/demo "select key, prediction, round(probability, 3) as probability, round(abs_sum, 2) as abs_sum, round(convergence_delta, 3) as delta from summary order by image"
	$(PY) cli.py show runs/demo 0 -o runs/demo.png

test: $(VENV)/.test
	$(PY) -m pytest

test-fast: $(VENV)/.test
	$(PY) -m pytest -m "not slow and not ray and not browser"

lint: $(VENV)/.test
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.test
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml attribution/elementwise.c attribution/products.c | $(VENV)/bin/python
	$(PY) -m pip install --quiet --editable ".[sample]"
	touch $@

$(VENV)/.test: pyproject.toml attribution/elementwise.c attribution/products.c | $(VENV)/bin/python
	$(PY) -m pip install --quiet --editable ".[sample,timm,test]"
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) runs build *.egg-info
