# Sourced by train.sh and test.sh, with $root set. Finds a Python >= 3.11, has launch/install.py give
# it what gptjax needs (in .venv, unless this Python has a working jax), and sets $python to it.
#
#   GPTJAX_PYTHON=python3.12           the Python to start from (or PYTHON=...)
#   GPTJAX_VENV=DIR | none             another folder than .venv | install into this very Python
#   GPTJAX_PLATFORM=cpu|cuda12|cuda13|tpu   the jax wheels, instead of what the machine looks like

is_python() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null >/dev/null 2>&1; }

python=${GPTJAX_PYTHON:-${PYTHON:-}}
if [ -n "$python" ]; then
  if ! is_python "$python"; then
    echo "gptjax: $python (from GPTJAX_PYTHON or PYTHON) does not run as Python 3.11 or newer" >&2
    exit 2
  fi
else
  # python3 first: an active environment should win over a newer Python elsewhere on PATH.
  for candidate in python3 python python3.13 python3.12 python3.11 python3.14; do
    if is_python "$candidate"; then
      python=$candidate
      break
    fi
  done
  if [ -z "$python" ]; then
    echo "gptjax: needs Python 3.11 or newer, found none on PATH; install one from python.org" \
      "or your package manager, or name it: GPTJAX_PYTHON=/path/to/python3" >&2
    exit 2
  fi
fi

python=$("$python" "$root/launch/install.py" ${with_tests:+--tests})

# gptjax runs from this clone, whatever the folder one stands in; relative paths stay the user's.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# By default JAX takes 75 % of the GPU's memory at start. Our models need far less, and a screen, a
# second run or `gptjax.sample` beside a training should still find room. Set it to true for speed.
export XLA_PYTHON_CLIENT_PREALLOCATE="${XLA_PYTHON_CLIENT_PREALLOCATE:-false}"
