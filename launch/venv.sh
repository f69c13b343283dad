# Sourced by train.sh and test.sh, with $root set; sets $python to one that has what gptjax needs.
# GPTJAX_PYTHON=python3.12 (or PYTHON=...) names the one to start from; more variables: install.py.
candidates=("${GPTJAX_PYTHON:-${PYTHON:-}}")
# python3 first: an active environment should win over a newer Python elsewhere on PATH.
[ -n "$candidates" ] || candidates=(python3 python python3.13 python3.12 python3.11 python3.14)
for python in "${candidates[@]}" ""; do
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' </dev/null &>/dev/null && break
done
if [ -z "$python" ]; then
  echo "gptjax: no Python 3.11 or newer (tried ${candidates[*]}); GPTJAX_PYTHON=PATH names one" >&2
  exit 2
fi
stores=() # with which of them the arguments want to work
for store in gs s3; do
  case " $* " in *=$store://*) stores+=("--$store") ;; esac
done
python=$("$python" "$root/launch/install.py" ${with_tests:+--tests} ${with_server:+--s3-server} \
  ${with_peers:+--peers} ${with_browser:+--browser} ${stores[@]+"${stores[@]}"})
# gptjax runs from this clone, whatever the folder one stands in; relative paths stay the user's.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
# JAX takes 75 % of a GPU's memory at once if it may (true: faster), and a second run finds no room.
export XLA_PYTHON_CLIENT_PREALLOCATE="${XLA_PYTHON_CLIENT_PREALLOCATE:-false}"
