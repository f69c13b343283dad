#!/usr/bin/env bash
# A SLURM of one node for the length of a command, all its files in a temporary folder; as root:
#
#     apt-get install -y --no-install-recommends slurm-wlm munge
#     bash tests/slurm.sh                               # checks launch/slurm.sbatch: tests/on_slurm.py
#     bash tests/slurm.sh srun --ntasks=2 hostname      # or any other command
#
# CPUS=4 is how many CPUs the node claims to have; PYTHON=... the Python that has gptjax's packages.
set -euo pipefail
for program in munged slurmctld slurmd; do
  command -v "$program" >/dev/null || {
    echo "tests/slurm.sh: no $program: apt-get install -y --no-install-recommends slurm-wlm munge" >&2
    exit 2
  }
done
[ "$(id -u)" = 0 ] || { echo "tests/slurm.sh: run it as root" >&2; exit 2; }

[ $# -gt 0 ] || set -- "${PYTHON:-python3}" "$(dirname "$0")/on_slurm.py"

dir=$(mktemp -d) host=$(hostname -s) pids=()
end() {
  jobs=$(squeue --noheader --format=%i 2>/dev/null) || jobs=
  if [ -n "$jobs" ]; then # what runs would outlive the daemons
    scancel $jobs || true
    for _ in $(seq 40); do [ -n "$(squeue --noheader 2>/dev/null)" ] || break; sleep 0.5; done
  fi
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait || true
  rm -rf "$dir"
}
trap end EXIT

chmod 755 "$dir"
mkdir -p "$dir/munge" "$dir/state" "$dir/spool"
head -c 1024 /dev/urandom >"$dir/munge/key"
chmod 700 "$dir/munge/key"
munged --foreground --force --key-file="$dir/munge/key" --socket="$dir/munge/socket" \
  --pid-file="$dir/munge/pid" --seed-file="$dir/munge/seed" --log-file="$dir/munge/log" 2>"$dir/munge/err" &
pids+=($!)

# cred_expire: a job that is requeued waits that long, 120 s without it.
cat >"$dir/slurm.conf" <<CONF
ClusterName=local
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$((26000 + RANDOM % 1000))
SlurmdPort=$((27000 + RANDOM % 1000))
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket,cred_expire=5
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
NodeName=$host NodeAddr=127.0.0.1 CPUs=${CPUS:-4} RealMemory=2000 State=UNKNOWN
PartitionName=local Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$dir/slurm.conf"
slurmctld -D -i 2>"$dir/slurmctld.err" &
pids+=($!)
slurmd -D 2>"$dir/slurmd.err" &
pids+=($!)

for _ in $(seq 60); do
  if [ "$(sinfo --noheader --format=%t 2>/dev/null)" = idle ]; then
    "$@"
    exit
  fi
  sleep 0.5
done
echo "tests/slurm.sh: SLURM does not start:" >&2
tail -n 20 "$dir"/*.log "$dir"/*.err "$dir/munge/log" >&2
exit 1
