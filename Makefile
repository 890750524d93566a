# The commands of the house. tools/run.py does the work (standard library only); this file finds a
# Python to start it with. Variables: PYTHON=python3.12  TORCH=2.11.0  POMONA_CUDA=0|1  JOBS=4  CI=true
COMMANDS := setup build demo test bench fuzz format lint gpu clean
.PHONY: help $(COMMANDS)

help:
	@sed -n 's/^# make /make /p' Makefile
# make setup    .venv with pinned packages, missing system packages where it can, the library built
# make build    what setup does, and the C++ tests and examples
# make demo     one network from training to a small file that runs, then DSD; a table at the end
# make test     builds everything, runs all C++ and Python tests
# make bench    runs benchmarks/, writes benchmarks/results/
# make fuzz     each fuzzer for an hour (SECONDS=3600)
# make format   formats C++, CUDA and Python
# make lint     formatting, ruff, include rules, generated documents
# make gpu      the CUDA tests with the system's Python and torch: no .venv, no network
# make clean    removes build/ and what was installed into python/pomona

export PYTHON TORCH POMONA_CUDA JOBS CI SECONDS

$(COMMANDS):
	@python=$$(sh tools/find_python.sh) && exec "$$python" tools/run.py $@
