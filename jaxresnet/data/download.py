"""Download an archive of known size and hash from the first of several addresses that serves it."""

import errno
import hashlib
import http.client
import pathlib
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence

from tqdm import tqdm

from jaxresnet.data.cifar import Archive
from jaxresnet.system.errors import UserError, one_line
from jaxresnet.system.terminal import format_seconds

TIMEOUT_SECONDS = 20.0  # for connecting, and for each read
WINDOW_SECONDS = 10.0  # over which the rate is measured
SLOWEST = 300_000.0  # bytes/s; a slower source is left for the next one, such as the official host at 66 to 85 kB/s
PAUSES = (0.0, 1.0, 5.0)  # seconds before each round over all sources, and before a dropped connection is continued


class _Unusable(Exception):
    """A source that is too slow or has another file."""


def is_at(archive: Archive, path: pathlib.Path) -> bool:
    """Return True if ``path`` has the size and the hash of ``archive``."""
    if path.stat().st_size != archive.size:
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == archive.sha256


def download(archive: Archive, urls: Sequence[str], folder: pathlib.Path) -> pathlib.Path:
    """Download ``archive`` into ``folder``, and return its path.

    The beginning is kept in NAME.part, which the next source, or the next start, continues. A source that is too slow
    is left for the next one, except in the last round.

    Raises:
        UserError: no source serves the archive. The message names each and its fault.
        OSError: the file cannot be written.
    """
    part = folder / f"{archive.name}.part"
    part.touch()
    faults = {}
    for number, pause in enumerate(PAUSES):
        time.sleep(pause)
        slowest = SLOWEST if number < len(PAUSES) - 1 else 0.0
        for url, following in zip(urls, [*urls[1:], None], strict=True):
            try:
                _fetch(archive, url, part, slowest)
                return part.replace(folder / archive.name)
            except (_Unusable, OSError, ValueError, http.client.HTTPException) as error:
                if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                    raise
                faults[url] = f"{_host(url)}: {one_line(getattr(error, 'reason', error))}"
                tqdm.write(faults[url] + (f"; trying {_host(following)}" if following else ""))
    raise UserError("; ".join(faults.values()))


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc or url


def _fetch(archive: Archive, url: str, part: pathlib.Path, slowest: float) -> None:
    """Complete ``part`` from one source, which is asked again as long as each connection brings 1% of the archive."""
    while (begin := part.stat().st_size) < archive.size:
        try:
            _receive(archive, url, part, slowest)
        except (OSError, http.client.HTTPException):
            if part.stat().st_size - begin < archive.size / 100:
                raise
            time.sleep(PAUSES[1])
    if not is_at(archive, part):
        part.write_bytes(b"")  # the fault may be that of an earlier source, so the next one begins again
        raise _Unusable("serves another file (its SHA-256 differs)")


def _receive(archive: Archive, url: str, part: pathlib.Path, slowest: float) -> None:
    have, size = part.stat().st_size, archive.size
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response, part.open("r+b") as target:
        continued = (response.headers.get("Content-Range") or "").startswith(f"bytes {have}-")
        position = have if continued else 0  # a source that cannot continue begins again, over the same bytes
        promised = position + int(response.headers.get("Content-Length") or size - position)
        if promised != size:
            raise _Unusable(f"serves another file ({promised:,} bytes instead of {size:,})")
        target.seek(position)
        start, before = time.monotonic(), position
        with tqdm(None, _host(url), size, False, initial=position, unit="B", unit_scale=True, disable=None) as bar:
            while position < size and (chunk := response.read1(1 << 16)):
                position += target.write(chunk)
                bar.update(len(chunk))
                if (seconds := time.monotonic() - start) >= WINDOW_SECONDS:
                    rate = (position - before) / seconds
                    left = format_seconds((size - position) / rate)
                    state = f"{position / 1e6:.0f} of {size / 1e6:.0f} MB, {rate / 1e3:,.0f} kB/s, {left} left"
                    if rate < slowest:
                        raise _Unusable(f"too slow ({state})")
                    if bar.disable:  # off a terminal
                        tqdm.write(f"{_host(url)}: {state}")
                    start, before = time.monotonic(), position
    if position < size:
        raise ConnectionError(f"the connection closed after {position:,} of {size:,} bytes")
