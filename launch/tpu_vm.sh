#!/usr/bin/env bash
# Trains on a Cloud TPU by gcloud: one host (v5litepod-1, -4, -8) or a pod slice of several.
#
#     bash launch/tpu_vm.sh create
#     bash launch/tpu_vm.sh train --config=configs/gpt.py --workdir=gs://my-bucket/gpt
#     bash launch/tpu_vm.sh watch | stop | delete
#
# Everything after `train` goes to `python -m gptjax.train` as it stands, on every host. --dry_run,
# before anything else, prints the commands and runs none.
#
# needs     gcloud, logged in, with a project that has the TPU API and a quota; git.
# settings  NAME=gptjax ZONE=us-central1-a TYPE=v5litepod-8 VERSION=v2-alpha-tpuv5-lite SPOT=yes;
#           a v6e: TYPE=v6e-8 VERSION=v2-alpha-tpuv6e. The TPU's service account has to be let
#           write to the bucket. A slice of several hosts (v5litepod-16 has four) needs a folder
#           that all of them see: NFS=10.0.0.2:/share is mounted as /mnt/shared, and
#           --workdir=/mnt/shared/... goes there, or gs:// with GPTJAX_CACHE_DIR=/mnt/shared/cache.
# costs     chips x hours (chip-hours) from `create` to `delete`, whether they are busy or not; SPOT=
#           costs more and is not taken away.
# watch     the first host's log; metrics.jsonl and, at the end, loss.png in the bucket; `fetch
#           runs/gpt` copies a work folder from the host's disk here.
# stop      `stop`: the run saves and ends, the TPU stays and costs. `delete`: all of it is gone,
#           but for a work folder on gs:// or NFS.
# continue  `train` with the same arguments. A TPU that was taken away: create, train; the run goes
#           on from gs:// or NFS.
set -euo pipefail

dry=
[ "${1:-}" != --dry_run ] || { dry=yes; shift; }
what=${1:-help}
[ $# = 0 ] || shift
spot=${SPOT-yes} name=${NAME:-gptjax} zone=(--zone="${ZONE:-us-central1-a}") tpu=(gcloud compute tpus tpu-vm)

run() {
  printf '%q ' "$@"
  echo
  [ -n "$dry" ] || "$@"
}
everywhere() { run "${tpu[@]}" ssh "$name" "${zone[@]}" --worker=all --command="$1"; }
first() { run "${tpu[@]}" ssh "$name" "${zone[@]}" --worker=0 --command="$1"; }

case $what in
  create)
    run "${tpu[@]}" create "$name" "${zone[@]}" --accelerator-type="${TYPE:-v5litepod-8}" \
      --version="${VERSION:-v2-alpha-tpuv5-lite}" ${spot:+--spot}
    # The image's Python may be older than 3.11.
    everywhere 'python3 -m pip install --user --quiet uv && ~/.local/bin/uv python install 3.12'
    [ -z "${NFS:-}" ] || everywhere "sudo apt-get install -y -q nfs-common && sudo mkdir -p /mnt/shared && sudo mount -t nfs $NFS /mnt/shared"
    ;;
  train)
    archive=${TMPDIR:-/tmp}/gptjax-$name.tar.gz
    run git -C "$(dirname "$0")/.." archive --prefix=gptjax/ --output="$archive" HEAD
    run "${tpu[@]}" scp "$archive" "$name":gptjax.tar.gz "${zone[@]}" --worker=all
    arguments=$(printf '%q ' "$@")
    # In the background, so that it outlives this connection.
    everywhere "tar -xzf gptjax.tar.gz && cd gptjax && export GPTJAX_PYTHON=\$(~/.local/bin/uv python find 3.12) ${GPTJAX_CACHE_DIR:+GPTJAX_CACHE_DIR=$GPTJAX_CACHE_DIR }&& { nohup bash launch/train.sh ${arguments}>> ~/train.log 2>&1 < /dev/null & echo \$! > ~/train.pid; }"
    ;;
  watch) first 'tail -n 50 -F train.log' ;;
  stop) everywhere 'kill -TERM $(cat train.pid)' ;;
  fetch) run "${tpu[@]}" scp --recurse "$name":gptjax/"${1:?which work folder?}" . "${zone[@]}" --worker=0 ;;
  delete) run "${tpu[@]}" delete "$name" "${zone[@]}" --quiet ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
    [ "$what" = help ] || { echo "gptjax: $what is none of create, train, watch, stop, fetch, delete" >&2; exit 2; }
    ;;
esac
