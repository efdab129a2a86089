# make demo | judge | test | bench | serve | lint | archive | clean. Each does its own set-up first; see README.md.
# make test-core needs no set-up: Python with the packages of tools/requirements-core.txt is enough.
# Settings: COMFYUI=path (use that ComfyUI), PORT=8188, SUITE=name (one benchmark), DEVICE=gpu, ARGS="-k word" (tests).
PYTHON ?= python3
SUITE ?=
CHECKPOINT ?=
MEGAPIXELS ?=
SET ?=
PORT ?= 8188
ARGS ?=
export PORT DEVICE COMFYUI COMFYUI_PYTHON CHECKPOINT MEGAPIXELS SET URL TECHNIQUES CASES STEPS CFG VISION TEXT DINO

# The pack is imported as `palimpsest`; the safe path keeps its folders from hiding the host's modules.
RUN = PYTHONPATH=.host/packages PYTHONSAFEPATH=1 OMP_NUM_THREADS=1 "$$(cat .host/python)"

.PHONY: all demo judge serve test test-core test-portable bench lint archive readme families train thumbnails stamp blueprints setup venv clean distclean

all: demo

setup:
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "Python 3.11, 3.12 or 3.13 is needed and there is no $(PYTHON): install it with its venv module (Debian, Ubuntu: sudo apt install python3 python3-venv) and run the command again." >&2; exit 1; }
	@$(PYTHON) -m tools.setup

# The tests, the benchmarks and the tables need the project's own environment, whatever COMFYUI says.
venv: COMFYUI =
venv: setup

demo: setup
	@$(RUN) -m palimpsest.tools.demo

# The templates on a benchmark of the field, on a model of one's own: COMFYUI=path CHECKPOINT=name SET=folder make judge.
# All settings are in benchmarks/judge/run.py; the table and the page come into judged/.
judge: setup
	@$(RUN) -m palimpsest.benchmarks.judge.run

serve: setup
	@$(RUN) -m palimpsest.tools.serve

# In as many processes as there are cores, up to four of 4 GB each; a single file in one. ARGS="-n 0" keeps all in one.
test: venv
	@OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n auto $(ARGS); code=$$?; echo $$code > .host/test-exit-code; exit $$code

# The tests that need no ComfyUI, in the project's environment or, without one, in $(PYTHON).
test-core:
	@python=.venv/bin/python; [ -x $$python ] || python="$(PYTHON)"; \
	  $$python -c "import einops, kornia, pytest, scipy, torch, torchvision, xdist" 2>/dev/null || { \
	  echo "The core tests need a few packages: run '$(PYTHON) -m pip install -r tools/requirements-core.txt' and the command again." >&2; exit 1; }; \
	  OMP_NUM_THREADS=1 $$python -m pytest -n auto -m core $(ARGS)

# The same on stand-ins for other CPUs, with the list of tests by margin, then the whole suite; ARGS=core or ARGS=whole: one
# of the two. What they say is in .host/portable.log.
test-portable: venv
	@.venv/bin/python -m tools.portable $(ARGS)

bench: venv
	@$(RUN) -m palimpsest.benchmarks.run $(SUITE); code=$$?; $(RUN) -m palimpsest.tools.readme; exit $$code

# A command of papercut/, where the weights' recipes are: make train ARGS="train_flow_transformer --help"
train: venv
	@$(RUN) -m palimpsest.papercut.$(ARGS)

readme: venv
	@$(RUN) -m palimpsest.tools.readme

# The README's table of techniques by family of models, by the test that tries them.
families: venv
	@FAMILIES=write OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q tests/host/test_families.py

# After a look at the demo's gallery: the pictures of the Templates dialog.
thumbnails: venv
	@$(RUN) -m palimpsest.tools.thumbnails

# Of which pack and version the nodes in examples and blueprints are; needs no set-up.
stamp:
	@$(PYTHON) -m tools.stamp

# The blueprints, their templates and the prompts for programs, all of which a test compares.
blueprints: setup
	@$(RUN) -m palimpsest.tools.blueprints

lint: venv
	@.venv/bin/python -m pip install --quiet --constraint tools/constraints.txt ruff mypy
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m ruff format --check .
	@.venv/bin/python -m mypy

# What the registry would get; needs no set-up.
archive:
	@$(PYTHON) -m tools.archive

clean:
	rm -rf demo .pytest_cache .host/base/output .host/base/temp .host/tmp .host/*.log
	find . -name __pycache__ -type d -not -path './.venv/*' -not -path './.host/ComfyUI/*' -prune -exec rm -rf {} +

# Everything that the set-up made; the next command makes it anew.
distclean: clean
	rm -rf .venv .host
