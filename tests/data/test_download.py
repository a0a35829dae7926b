"""Downloads from servers on this machine that are slow, drop connections, lie, redirect, or serve something else."""

import hashlib
import http.server
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from jaxresnet.data import cifar, download, loading, official
from jaxresnet.system.errors import UserError
from tests.conftest import REPOSITORY
from tests.damage import FINGERPRINT_OF_FEW, IMAGES, LABELS, few_images
from tests.data.test_loading import official_archive

CONTENT = os.urandom(200_000)
OTHER = bytes(len(CONTENT))


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves ``server.content`` as the first part of the path says."""

    def do_GET(self):
        how, content, asked = self.path.split("/")[1], self.server.content, self.headers.get("Range")
        self.server.asked.append((how, asked))
        if how in ("missing", "busy"):
            return self.send_error({"missing": 404, "busy": 503}[how])
        if how == "redirects":
            self.send_response(302)
            self.send_header("Location", self.path.replace(how, "good"))
            return self.end_headers()
        content = {"other": OTHER, "page": b"<html>log in"}.get(how, content)
        begin = int(asked[6:-1]) if asked and how not in ("ignores", "page") else 0
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        body = content[begin:]
        self.send_header("Content-Length", len(body) + {"longer": 7, "shorter": -7}.get(how, 0))
        self.end_headers()
        if how in ("drops", "ends"):
            body = body[: max(len(body) // 2, 30_000) if how == "drops" else 50]
        step = 4_000 if how == "slow" else len(body)
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            time.sleep(0.02 * (how == "slow"))

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(monkeypatch):
    """Serve, and return the server. ``server.asked`` lists what was asked, and with which Range."""
    monkeypatch.setattr(download, "PAUSES", (0.0, 0.01, 0.01))
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(download, "WINDOW_SECONDS", 0.2)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.asked, server.handle_error = CONTENT, [], lambda *arguments: None
    server.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(server, tmp_path, monkeypatch):
    """Return a function that downloads from servers of these kinds."""
    archive = cifar.Archive("cifar-10-python.tar.gz", "", len(CONTENT))
    monkeypatch.setitem(cifar.SHA256, archive.name, hashlib.sha256(CONTENT).hexdigest())

    def fetch(*kinds):
        urls = [kind if ":" in kind else f"{server.url}/{kind}/{archive.name}" for kind in kinds]
        return download.download(archive, urls, tmp_path).read_bytes() == CONTENT

    return fetch


@pytest.mark.parametrize("have", [0, 150_000])
@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        ("missing", "Not Found"),
        ("busy", "Service Unavailable"),
        ("page", r"serves another file \(12 bytes instead of 200,000\)"),
        ("longer", r"serves another file \(200,007 bytes"),
        ("shorter", r"serves another file \(199,993 bytes"),
        ("other", r"serves another file \(its SHA-256 differs\)"),
        ("ends", r"the connection closed after [\d,]+ of 200,000 bytes"),
        ("slow", r"too slow \(0 of 0 MB, \d+ kB/s, \ds left\)"),
        ("http://127.0.0.1:9/a", "Connection refused"),
        ("no-protocol:/a", "unknown url type"),
    ],
)
def test_faults_lead_to_the_next_source(fetch, tmp_path, capsys, kind, fault, have):
    (tmp_path / "cifar-10-python.tar.gz.part").write_bytes(CONTENT[:have])
    assert fetch(kind, "good")
    out = capsys.readouterr().out
    if (kind, have) != ("slow", 150_000):  # which is done before it is found to be slow
        assert re.search(rf"^[\w.:/-]+: .*{fault}.*; trying 127.0.0.1:\d+$", out, re.MULTILINE), out
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


def test_silent_servers_lead_to_the_next(fetch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert fetch(f"http://127.0.0.1:{silent.getsockname()[1]}/a", "good")
    assert "timed out; trying" in capsys.readouterr().out


def test_dropped_connections_are_continued(fetch, server):
    assert fetch("drops")
    starts = [int(asked[6:-1]) for _, asked in server.asked[1:]]
    assert starts[:3] == [100_000, 150_000, 180_000]


@pytest.mark.parametrize("kind", ["good", "redirects", "ignores", "slow"])
def test_partial_files_are_continued(fetch, server, tmp_path, kind):
    (tmp_path / "cifar-10-python.tar.gz.part").write_bytes(CONTENT[:190_000])
    assert fetch(kind)
    assert {asked for _, asked in server.asked} == {"bytes=190000-"}


def test_slow_sources_are_the_last_resort(fetch, server):
    assert fetch("slow", "missing")
    assert [how for how, _ in server.asked[:4]] == ["slow", "missing", "slow", "missing"]


def test_wrong_partial_files_are_given_up(fetch, server, tmp_path):
    (tmp_path / "cifar-10-python.tar.gz.part").write_bytes(OTHER[:190_000])
    assert fetch("good", "redirects")
    assert [asked for _, asked in server.asked] == ["bytes=190000-", None, None]


def test_failed_downloads_name_every_source(fetch, tmp_path):
    with pytest.raises(UserError, match=r"^127.0.0.1:\d+: .*closed after .* bytes; 127.0.0.1:9: .*refused$"):
        fetch("ends", "http://127.0.0.1:9/a")
    assert (tmp_path / "cifar-10-python.tar.gz.part").stat().st_size == 150  # 50 bytes each round


@pytest.fixture
def few(server, tmp_path, monkeypatch):
    """Serve a CIFAR-10 of few images, which the program expects, and return where its folder goes."""
    images = {name: list(zip(LABELS[name], IMAGES[name], strict=True)) for name in IMAGES}
    server.content = official_archive(images)
    pickled, binary = cifar.CIFAR10.archives
    known = cifar.CIFAR10._replace(
        archives=(pickled._replace(size=len(server.content)), binary), mirrors=(f"{server.url}/good/{{}}",)
    )
    monkeypatch.setitem(cifar.SETS, "cifar10", known)
    monkeypatch.setitem(cifar.SHA256, pickled.name, hashlib.sha256(server.content).hexdigest())
    monkeypatch.setattr(official, "OFFICIAL", "http://127.0.0.1:9/{}")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "root"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXRESNET_MIRROR", raising=False)
    monkeypatch.chdir(tmp_path)
    with few_images():
        yield tmp_path / "root"


@pytest.mark.parametrize("mirror", ["/good", "/good/", "/redirects/cifar-10-python.tar.gz?download=1", None])
def test_mirrors_serve_cifar10(few, server, monkeypatch, mirror):
    if mirror:
        monkeypatch.setenv("JAXRESNET_MIRROR", server.url + mirror)
    assert loading.load_dataset("cifar10", None, 10).fingerprint() == FINGERPRINT_OF_FEW
    assert sorted(path.name for path in few.iterdir()) == [".cifar10.lock", "cifar10"]


def start(server):
    """Start a process that prepares this CIFAR-10 from a slow mirror, as its official address is unreachable."""
    archives = ", ".join(f"cifar.Archive(*{tuple(archive)})" for archive in cifar.SETS["cifar10"].archives)
    program = f"""
        from jaxresnet.data import cifar, official
        official.OFFICIAL = "http://127.0.0.1:9/{{}}"
        cifar.SHA256.update({cifar.SHA256})
        cifar.NUM_TRAIN, cifar.NUM_TEST = 15, 3
        official.prepare(cifar.CIFAR10._replace(archives=({archives}), mirrors=("{server.url}/slow/{{}}",)))
    """
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], cwd=REPOSITORY)


def wait_for(part, process):
    while process.poll() is None and not (part.exists() and part.stat().st_size > 5_000):
        time.sleep(0.01)


def test_killed_downloads_are_continued(few, server):
    process, part = start(server), few / "cifar-10-python.tar.gz.part"
    wait_for(part, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    have = part.stat().st_size
    assert loading.load_dataset("cifar10", None, 10).fingerprint() == FINGERPRINT_OF_FEW
    assert server.asked[-1] == ("good", f"bytes={have}-")


def test_parallel_starts_download_once(few, server):
    process = start(server)
    wait_for(few / "cifar-10-python.tar.gz.part", process)
    assert loading.load_dataset("cifar10", None, 10).fingerprint() == FINGERPRINT_OF_FEW
    assert process.wait() == 0
    assert [how for how, _ in server.asked] == ["slow"]


def test_space_is_asked_for_first(few, server, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 10, 0))
    with pytest.raises(UserError, match=r"root has 0 MB free, but 0 MB are needed; free some, or set TFDS_DATA_DIR"):
        loading.load_dataset("cifar10", None, 10)
    assert server.asked == []


def test_archives_that_differ_are_named(few, server, tmp_path, capsys):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(server.content[:-9])
    with pytest.raises(UserError, match=r"is not the official cifar-10-python.tar.gz .* or its SHA-256 differs"):
        loading.load_dataset("cifar10", str(tmp_path / "cifar-10-python.tar.gz"), 10)
    assert loading.load_dataset("cifar10", None, 10).fingerprint() == FINGERPRINT_OF_FEW
    assert "its SHA-256 differs; it is not used" in capsys.readouterr().out


def test_unreachable_sources_name_alternatives(few, server, monkeypatch):
    monkeypatch.setitem(cifar.SETS, "cifar10", cifar.SETS["cifar10"]._replace(mirrors=("http://127.0.0.1:9/{}",)))
    with pytest.raises(UserError) as error:
        loading.load_dataset("cifar10", None, 10)
    for way in ("TFDS_DATA_DIR", "JAXRESNET_MIRROR", str(few), "cifar-10-batches-py", ".npz", "--config=quickstart"):
        assert way in str(error.value)
    assert "\n" not in str(error.value)


def test_hashes_are_those_of_tfds():
    import tensorflow_datasets as tfds

    for known in (cifar.CIFAR10, cifar.CIFAR100):
        binary = known.archives[1]
        infos = getattr(tfds.image_classification, known.name.capitalize()).url_infos
        info = infos[cifar.OFFICIAL.format(binary.name)]
        assert (info.checksum, info.size) == (binary.sha256, binary.size)


def test_unknown_home_folders_are_said(monkeypatch):
    for name in ("HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])  # as in a container whose user has no entry
    with pytest.raises(UserError, match="the home folder is not known; set HOME"):
        loading.load_dataset("cifar10", None, 10)
