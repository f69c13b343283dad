"""What schedulers say in the environment, and what flags say; a process that is alone stays so."""

import os
import re

import pytest

from gptjax.errors import UserError
from gptjax.processes import schedulers
from gptjax.processes.schedulers import Place
from gptjax.runtime import devices

SLURM = {"JOB_ID": "70001", "STEP_NODELIST": "n1", "NTASKS": "6", "PROCID": "4", "LOCALID": "1"}
SLURM = {f"SLURM_{name}": value for name, value in SLURM.items()}
URI = "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911"
MPI = {
    "OMPI_MCA_orte_hnp_uri": URI,
    "OMPI_COMM_WORLD_SIZE": "3",
    "OMPI_COMM_WORLD_RANK": "2",
}
GKE = {"TPU_WORKER_HOSTNAMES": "w-0.tpu,w-1.tpu,w-2.tpu,w-3.tpu", "TPU_WORKER_ID": "3"}
SLICES = {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}
SLICES["MEGASCALE_COORDINATOR_ADDRESS"] = "s0-0.tpu:8080"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in os.environ:
        if re.match("SLURM|OMPI|TPU|MEGASCALE", name):
            monkeypatch.delenv(name)
    return lambda **values: [monkeypatch.setenv(*item) for item in values.items()]


@pytest.mark.parametrize(
    ("said", "place"),
    [
        ({}, None),
        (SLURM, Place("n1", 61440 + 70001 % 4096, 4, 6, "SLURM")),
        (SLURM | {"SLURM_NTASKS": "1", "SLURM_PROCID": "0"}, None),
        ({n: v for n, v in SLURM.items() if n != "SLURM_STEP_NODELIST"}, None),  # beside srun
        (MPI, Place("10.96.0.1", 61440 + (1531576320 >> 12) % 4096, 2, 3, "Open MPI")),
        (MPI | {"OMPI_COMM_WORLD_SIZE": "1", "OMPI_COMM_WORLD_RANK": "0"}, None),
        (GKE, Place("w-0.tpu", 8482, 3, 4, "TPU")),
        (GKE | SLICES, Place("s0-0.tpu", 8482, 7, 8, "TPU")),
        ({"TPU_WORKER_HOSTNAMES": "localhost", "TPU_WORKER_ID": "0"}, None),
        ({"TPU_PROCESS_ADDRESSES": "local"}, None),  # Kaggle's
    ],
)
def test_only_a_scheduler_of_several_processes_is_believed(said, place, environment):
    environment(**said)
    assert schedulers.detected() == place


@pytest.mark.parametrize("nodes", ["n07", "n07,m1", "n[07-12],m1", "n[07,09-12]", "n[07]"])
def test_the_first_node_of_a_list(nodes, environment):
    environment(**SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert schedulers.detected().host == "n07"


def test_of_open_mpi_an_address_of_ipv6(environment):
    environment(**MPI | {"OMPI_MCA_orte_hnp_uri": "8192.0;tcp6://[fe80::b9b,2620::2]:43370"})
    assert schedulers.detected().coordinator == "[fe80::b9b]:61442"


def test_a_tpu_vm_is_asked_and_other_machines_are_not(monkeypatch):
    asked = []
    told = {
        "worker-network-endpoints": "a:1:10.0.0.7,b:2:10.0.0.8",
        "agent-worker-number": "1",
        "tpu-env": "ZONE: 'x'\nMEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '2'\n",
    }
    monkeypatch.setattr(schedulers, "_metadata", lambda key: asked.append(key) or told[key])
    monkeypatch.setattr(devices, "guess_platform", lambda: ("gpu", ""))
    assert schedulers.detected() is None and asked == []
    monkeypatch.setattr(devices, "guess_platform", lambda: ("tpu", ""))
    assert schedulers.detected() == Place("10.0.0.7", 8482, 5, 6, "TPU")
    told["tpu-env"], told["worker-network-endpoints"] = "", "10.0.0.7"
    assert schedulers.detected() is None


def test_flags_are_all_given_or_none():
    assert schedulers.named("", None, None) is None
    assert schedulers.named("node1:4000", 0, 2) == Place("node1", 4000, 0, 2)
    assert schedulers.named("[fe80::1]:4000", 1, 2).coordinator == "[fe80::1]:4000"


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (("node1:4000", None, 2), "--process_id missing"),
        (("", 0, None), "--coordinator and --num_processes missing"),
        (("node1", 0, 2), "--coordinator=node1 is not host:port"),
        ((":4000", 0, 2), "is not host:port"),
        (("node1:70000", 0, 2), "is not host:port"),
        (("node1:4000", 2, 2), "--process_id=2 of --num_processes=2: .* from 0 to 1"),
        (("node1:4000", -1, 2), "--process_id=-1 of"),
        (("node1:4000", 0, 0), "--num_processes=0"),
    ],
)
def test_flags_that_do_not_fit_are_named(flags, line):
    with pytest.raises(UserError, match=line):
        schedulers.named(*flags)
