"""Archives are read in memory, never trusted and never run; failures end in one line."""

import hashlib
import http.server
import io
import os
import tarfile
import threading
import zipfile

import pytest

from gptjax.data.fetch import download
from gptjax.data.fetch.download import FetchError

WANTED = r"toy-1\.0/texts/[^/]+\.txt"


def tar_gz(*members):
    """A tar.gz of (name, bytes) files and of ready-made TarInfo."""
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
                continue
            name, data = member
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return memory.getvalue()


def wheel(*members):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as file:
        for name, data in members:
            file.writestr(name, data)
    return memory.getvalue()


def link(name, kind=tarfile.SYMTYPE, target="/etc/passwd"):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = [
    ("toy-1.0/texts/b.txt", b"second"),
    ("toy-1.0/setup.py", b"raise SystemExit"),
    ("toy-1.0/texts/a.txt", b"first, longer"),
    ("toy-1.0/texts/deeper/c.txt", b"not wanted"),
]


@pytest.mark.parametrize("pack", [tar_gz, wheel])
def test_exactly_the_wanted_files_are_read(pack):
    files = download.read_members(pack(*GOOD), WANTED)
    assert files == {"toy-1.0/texts/a.txt": b"first, longer", "toy-1.0/texts/b.txt": b"second"}


@pytest.mark.parametrize("pack", [tar_gz, wheel])
@pytest.mark.parametrize(
    "name",
    ["../evil.txt", "/etc/evil", "toy-1.0/texts/../../../evil.txt", "C:/evil", "a/..", r"..\evil"],
)
def test_an_archive_with_a_path_that_leads_out_of_it_is_refused(pack, name):
    with pytest.raises(FetchError, match="leads out of it"):
        download.read_members(pack(*GOOD, (name, b"evil")), WANTED)


@pytest.mark.parametrize(
    "member",
    [
        link("toy-1.0/texts/l.txt"),
        link("toy-1.0/texts/l.txt", tarfile.LNKTYPE, "toy-1.0/setup.py"),
        link("toy-1.0/texts/l.txt", tarfile.FIFOTYPE),
        ("toy-1.0/texts/a.txt", b"a second one of the same name"),
    ],
)
def test_a_wanted_name_that_is_not_one_plain_file_is_refused(member):
    with pytest.raises(FetchError, match="is not one file"):
        download.read_members(tar_gz(*GOOD, member), WANTED)


def test_a_link_in_a_wheel_is_refused():
    info = zipfile.ZipInfo("toy-1.0/texts/l.txt")
    info.external_attr = 0o120777 << 16
    with pytest.raises(FetchError, match="is not one file"):
        download.read_members(wheel((info, b"/etc/passwd")), WANTED)


@pytest.mark.parametrize("pack", [tar_gz, wheel])
def test_too_much_is_refused(pack, monkeypatch):
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 18)
    with pytest.raises(FetchError, match="more than 18 bytes"):
        download.read_members(pack(*GOOD), WANTED)
    monkeypatch.setattr(download, "MAX_MEMBERS", 3)
    with pytest.raises(FetchError, match="more than 3 members"):
        download.read_members(pack(*GOOD[1:2], *GOOD[3:], ("x", b""), ("y", b"")), WANTED)


@pytest.mark.parametrize("pack", [tar_gz, wheel])
def test_a_damaged_archive_is_one_line_wherever_it_is_cut_or_flipped(pack):
    whole = pack(*GOOD)
    for n in range(0, len(whole), 7):
        flipped = whole[:n] + bytes([whole[n] ^ 0x55]) + whole[n + 1 :]
        for damaged in (whole[:n], flipped):
            try:
                download.read_members(damaged, WANTED)
            except FetchError as error:
                assert "\n" not in str(error) and len(str(error)) < 300


@pytest.fixture
def offline_index(tmp_path, monkeypatch):
    """A folder that is all pip knows, with one source package that must not run its setup.py."""
    index, cwd = tmp_path / "index", tmp_path / "cwd"
    index.mkdir()
    cwd.mkdir()
    ran = tmp_path / "ran"
    touch = f"open({str(ran)!r}, 'w').close()\n".encode()
    archive = tar_gz(*GOOD[:1], *GOOD[2:], ("toy-1.0/setup.py", touch))
    (index / "toy-1.0.tar.gz").write_bytes(archive)
    (cwd / "pip.py").write_bytes(touch)  # not what `python -m pip` must find
    monkeypatch.chdir(cwd)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    yield archive
    assert not ran.exists()


def package(archive):
    return download.PipPackage("toy==1.0", hashlib.sha256(archive).hexdigest(), WANTED)


def test_pip_brings_a_source_package_without_running_anything_of_it(offline_index):
    assert package(offline_index).files() == [b"first, longer", b"second"]


def test_an_archive_with_another_sha256_is_refused_by_pip_and_by_us(offline_index, monkeypatch):
    with pytest.raises(FetchError, match=r"pip says: ERROR: .*HASHES") as error:
        package(b"another archive").files()
    assert "\n" not in str(error.value)
    monkeypatch.setattr(download, "pip_download", lambda _: offline_index)
    with pytest.raises(FetchError, match="another sha256"):
        package(b"another archive").files()


def test_a_python_without_pip_is_told_how_to_get_it(monkeypatch):
    monkeypatch.setattr(download.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(FetchError, match=r"has no pip.*ensurepip.*uv pip install pip"):
        download.pip_download(package(b""))


@pytest.fixture
def server():
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/a.txt" else 404)
            self.end_headers()
            self.wfile.write(b"twelve bytes")

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as http_server:
        threading.Thread(target=http_server.serve_forever, args=[0.01], daemon=True).start()
        yield f"http://127.0.0.1:{http_server.server_port}"
        http_server.shutdown()


def test_a_url_is_read_and_its_failures_are_one_line(server, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert download.Url(f"{server}/a.txt").files() == [b"twelve bytes"]
    with pytest.raises(FetchError, match="404"):
        download.Url(f"{server}/b.txt").files()
    monkeypatch.setattr(download, "MAX_FILE_BYTES", 11)
    with pytest.raises(FetchError, match="more than 11 bytes"):
        download.Url(f"{server}/a.txt").files()


def test_a_server_that_is_not_there_is_one_line(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(FetchError, match=r"127\.0\.0\.1:9/a.*refused") as error:
        download.Url("http://127.0.0.1:9/a").files()
    assert "\n" not in str(error.value)
