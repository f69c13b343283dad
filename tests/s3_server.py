"""A server on this machine that speaks S3: moto's, where it and s3fs are installed."""

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time

import pytest

needs_s3 = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("moto", "s3fs"))), reason="needs moto[server] and s3fs"
)


@contextlib.contextmanager
def bucket(name):
    """A ``with`` in which there is a bucket, and the environment of this process leads to it."""
    import s3fs

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", port], stderr=subprocess.DEVNULL
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
                patch.setenv(key, "testing")
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
            patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
            s3fs.S3FileSystem.clear_instance_cache()
            for left in range(100, -1, -1):
                try:
                    s3fs.S3FileSystem().mkdir(name)
                    break
                except Exception:
                    if not left:
                        raise
                    time.sleep(0.2)
            yield s3fs.S3FileSystem()
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
        server.terminate()
        server.wait()
