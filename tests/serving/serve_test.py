"""The command ``serve``: how it starts, what it refuses, how it ends."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest
import random_runs
import serve_load
import tiny_runs

from gptjax import serve
from gptjax.cli import main as cli
from gptjax.errors import UserError
from gptjax.serving import models

START_S, END_S = 3.0, 2.0  # as promised
SLOW = 4  # how much slower than promised a machine with other work may be


@pytest.fixture(scope="module")
def folders(tmp_path_factory, random_params):
    """Two tiny runs, which learnt nothing."""
    folder = tmp_path_factory.mktemp("serve")
    text = tiny_runs.write_text(folder)
    random_runs.save_random_runs(random_params, folder / "one", text, tiny_runs.config(text), [3])
    shutil.copytree(folder / "one", folder / "two")
    return folder


@contextlib.contextmanager
def started(*flags, **environment):
    """The command in a process of its own: the process, and the URL that it printed."""
    command = [sys.executable, "-m", "gptjax.serve", "--port=0", *flags]
    environment = {**os.environ, **environment}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("http://127.0.0.1:"), line + process.stdout.read()
            yield process, line.split()[0]
        finally:
            process.kill()


def ask(url):
    with contextlib.suppress(httpx.HTTPError):
        httpx.get(url, timeout=60)


def until_open(url):
    deadline = time.monotonic() + 60
    while httpx.get(f"{url}health").status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_listens_at_once_and_ends_with_ctrl_c_whoever_reads(folders):
    began = time.monotonic()
    with started(f"--workdir={folders / 'one'}", f"--workdir={folders / 'two'}/") as (process, url):
        first = httpx.get(f"{url}health")
        assert time.monotonic() - began < START_S * SLOW
        assert first.status_code == 503 and first.json()["loading"] == ["one", "two"]
        until_open(url)
        names = [one["id"] for one in httpx.get(f"{url}v1/models").json()["data"]]
        assert names == ["one", "two"]
        assert "<html" in httpx.get(url).text
        body = {"model": "one", "prompt": "a", "max_tokens": 4096, "n": 100, "stream": True}
        with httpx.stream("POST", f"{url}v1/completions", json=body, timeout=60) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
            page = threading.Thread(target=ask, args=(f"{url}api/page",), daemon=True)
            page.start()
            time.sleep(0.3)  # it is looked for in the corpus, and compiled for
            process.send_signal(signal.SIGINT)
            began = time.monotonic()
            assert process.wait(END_S * SLOW) == 0
            assert time.monotonic() - began < END_S * SLOW
        said = process.stdout.read()
    assert "one: <Run 'tiny-bigram'" in said and "Traceback" not in said


def test_ctrl_c_ends_it_while_a_model_is_opened(folders):
    with started(f"--workdir={folders / 'one'}") as (process, url):
        assert httpx.get(f"{url}health").status_code == 503
        process.send_signal(signal.SIGINT)
        assert process.wait(END_S * SLOW) == 0
        assert "Traceback" not in process.stdout.read()


def test_in_colab_it_says_how_to_see_the_page_and_may_be_framed(folders):
    with started(f"--workdir={folders / 'one'}", COLAB_RELEASE_TAG="release") as (process, url):
        assert f"output.serve_kernel_port_as_iframe({url.split(':')[2][:-1]}" in (
            process.stdout.readline()
        )
        for host in ("x-8000-colab.googleusercontent.com", "8000-m-s.prod.colab.dev"):
            answer = httpx.get(url, headers={"host": host})
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "frame-ancestors https://*.googleusercontent.com" in policy
        assert httpx.get(url, headers={"host": "evil.example"}).status_code == 421


def test_under_load_nothing_is_mixed_up(folders, capsys, monkeypatch):
    argv = [f"--workdir={folders / 'one'}", "--seconds=1", "--clients=3", "--reconnects=20"]
    monkeypatch.setattr(sys, "argv", ["serve_load.py", *argv])
    monkeypatch.setattr(serve_load, "END_S", END_S * SLOW)
    code = serve_load.main()
    said = capsys.readouterr().out
    assert code == 0, said
    for what in ("whole", "streamed", "read slowly", "Ctrl-C", "reconnect"):
        assert f"\n{what} " in said, said


def call(capsys, *flags):
    code = cli.call(serve.main, ["gptjax.serve", *flags], flags=serve.FLAGS)
    said = capsys.readouterr()
    return code, said.err.strip()


@pytest.mark.parametrize(
    "flags, line",
    [
        (["--workdir=nowhere"], "no folder 'nowhere'"),
        ([], "--workdir is missing"),
        (["--workdir=one", "--workdir=one"], "given twice"),
        (["--workdir=one", "--port=65536"], "--port=65536 must be 0 or more, at most 65,535"),
        (["--workdir=one", "--jobs=0"], "--jobs=0 must be 1 or more"),
        (["--workdir=one", "--seconds=0"], "--seconds=0"),
        (["--workdir=one", "--host=300.1.1.1"], "--host='300.1.1.1' is no address"),
    ],
)
def test_mistakes_are_one_line(flags, line, folders, capsys, monkeypatch):
    monkeypatch.chdir(folders)
    code, said = call(capsys, *flags)
    assert code == 2 and line in said and "\n" not in said


def test_a_port_that_is_taken_is_told_with_a_way_out(folders, capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, said = call(capsys, f"--workdir={folders / 'one'}", f"--port={port}")
    assert code == 2 and f"port {port} of 127.0.0.1 cannot be had" in said and "--port=" in said


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_its_packages_it_names_what_to_install(package, folders, capsys, monkeypatch):
    find = serve.importlib.util.find_spec
    monkeypatch.setattr(
        serve.importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    code, said = call(capsys, f"--workdir={folders / 'one'}")
    assert code == 2 and f"serving needs {package}: pip install" in said and "\n" not in said


def test_a_run_that_cannot_be_opened_ends_the_server_with_its_reason(folders):
    (folders / "empty").mkdir(exist_ok=True)
    command = [sys.executable, "-m", "gptjax.serve", "--port=0", f"--workdir={folders / 'empty'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and "empty" in done.stderr


def test_names_are_those_of_folders_and_differ(tmp_path):
    paths = [tmp_path / "a" / "run", tmp_path / "b" / "run", tmp_path / "run-2"]
    for path in paths:
        path.mkdir(parents=True)
    assert [one.id for one in models.named(map(str, paths))] == ["run", "run-2", "run-2-2"]
    with pytest.raises(UserError, match="twice"):
        models.named([str(paths[0]), f"{paths[0]}/"])
