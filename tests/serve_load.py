"""Loads a server, breaks connections to it, and counts what came of each: nothing may be mixed up.

    python tests/serve_load.py --workdir=runs/gpt-small              # a minute, 32 clients
    python tests/serve_load.py --workdir=runs/gpt-small --seconds=5 --clients=4 --reconnects=50

In: a run, and how long. Out: figures, and exit code 1 where an answer was not that of
``Run.generate`` for its seed, a request was neither answered nor refused, memory grew, or Ctrl-C
took more than 2 s. Clients are whole and streaming, some read slowly, some hang up; beside them
come bodies of 10 MB, bodies that are no UTF-8 or no JSON, half-closed connections, reconnects.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import httpx  # noqa: E402

from gptjax.checkpoints import run as runs  # noqa: E402

PROMPTS, TOKENS, SEEDS = ("", "a", "The ", "one two"), (1, 7, 40, 90), 6
GREW_MB, END_S = 64, 2.0  # what memory may gain once all programs are compiled; see above


class Load:
    """A server in a process of its own, and what came of all that was asked of it."""

    def __init__(self, workdir: str, *flags: str):
        self.run = runs.open_run(Path(workdir))
        self.lock, self.waits = threading.Lock(), []
        self.verdicts: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
        known = [p for p in PROMPTS if not set(p) - set("".join(map(str, self._characters())))]
        asked = [(p, n, s) for p in known for n in TOKENS for s in range(SEEDS)]
        self.expected = {
            (p, n, s): self.run.generate(p, max_new_tokens=n, temperature=1.0, seed=s)[0].text
            for p, n, s in asked
        }
        command = [sys.executable, "-m", "gptjax.serve", f"--workdir={workdir}", "--port=0", *flags]
        began = time.monotonic()
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
        )
        self.url = self.process.stdout.readline().split()[0]
        threading.Thread(target=self.process.stdout.read, daemon=True).start()
        self.address = urlsplit(self.url).hostname, urlsplit(self.url).port
        self._wait_for(None)
        self.listens_after = time.monotonic() - began
        self._wait_for(200)
        self.opened_after = time.monotonic() - began

    def _characters(self) -> list[str]:
        tok = self.run.tokenizer
        return [chr(i) for i in range(128)] if tok.kind in ("byte", "bpe") else list(tok.vocabulary)

    def _wait_for(self, status: int | None) -> None:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}health").status_code == status or status is None:
                    return
            time.sleep(0.05)

    def note(self, what: str, verdict: str) -> None:
        with self.lock:
            self.verdicts[what][verdict] += 1

    def memory_mb(self) -> float:
        """What the server holds in memory now."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    # ---- one request each ---------------------------------------------------------------------

    def ask(self, client: httpx.Client, chance: random.Random) -> None:
        """One text, whole or streamed, read quickly, slowly or not to its end: the right one?"""
        prompt, n, seed = chance.choice(list(self.expected))
        body = {"prompt": prompt, "max_tokens": n, "seed": seed, "temperature": 1}
        how = chance.choice(("whole", "whole", "streamed", "read slowly", "hung up"))
        began = time.monotonic()
        if how == "whole":
            answer = client.post("/v1/completions", json=body)
            if answer.status_code == 503 and "retry-after" in answer.headers:
                self.note(how, "refused: busy")
                time.sleep(0.1)
                return
            text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else None
        else:
            text = self._streamed(client, body, how, chance)
            if text is None:
                return
        if how != "read slowly":
            with self.lock:
                self.waits.append(time.monotonic() - began)
        right = text == self.expected[prompt, n, seed]
        self.note(how, "answered" if right else f"WRONG: {text!r:.60}")

    def _streamed(
        self, client: httpx.Client, body: dict, how: str, chance: random.Random
    ) -> str | None:
        text, last = "", ""
        with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as answer:
            if answer.status_code != 200:
                busy = answer.status_code == 503 and "retry-after" in answer.headers
                self.note(how, "refused: busy" if busy else f"WRONG: status {answer.status_code}")
                return None
            for line in answer.iter_lines():
                if how == "hung up" and chance.random() < 0.3:
                    self.note(how, "hung up")
                    return None
                if how == "read slowly":
                    time.sleep(0.05)
                last = line or last
                if line.startswith("data: {"):
                    text += json.loads(line[6:])["choices"][0]["text"]
        return text if last == "data: [DONE]" else f"no [DONE] after {text!r}"

    def fault(self, chance: random.Random) -> None:
        """One request that is none, in a connection of its own."""
        head = (
            "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        )
        kinds = {
            "10 MB": (b'{"prompt": "' + b"a" * 10_000_000 + b'"}', 413),
            "invalid UTF-8": (b'{"prompt": "\xc3\x28\xff"}', 400),
            "invalid JSON": (b'{"prompt": "a", ', 400),
            "deep JSON": (b"[" * 200_000, 400),
            "no object": (b'"a"', 400),
            "half-closed": (b'{"prompt": "a", "max_tokens": 90}', None),
            "cut off": (b'{"prompt": "a"', None),
        }
        name = chance.choice(list(kinds))
        body, status = kinds[name]
        length = len(body) + (100 if name == "cut off" else 0)
        request = head.encode() + b"Content-Length: %d\r\n\r\n" % length + body
        try:
            with socket.create_connection(self.address, 30) as sock:
                sock.sendall(request)
                if name in ("half-closed", "cut off"):
                    sock.shutdown(socket.SHUT_WR)
                said = sock.recv(65536)
        except ConnectionError:
            self.note(name, "refused: connection closed")
            return
        except TimeoutError:
            self.note(name, "WRONG: no answer in 30 s")
            return
        if not said:
            self.note(name, "refused: connection closed" if status is None else "WRONG: closed")
            return
        got = int(said.split()[1])
        right = got in (status, 503) or (status is None and got in (200, 400))
        self.note(name, f"answered: {got}" if right else f"WRONG: {got}")

    # ---- many ---------------------------------------------------------------------------------

    def clients(self, n: int, seconds: float, seed: int) -> None:
        """``n`` clients at the same time, and one that does everything wrong."""
        until = time.monotonic() + seconds

        def work(number: int) -> None:
            chance = random.Random(seed + number)
            with httpx.Client(base_url=self.url, timeout=120) as client:
                while time.monotonic() < until:
                    try:
                        self.fault(chance) if number == n else self.ask(client, chance)
                    except Exception as error:
                        self.note("a client", f"WRONG: {type(error).__name__} {error!s:.80}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(n + 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def reconnects(self, n: int) -> None:
        """``n`` connections, one after the other: a question each, or nothing at all."""
        for number in range(n):
            try:
                if number % 2:
                    status = httpx.get(f"{self.url}health", timeout=30).status_code
                    self.note("reconnect", "answered" if status == 200 else f"WRONG: {status}")
                else:
                    socket.create_connection(self.address, 30).close()
                    self.note("reconnect", "opened and closed")
            except (OSError, httpx.HTTPError) as error:
                self.note("reconnect", f"WRONG: {type(error).__name__} {error!s:.60}")

    def end(self) -> float:
        """Ctrl-C while streams are open; the seconds until the process has ended."""
        body = {"max_tokens": 4000, "stream": True, "n": 8}
        with contextlib.ExitStack() as streams:
            for _ in range(4):
                client = streams.enter_context(httpx.Client(base_url=self.url, timeout=60))
                answer = streams.enter_context(client.stream("POST", "/v1/completions", json=body))
                next(answer.iter_lines())
            began = time.monotonic()
            self.process.send_signal(signal.SIGINT)
            try:
                code = self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                code = "killed after 30 s"
            self.note("Ctrl-C", "ended" if code == 0 else f"WRONG: {code}")
            return time.monotonic() - began


def main() -> int:
    """Load a server and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--workdir", required=True, help="the run that is served")
    for name, default in (("seconds", 60), ("clients", 32), ("reconnects", 1000), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    load = Load(args.workdir)
    said = f"listens after {load.listens_after:.1f} s, open after {load.opened_after:.1f} s"
    print(said, flush=True)
    try:
        load.clients(args.clients, min(args.seconds, 10), args.seed)  # all programs are compiled
        before = load.memory_mb()
        with load.lock:
            load.waits.clear()
        load.clients(args.clients, args.seconds, args.seed + 1000)
        load.reconnects(args.reconnects)
        after = load.memory_mb()
        seconds_to_end = load.end()
    finally:
        load.process.kill()
    failed = 0
    for what, counts in sorted(load.verdicts.items()):
        for verdict, count in sorted(counts.items()):
            print(f"{what:<14} {count:>6}  {verdict}")
            failed += count * verdict.startswith("WRONG")
    waits = sorted(load.waits)
    median, p95 = (waits[int(len(waits) * part)] for part in (0.5, 0.95))
    print(
        f"{len(waits) / args.seconds:.0f} texts per second to {args.clients} clients; a text after "
        f"{median:.2f} s (median), {p95:.2f} s (95%), {waits[-1]:.2f} s (longest)"
    )
    print(f"memory {before:.0f} MB, then {after:.0f} MB; Ctrl-C ended it in {seconds_to_end:.1f} s")
    failed += after - before > GREW_MB
    failed += seconds_to_end > END_S
    print(f"{failed} failed; seed {args.seed}")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
