"""One of several processes, as processes/cluster_test.py starts them; says what it is asked to.

    python cluster_member.py --coordinator=127.0.0.1:4000 --process_id=0 --num_processes=2 --do=wait

Without --with_jax it meets the others and waits for heartbeats, and starts in a tenth of the time.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from gptjax.cli import main as cli
from gptjax.errors import UserError
from gptjax.processes import cluster, schedulers, watchdog


def agree() -> dict[str, Any]:
    """What the functions of cluster.py say, of values that differ between the processes."""
    import jax

    me = jax.process_index()
    long = cluster.from_first("x" * 1000 * (me + 1))
    cluster.barrier("here")
    with cluster.together():
        pass
    return {
        "short": cluster.from_first({"a": [me, None, "é"]}),
        "long": len(long),
        "any": [cluster.any_of(me == 1), cluster.any_of(False), cluster.any_of(True)],
        "count": cluster.count(),
        "first": cluster.is_first(),
    }


def deal() -> dict[str, Any]:
    """What comes of a batch of which each process has its own rows alone."""
    import numpy as np

    from gptjax.runtime.mesh_rules import Placement, make_mesh

    place, whole = Placement(make_mesh()), np.arange(3 * 4 * 5).reshape(3, 4, 5)
    own = place.own_rows(4)
    batch = place.put_batch([whole[:, own], whole], 4)
    came = [bool((array == whole).all()) for array in place.fetch(batch)]
    return {"own": own.tolist(), "came": came}


def main(args: Any) -> int:
    """Do one thing, then end as it says, or wait for ever."""
    where = args.coordinator, args.process_id, args.num_processes
    if args.with_jax:
        cluster.start(*where, args.heartbeat_seconds, 60)
    else:
        place = schedulers.named(*where)
        peers = watchdog.meet(place, 60)
        cluster._watchdog = watchdog.Watchdog(place, peers, args.heartbeat_seconds)
        cluster._count = place.count
        watchdog.GRACE_S = 0.5
    print("met", file=sys.stderr, flush=True)
    chosen = args.process_id == args.who
    if args.do == "agree":
        print(json.dumps(agree()), file=sys.stderr, flush=True)
        print(json.dumps(deal()), file=sys.stderr, flush=True)
        print("said by one", flush=True)
    elif args.do == "agree on an error":
        with cluster.together():
            if chosen:
                raise UserError("the disk is full: make room")
    elif args.do == "fail" and chosen:
        raise UserError("the disk is full: make room")
    elif args.do == "stop":
        return 75
    else:
        while True:
            cluster.barrier("again") if args.with_jax else time.sleep(60)
    return 0


FLAGS = [
    cli.Flag("coordinator", "", ""),
    cli.Flag("process_id", int, ""),
    cli.Flag("num_processes", int, ""),
    cli.Flag("heartbeat_seconds", 2.0, ""),
    cli.Flag("with_jax", False, ""),
    cli.Flag("do", "", ""),
    cli.Flag("who", 0, ""),
]

if __name__ == "__main__":
    cli.run(main, about=__doc__, flags=FLAGS)
