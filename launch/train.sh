#!/usr/bin/env bash
# From a fresh clone to a trained GPT and a sample of its text:
#
#     bash launch/train.sh                                   # configs/gpt.py, sized for this machine
#     bash launch/train.sh --config=configs/mlp_names.py     # another model
#     bash launch/train.sh --config.data.path=my.txt         # your own text
#
# Everything after train.sh goes to `python -m gptjax.train` as it stands. How Python is found and
# where packages are installed: launch/venv.sh and launch/install.py.
set -euo pipefail

script=$0
while [ -L "$script" ]; do # a link to this file may lie anywhere; macOS has no readlink -f
  link=$(readlink "$script")
  case $link in /*) script=$link ;; *) script=$(dirname "$script")/$link ;; esac
done
root=$(cd "$(dirname "$script")/.." && pwd -P)
. "$root/launch/venv.sh"

for argument in "$@"; do
  case $argument in
    --config=* | --config | -config=* | -config) exec "$python" -m gptjax.train "$@" ;;
  esac
done
exec "$python" -m gptjax.train --config="$root/configs/gpt.py" "$@"
