# `make` or `make help` lists the commands. Everything lives in .venv; `make clean` removes it.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
INSTALLED := $(VENV)/installed
NBSTRIPOUT := --keep-output --keep-count --keep-id \
	--extra-keys "metadata.language_info.version cell.metadata.execution metadata.widgets"

SITE := build/site-venv
SITE_PY := $(SITE)/bin/python
PURELIB := import sysconfig; print(sysconfig.get_path("purelib"))
EXTRA := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["site"])

# JupyterLab's extension that shows decks: pinned in pyproject.toml, needed by no learner.
SLIDESHOW = $(PY) -c "import jupyterlab_slideshow" 2>/dev/null || \
	$(PY) -m pip install --quiet --disable-pip-version-check -e ".[slides]"

MINUTES ?= 30

.PHONY: help train test test-slow test-browser mutants soak audit lint lab notebooks student report slides wheelhouse site clean readme bench bench-readme processes
.DEFAULT_GOAL := help

help:  ## list the commands
	@grep -E '^[a-z-]+:.*## ' Makefile | sed -E 's/:.*## /|/' | awk -F'|' '{printf "  make %-12s %s\n", $$1, $$2}'

train: $(INSTALLED)  ## train on the built-in fables (about two minutes on two cores), then print a sample
	$(PY) -m moe_tutorial train $(ARGS)

test: lint  ## run the linter, the quick tests and the notebooks (three to five minutes on two cores)
	$(PY) -m pytest -n 2 --dist worksteal --ignore tests/browser -m "not slow" $(ARGS)
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 --dist loadfile --nbval --nbval-current-env \
		--nbval-sanitize-with tests/nbval.cfg -p no:cacheprovider notebooks
	$(PY) -m nbstripout --verify $(NBSTRIPOUT) notebooks/*.ipynb

test-slow: $(INSTALLED)  ## run the tests that start processes, kill, fill disks or try very much
	$(PY) -m pytest -n 2 --dist worksteal --ignore tests/browser -m slow $(ARGS)

test-browser: $(INSTALLED) site  ## move the sliders in JupyterLab and on the site in a browser (installs Debian's chromium)
	sh tools/chromium.sh
	$(SLIDESHOW)
	OMP_NUM_THREADS=1 $(PY) -m pytest tests/browser $(ARGS)

soak: $(INSTALLED)  ## the long tests: MINUTES=30 of training, then 20 of kills, texts and chapters
	OMP_NUM_THREADS=1 $(PY) tests/soak.py $(MINUTES)

audit: $(INSTALLED)  ## look up known vulnerabilities of the pinned packages (needs the network)
	$(PY) tools/audit.py

mutants: $(INSTALLED)  ## put faults into the library, one at a time, and list those no test sees (an hour)
	$(PY) -m pip install --quiet --disable-pip-version-check mutmut==3.8.1
	OMP_NUM_THREADS=1 $(PY) tools/mutants.py $(ARGS)

lint: $(INSTALLED)  ## check the style of the code
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

lab: $(INSTALLED)  ## open the notebooks in JupyterLab
	$(VENV)/bin/jupyter lab --notebook-dir=notebooks

notebooks: $(INSTALLED)  ## re-execute every notebook and store its outputs
	OMP_NUM_THREADS=1 $(PY) tools/notebooks.py

student: $(INSTALLED)  ## copy the notebooks without solutions into build/student
	$(PY) tools/notebooks.py --student build/student

site: $(SITE)/installed  ## build the course as pages that need no network, in build/site (needs npm; MODEL=folder: with its model)
	OMP_NUM_THREADS=1 $(SITE_PY) site/make_site.py $(if $(MODEL),--model-path "$(MODEL)")

report: $(INSTALLED)  ## judge returned notebooks, a folder per learner (CLASS=folder); runs their code
	$(PY) tools/report.py $(if $(CLASS),"$(CLASS)") $(ARGS)

slides: $(INSTALLED)  ## make decks of the notebooks in build/slides and open them in JupyterLab
	$(SLIDESHOW)
	$(PY) tools/slides.py
	$(VENV)/bin/jupyter lab --notebook-dir=build/slides

wheelhouse: $(INSTALLED)  ## download all wheels into build/wheelhouse, for a room without network
	$(PY) tools/wheelhouse.py $(ARGS)

readme: $(INSTALLED)  ## run the README's commands and refresh their output and the pictures
	sh tools/chromium.sh
	$(PY) tools/readme.py

bench: $(INSTALLED)  ## measure speed, memory and loss beside others (an hour; ARGS=--quick: 5 minutes)
	OMP_NUM_THREADS=1 $(PY) -m benchmarks $(ARGS)

bench-readme: $(INSTALLED)  ## put the tables of the last full `make bench` into README.md
	$(PY) -m benchmarks.report

processes: $(INSTALLED)  ## measure 1 and 2 processes on this machine and refresh the README's table
	$(PY) tools/processes.py

clean:  ## remove .venv and caches; trained models stay
	rm -rf $(VENV) $(SITE) .pytest_cache .ruff_cache .hypothesis *.egg-info
	find moe_tutorial tests -name __pycache__ -type d -exec rm -rf {} +

# Installs once, and again only when the versions change.
$(INSTALLED): requirements.txt pyproject.toml
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $(INSTALLED)

# An environment of its own that also sees .venv: the learner's packages stay as they are.
$(SITE)/installed: $(INSTALLED) pyproject.toml
	test -x $(SITE_PY) || $(PY) -m venv $(SITE)
	$(PY) -c '$(PURELIB)' > "$$($(SITE_PY) -c '$(PURELIB)')/course.pth"
	$(SITE_PY) -m pip install --quiet --disable-pip-version-check $$($(PY) -c '$(EXTRA)')
	touch $(SITE)/installed
