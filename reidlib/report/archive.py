"""A report's site as one file that can be checked: a zip with the digest of each file."""

import hashlib
import io
import json
import zipfile
from pathlib import Path

from reidlib.files import write_atomically

MANIFEST = "manifest.json"  # in the zip: path → SHA-256
_DATE = (1980, 1, 1, 0, 0, 0)  # of every entry, so that the same site gives the same bytes


def write_archive(site: Path, target: Path) -> Path:
    """Writes all files of a site, below a folder of the site's name, and their digests. Returns `target`.

    The bytes depend on the site's files alone. `sha256sum` of a file must give what the manifest says.
    """
    files = {path.relative_to(site).as_posix(): path for path in sorted(site.rglob("*")) if path.is_file()}
    contents = {name: path.read_bytes() for name, path in files.items()}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    contents[MANIFEST] = (json.dumps(digests, indent=1) + "\n").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(contents.items()):
            entry = zipfile.ZipInfo(f"{target.stem}/{name}", _DATE)
            entry.compress_type, entry.create_system = zipfile.ZIP_DEFLATED, 3  # the same on every system
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content, compresslevel=9)
    return write_atomically(target, buffer.getvalue())
