"""What lies on an object store is read as a file is, is copied once, and again when it changed."""

from pathlib import Path

import fsspec
import pytest
import s3_server

from gptjax.config.schema import DataConfig
from gptjax.data import corpora
from gptjax.data.fetch import remote
from gptjax.errors import UserError

TEXT = "to be or not to be\n" * 40


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("GPTJAX_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def bucket(memory_bucket):
    """Its URL, and what writes there."""
    pipe, name = fsspec.filesystem("memory").pipe, f"/{memory_bucket}"
    return f"memory:/{name}", lambda file, text: pipe(f"{name}/{file}", text.encode())


def test_a_path_is_left_as_it_is_and_a_drives_letter_is_no_scheme():
    for path in ("", "my.txt", "/a/b://c", "C://text.txt", "~/x"):
        assert remote.local(path) == path


def test_a_text_is_fetched_once_said_so_and_fetched_again_when_it_changed(bucket):
    url, write = bucket
    write("my text.txt", TEXT)
    said, config = [], DataConfig(path=f"{url}/my text.txt")
    first = corpora.load(config, 0, said.append)
    assert first.text == TEXT and first.name == "my text.txt" and url in first.source
    assert said == [f"fetching {url}/my text.txt (0.0 MB)"]
    assert corpora.load(config, 0, said.append).sha256 == first.sha256 and len(said) == 1
    write("my text.txt", TEXT + "that is the question\n")
    assert corpora.load(config, 0, said.append).text.endswith("question\n") and len(said) == 2


def test_a_folder_comes_with_all_its_files_and_half_of_it_is_never_seen(bucket, monkeypatch):
    url, write = bucket
    write("tokens/manifest.json", "{}")
    write("tokens/parts/0.bin", "abc")
    store = type(fsspec.filesystem("memory"))

    def breaks(self, name, path, whole=store.get_file):
        if name.endswith("0.bin"):
            raise OSError("the line was cut")
        return whole(self, name, path)

    with monkeypatch.context() as once:
        once.setattr(store, "get_file", breaks)
        with pytest.raises(UserError, match=r"cannot be read \(OSError: the line was cut\)"):
            remote.local(f"{url}/tokens")
    folder = remote.local(f"{url}/tokens")
    found = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.*")}
    assert found == {"manifest.json", "parts/0.bin"}
    assert remote.local(f"{url}/tokens") == folder


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://nothing/here.txt", "memory://nothing/here.txt cannot be read"),
        ("nosuch://bucket/x", "nosuch://bucket/x cannot be read"),
    ],
)
def test_what_is_not_there_is_told_in_a_line(url, message):
    with pytest.raises(UserError, match=message):
        remote.local(url)


def test_a_store_without_its_package_is_told_which(monkeypatch):
    def absent(url, **how):
        raise ImportError("no gcsfs")

    monkeypatch.setattr(fsspec.core, "url_to_fs", absent)
    with pytest.raises(UserError, match="gs://b/x needs gcsfs: pip install gcsfs"):
        remote.local("gs://b/x")


@s3_server.needs_s3
def test_a_text_on_a_server_that_speaks_s3():
    with s3_server.bucket("corpora") as store:
        store.pipe("corpora/my.txt", TEXT.encode())
        assert corpora.load(DataConfig(path="s3://corpora/my.txt"), 0, print).text == TEXT
        with pytest.raises(UserError, match="s3://corpora/other.txt cannot be read"):
            remote.local("s3://corpora/other.txt")
