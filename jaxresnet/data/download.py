"""Download a file of known size and hash from the first of several addresses that serves it."""

import errno
import hashlib
import http.client
import pathlib
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from typing import NamedTuple

from tqdm import tqdm

from jaxresnet.system.errors import UserError, one_line
from jaxresnet.system.terminal import format_seconds

TIMEOUT_SECONDS = 20.0  # for connecting, and for each read
WINDOW_SECONDS = 10.0  # over which the rate is measured
SLOWEST = 300_000.0  # bytes/s; a slower source is left for the next one, as the official host was at 66 to 85 kB/s
PAUSES = (0.0, 1.0, 5.0)  # seconds before each round over all sources
RETRY_SECONDS = 0.5  # before a source that closed the connection is asked again


class File(NamedTuple):
    """A file to download: its name, size in bytes and SHA-256."""

    name: str
    size: int
    sha256: str

    def is_at(self, path: pathlib.Path) -> bool:
        """Return True if ``path`` has the size and the hash of this file."""
        if path.stat().st_size != self.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == self.sha256


class _Unusable(Exception):
    """A source that is too slow, at ``rate`` bytes/s, or has another file. Asking it again at once would not help."""

    def __init__(self, message: str, rate: float = 0.0):
        super().__init__(message)
        self.rate = rate


def download(file: File, urls: Sequence[str], folder: pathlib.Path) -> pathlib.Path:
    """Download ``file`` into ``folder``, and return its path.

    The beginning is kept in NAME.part, which the next source, or the next start, continues. Sources are asked in their
    order, and left if they are too slow. In the last round they may be slow, and the fastest is asked first.

    Raises:
        UserError: no source serves the file. The message names each and its fault.
        OSError: the file cannot be written.
    """
    path, part = folder / file.name, folder / f"{file.name}.part"
    part.touch()
    rates, faults = dict.fromkeys(urls, 0.0), {}
    for number, pause in enumerate(PAUSES):
        time.sleep(pause)
        order = sorted(urls, key=lambda url: -rates[url])
        for url, following in zip(order, [*order[1:], None], strict=True):
            try:
                _fetch(file, url, part, slowest=SLOWEST if number < len(PAUSES) - 1 else 0.0)
                return part.replace(path)
            except (_Unusable, OSError, ValueError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise
                rates[url] = getattr(error, "rate", 0.0)
                faults[url] = f"{_host(url)}: {one_line(getattr(error, 'reason', error))}"
                tqdm.write(faults[url] + (f"; trying {_host(following)}" if following else ""))
    raise UserError("; ".join(faults.values()))


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc or url


def _fetch(file: File, url: str, part: pathlib.Path, slowest: float) -> None:
    """Complete ``part`` from one source, which is asked again as long as each connection brings 1% of the file."""
    from_others = part.stat().st_size > 0
    while True:
        begin = part.stat().st_size
        try:
            if begin < file.size:
                _receive(file, url, part, slowest)
        except (OSError, http.client.HTTPException):
            if part.stat().st_size - begin < file.size / 100:
                raise
            time.sleep(RETRY_SECONDS)
            continue
        if file.is_at(part):
            return
        part.write_bytes(b"")
        if not from_others:
            raise _Unusable("serves another file (its SHA-256 differs)")
        from_others = False  # what another source served may be wrong, so this one is asked for the whole


def _receive(file: File, url: str, part: pathlib.Path, slowest: float) -> None:
    have = part.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response, part.open("r+b") as target:
        # A source that cannot continue begins again, over the same bytes.
        continued = (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        position = have if response.status == 206 and continued else 0
        length = int(response.headers.get("Content-Length") or file.size - position)
        if position + length != file.size:
            raise _Unusable(f"serves another file ({position + length:,} bytes instead of {file.size:,})")
        target.seek(position)
        bar = tqdm(
            desc=_host(url), initial=position, total=file.size, unit="B", unit_scale=True, leave=False, disable=None
        )
        with bar:
            start, received = time.monotonic(), 0
            while position < file.size and (chunk := response.read1(1 << 16)):
                target.write(chunk)
                bar.update(len(chunk))
                position, received = position + len(chunk), received + len(chunk)
                if (seconds := time.monotonic() - start) >= WINDOW_SECONDS:
                    rate = received / seconds
                    left = format_seconds((file.size - position) / rate)
                    shown = f"{position / 1e6:.0f} of {file.size / 1e6:.0f} MB, {rate / 1e3:,.0f} kB/s, {left} left"
                    if rate < slowest:
                        raise _Unusable(f"too slow: {shown}", rate)
                    if bar.disable:  # off a terminal
                        tqdm.write(f"{_host(url)}: {shown}")
                    start, received = time.monotonic(), 0
    if position < file.size:
        raise ConnectionError(f"the connection closed after {position:,} of {file.size:,} bytes")
