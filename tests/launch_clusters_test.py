"""The launchers of clusters: slurm.sbatch, tpu_vm.sh, gke_jobset.yaml and skypilot.yaml.

Nothing is started but bash, with fakes of SLURM's commands; tests/slurm.sh is the real thing.
"""

import os
import re
import shlex
import subprocess
from pathlib import Path

import launch_test
import pytest
import yaml
from launch_test import BASH, ROOT, needs_bash, write

from gptjax.cli import flags
from gptjax.train import FLAGS

LAUNCH = ROOT / "launch"
LAUNCHERS = ["slurm.sbatch", "tpu_vm.sh", "gke_jobset.yaml", "skypilot.yaml"]
clone = launch_test.clone

SRUN = """#!/bin/sh
[ "$1" = --kill-on-bad-exit=0 ] && shift
"$@"
[ -z "$TELL" ] || kill -TERM $PPID
exit $SRUN
"""


def header(name):
    """The comment at a launcher's top."""
    lines = (LAUNCH / name).read_text("utf-8").splitlines()
    lines = lines[lines[0].startswith("#!") :]
    return "\n".join(
        line[2:] for line in lines[: next(i for i, x in enumerate(lines) if x[:1] != "#")]
    )


def reads(arguments, monkeypatch):
    """The flags of the trainer's command line; a UserError if it does not parse."""
    monkeypatch.chdir(ROOT)
    return flags.read(["gptjax.train", *arguments], FLAGS, config=True)


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_header_alone_says_how_to_start_watch_stop_continue_and_what_it_costs(name):
    text = header(name)
    for word in ("needs", "costs", "watch", "stop", "continue"):
        assert re.search(rf"^{word} {{2,}}\S", text, re.M), word
    assert re.search(r"-hours", text) and not re.search(r"[$€]\d|USD|\d+ (dollars|euros)", text)
    assert f"launch/{name}" in text and "python -m gptjax.train" in text
    assert len((LAUNCH / name).read_text("utf-8").splitlines()) <= 80


@pytest.mark.parametrize("name", LAUNCHERS)
def test_the_command_lines_that_are_shown_parse(name, monkeypatch):
    source = (LAUNCH / name).read_text("utf-8")
    shown = re.findall(r"--(?:config|workdir)[.\w]*=[^\s\"#\\]+", source)
    shown = [flag for flag in shown if "..." not in flag]
    assert any(flag.startswith("--config=") for flag in shown)
    for flag in shown:
        config = [] if flag.startswith("--config=") else ["--config=configs/gpt.py"]
        reads([*config, flag], monkeypatch)


@needs_bash
@pytest.mark.parametrize("script", ["launch/slurm.sbatch", "launch/tpu_vm.sh", "tests/slurm.sh"])
def test_bash_can_read_every_script(script):
    subprocess.run([BASH, "-n", str(ROOT / script)], check=True)


@needs_bash
@pytest.mark.parametrize(
    ("code", "tell", "restarts", "requeued"),
    [
        (0, "", 0, False),
        (2, "", 0, False),  # a mistake stays one
        (75, "", 0, True),
        (75, "", 3, False),  # RESTARTS=3 in this test
        (75, "yes", 0, False),  # scancel tells the shell, too
        (137, "", 2, True),
    ],
)
def test_a_slurm_job_is_queued_again_only_if_that_helps(code, tell, restarts, requeued, clone):
    for name, text in {"srun": SRUN, "scontrol": '#!/bin/sh\necho "$@" >"$CALLS.scontrol"'}.items():
        write(clone.bin / name, text, mode=0o755)
    write(clone.bin / "sleep", "#!/bin/sh", mode=0o755)
    said = {"SLURM_SUBMIT_DIR": str(clone.root), "SLURM_JOB_ID": "17", "RESTARTS": "3"}
    said |= {"SLURM_RESTART_COUNT": str(restarts), "SRUN": str(code), "TELL": tell}
    arguments = ["--config=configs/gpt.py", "--config.data.path=my text.txt"]
    result = clone.run("launch/slurm.sbatch", *arguments, **said)
    assert result.returncode == code, result.stderr
    assert [call["argv"] for call in clone.calls("train")] == [arguments]
    asked = Path(f"{clone.log}.scontrol")
    assert (asked.read_text("utf-8") if asked.exists() else "") == "requeue 17\n" * requeued


@needs_bash
def test_a_slurm_job_away_from_the_clone_says_so(clone, tmp_path):
    result = clone.run("launch/slurm.sbatch", SLURM_SUBMIT_DIR=str(tmp_path))
    assert result.returncode == 2 and "submit from there" in result.stderr


def test_slurm_tells_the_tasks_before_the_time_is_up_and_never_hides_gpus():
    source = (LAUNCH / "slurm.sbatch").read_text("utf-8")
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", source, re.M))
    assert asked["signal"] == "TERM@120" and "requeue" in asked and asked["open-mode"] == "append"
    assert "gpus-per-task" not in asked and "--gres=gpu:" in header("slurm.sbatch")


def gcloud(*words, **variables):
    """The commands that tpu_vm.sh would run, as lists of words."""
    env = {k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "TMPDIR")} | variables
    command = [BASH, str(LAUNCH / "tpu_vm.sh"), "--dry_run", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


TPU = ["gcloud", "compute", "tpus", "tpu-vm"]


@needs_bash
@pytest.mark.parametrize(
    ("variables", "flags", "mounts"),
    [
        ({}, ["v5litepod-8", "v2-alpha-tpuv5-lite", "--spot"], False),
        (
            {"TYPE": "v6e-16", "VERSION": "v2-alpha-tpuv6e", "SPOT": ""},
            ["v6e-16", "v2-alpha-tpuv6e"],
            False,
        ),
        (
            {"TYPE": "v5litepod-16", "NFS": "10.0.0.2:/share"},
            ["v5litepod-16", "v2-alpha-tpuv5-lite", "--spot"],
            True,
        ),
    ],
)
def test_a_tpu_of_one_host_or_a_slice_is_created(variables, flags, mounts):
    create, python, *mount = gcloud("create", ZONE="eu-1", **variables)
    kind, version, *spot = flags
    wanted = [*TPU, "create", "gptjax", "--zone=eu-1", f"--accelerator-type={kind}"]
    assert create == [*wanted, f"--version={version}", *spot]
    assert "--worker=all" in python and "uv python install 3.12" in python[-1]
    assert bool(mount) == mounts
    if mount:
        assert mount[0][-1].endswith("sudo mount -t nfs 10.0.0.2:/share /mnt/shared")


@needs_bash
def test_arguments_reach_every_host_of_a_tpu_unchanged():
    arguments = ["--config.data.path=my text.txt", "*", "", "it's $HOME"]
    archive, copy, start = gcloud("train", *arguments, NAME="mine")
    assert archive[0] == "git" and copy[:5] == [*TPU, "scp"]
    assert {"mine:gptjax.tar.gz", "--worker=all"} < set(copy)
    assert start[:6] == [*TPU, "ssh", "mine"] and "--worker=all" in start
    remote = start[-1].removeprefix("--command=")
    inner = re.search(r"nohup bash launch/train.sh (.*)>> ~/train.log", remote)[1]
    assert shlex.split(inner) == arguments
    subprocess.run([BASH, "-n", "-c", remote], check=True)


@needs_bash
def test_a_tpu_is_watched_stopped_fetched_and_deleted():
    assert "--worker=0" in gcloud("watch")[0]
    (stop,) = gcloud("stop")
    assert "--worker=all" in stop and "kill -TERM" in stop[-1]
    assert "gptjax:gptjax/runs/gpt" in gcloud("fetch", "runs/gpt")[0]
    assert gcloud("delete", NAME="mine")[0][4:6] == ["delete", "mine"]
    wrong = subprocess.run(
        [BASH, str(LAUNCH / "tpu_vm.sh"), "dance"], capture_output=True, text=True
    )
    assert wrong.returncode == 2 and "dance is none of create" in wrong.stderr


def test_the_jobset_is_one_of_version_v1alpha2_and_its_hosts_fill_its_slice(monkeypatch):
    """Its published schema is too long to lie here; these are the parts that people get wrong."""
    jobset = yaml.safe_load((LAUNCH / "gke_jobset.yaml").read_text("utf-8"))
    assert set(jobset) == {"apiVersion", "kind", "metadata", "spec"}
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert set(jobset["spec"]) == {"failurePolicy", "replicatedJobs"}
    failure = jobset["spec"]["failurePolicy"]
    assert failure["maxRestarts"] > 0 and failure["rules"][0]["action"] == "FailJobSet"
    assert failure["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    (slice_,) = jobset["spec"]["replicatedJobs"]
    assert set(slice_) == {"name", "replicas", "template"}
    job = slice_["template"]["spec"]
    assert job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    assert job["backoffLimit"] == 0, "the JobSet starts all again, not one pod alone"
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "what a podFailurePolicy asks for"
    assert pod["terminationGracePeriodSeconds"] >= 60
    (container,) = pod["containers"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob" and rule["onExitCodes"]["containerName"] == container["name"]
    assert rule["onExitCodes"]["values"] == [2] and rule["onExitCodes"]["operator"] == "In"
    rows, columns = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")
    chips = container["resources"]["limits"]["google.com/tpu"]
    assert int(rows) * int(columns) == chips * job["completions"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    args = reads(container["args"], monkeypatch)
    assert args.workdir.startswith(mounts["shared"] + "/"), (
        "else every host has a folder of its own"
    )


def test_the_skypilot_task_recovers_and_trains_one_process_per_machine(monkeypatch):
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text("utf-8"))
    known = {"name", "resources", "num_nodes", "workdir", "file_mounts", "envs", "setup", "run"}
    assert set(task) == known
    assert task["resources"]["use_spot"] is True
    assert 75 in task["resources"]["job_recovery"]["recover_on_exit_codes"]
    (mount,) = task["file_mounts"]
    (command,) = re.findall(r"exec bash launch/train.sh (.*)", task["run"].replace("\\\n", " "))
    echo = 'for a in "$@"; do printf "%s\\n" "$a"; done'
    env = {"PATH": os.environ["PATH"], **task["envs"], "SKYPILOT_NODE_IPS": "10.0.0.4\n10.0.0.5"}
    env |= {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}
    script = f"set -- {command}\n{echo}"
    shown = subprocess.run(
        [BASH, "-c", script], env=env, capture_output=True, text=True, check=True
    )
    args = reads(shown.stdout.splitlines(), monkeypatch)
    assert (args.coordinator, args.process_id, args.num_processes) == ("10.0.0.4:4000", 1, 2)
    assert args.workdir.startswith(mount + "/")
