"""Which process of how many this is, and where the first one is, as a scheduler says it.

In: the environment of SLURM, Open MPI or a TPU slice, as ``jax.distributed`` reads it. Out: a
``Place``, or None for a process that is alone. Importing this file imports no jax.
"""

import contextlib
import dataclasses
import functools
import os
import re
import urllib.request

from gptjax.errors import UserError
from gptjax.runtime import devices

_SLURM = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
_MPI = ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
_TPU_PORT = 8482
_METADATA = "http://metadata.google.internal/computeMetadata/v1/instance/attributes/"


@dataclasses.dataclass(frozen=True)
class Place:
    """One of several processes: its number, and host and port of number 0."""

    host: str
    port: int
    index: int
    count: int
    scheduler: str = ""

    @property
    def coordinator(self) -> str:
        """As JAX writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def named(coordinator: str, process_id: int | None, num_processes: int | None) -> Place | None:
    """What the flags say; None where they say nothing, a UserError where it does not fit."""
    flags = {"--coordinator": coordinator or None}
    flags |= {"--process_id": process_id, "--num_processes": num_processes}
    missing = [name for name, value in flags.items() if value is None]
    if len(missing) == len(flags):
        return None
    if missing:
        raise UserError(
            f"{' and '.join(missing)} missing: each of several processes is told --coordinator="
            "host:port, --num_processes and its own --process_id"
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise UserError(f"--coordinator={coordinator:.80} is not host:port, such as 10.0.0.2:4000")
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise UserError(
            f"--process_id={process_id} of --num_processes={num_processes}: they are numbered from "
            f"0 to {max(num_processes - 1, 0)}"
        )
    return Place(host.strip("[]"), int(port), process_id, num_processes)


def detected() -> Place | None:
    """What a scheduler says, where there is one and it has started more than one process.

    JAX itself would also start for a SLURM job of one task.
    """
    place = _slurm() or _open_mpi() or _tpu()
    return place if place and place.count > 1 else None


def _slurm() -> Place | None:
    if not all(f"SLURM_{name}" in os.environ for name in _SLURM):
        return None
    # node001 | node001,host2 | node[001-015,020],host2
    nodes = re.match(r"([^,\[]*)(?:\[([^,\-\]]+))?", os.environ["SLURM_STEP_NODELIST"])
    host = nodes[1] + (nodes[2] or "")
    count, index = _number("SLURM_NTASKS"), _number("SLURM_PROCID")
    return Place(host, _port(_number("SLURM_JOB_ID")), index, count, "SLURM")


def _open_mpi() -> Place | None:
    if not all(name in os.environ for name in _MPI):
        return None
    uri, count, index = (os.environ[name] for name in _MPI)
    # 1531576320.0;tcp://10.96.0.1,10.148.0.1:34911 or tcp6://[fe80::b9b,2620::2]:43370
    found = re.match(r"(\d+)\..*?(?:tcp://([^,:]+)|tcp6://\[([^,\]]+))", uri)
    if not found:
        return None
    host = found[2] or found[3]
    return Place(host, _port(int(found[1]) >> 12), int(index), int(count), "Open MPI")


def _port(job: int) -> int:
    """Of a job, among the last 4096: what JAX takes."""
    return 65536 - 4096 + job % 4096


def _tpu() -> Place | None:
    """A TPU slice, or several: GKE says it in the environment, a TPU's VM in its metadata."""
    hosts = os.environ.get("TPU_PROCESS_ADDRESSES", os.environ.get("TPU_WORKER_HOSTNAMES"))
    slices = {}
    if hosts is not None:
        index = _number("TPU_WORKER_ID")
    else:
        if "TPU_SKIP_MDS_QUERY" in os.environ or devices.guess_platform()[0] != "tpu":
            return None
        hosts, number = _metadata("worker-network-endpoints"), _metadata("agent-worker-number")
        if not hosts or not number.isdecimal():
            return None
        index = int(number)
        slices = dict(re.findall(r"(MEGASCALE_\w+)\s*:\s*'?([^'\n]*)", _metadata("tpu-env")))
    # Of name:number:address the address counts; a name may have a port.
    parts = [host.strip().split(":") for host in hosts.split(",")]
    names = [part[2] if len(part) == 3 else part[0] for part in parts]
    slices |= {name: os.environ[name] for name in os.environ if name.startswith("MEGASCALE_")}
    count = int(slices.get("MEGASCALE_NUM_SLICES") or 1) * len(names)
    index += int(slices.get("MEGASCALE_SLICE_ID") or 0) * len(names)
    host = slices.get("MEGASCALE_COORDINATOR_ADDRESS", "").split(":")[0] or names[0]
    return Place(host, _TPU_PORT, index, count, "TPU")


@functools.cache  # a start asks twice, and may wait for seconds each time
def _metadata(key: str) -> str:
    """An attribute of a virtual machine of Google's; "" if there is none."""
    request = urllib.request.Request(_METADATA + key, headers={"Metadata-Flavor": "Google"})
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=3) as answer:
        return answer.read(1 << 20).decode("ascii", "replace")
    return ""


def _number(name: str) -> int:
    text = os.environ.get(name, "")
    return int(text) if re.fullmatch("[0-9]{1,9}", text) else 0
