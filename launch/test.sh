#!/usr/bin/env bash
# Lints and runs every test: `bash launch/test.sh`. Arguments go to pytest:
#
#     bash launch/test.sh tests/data/batching_test.py -k windows
#
# --peers, before them, installs PyTorch and transformers (for the CPU, where that can be had alone)
# and compares our models, texts and files with theirs; --browser installs playwright and opens the
# pages in the Chromium that is on PATH. Without them those tests are skipped.
# GPTJAX_SLOW=1 adds what takes minutes: a step of GPT-2's 124 M parameters, the notes' GPT compiled
# for a TPU (where the package libtpu is; without it no test compiles for one). With a server that
# speaks S3 (pip install moto[server] s3fs) texts and work folders there are tested.
# The corpora come from GPTJAX_DATA_DIR, else from ../shared/data where that folder exists.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd -P)
with_tests=yes with_server=${GPTJAX_S3:-} with_peers= with_browser=
while :; do
  case ${1:-} in
    --peers) with_peers=yes ;;
    --browser) with_browser=yes ;;
    *) break ;;
  esac
  shift
done
. "$root/launch/venv.sh"
cd "$root"

if [ -z "${GPTJAX_DATA_DIR:-}" ] && [ -d "$root/../shared/data" ]; then
  GPTJAX_DATA_DIR=$(cd "$root/../shared/data" && pwd -P)
  export GPTJAX_DATA_DIR
fi

lint=0
"$python" -m ruff check . || lint=1
"$python" -m ruff format --check . || lint=1
[ "$lint" = 0 ] || echo "gptjax: lint failed (above); the tests run all the same, the exit code will be 1"

# Two processes: most of the time is XLA compiling, one module on one core. A file stays whole on
# one worker, so that its fixtures are made once.
tests=0
"$python" -m pytest -n 2 --dist loadfile --durations=10 "$@" || tests=$?
[ "$tests" = 0 ] || exit "$tests"
exit "$lint"
