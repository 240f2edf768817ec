import hashlib
import json
import os
import zipfile

from reidlib.report.archive import write_archive


def test_the_archive_holds_the_site_and_its_digests(tmp_path):
    site = tmp_path / "report"
    (site / "files").mkdir(parents=True)
    (site / "index.html").write_text("<p>é")
    (site / "files" / "a.csv").write_bytes(b"a,b\n")
    target = write_archive(site, tmp_path / "demo-synthetic.zip")
    with zipfile.ZipFile(target) as archive:
        names = archive.namelist()
        found = {name: archive.read(name) for name in names}
    assert names == [f"demo-synthetic/{name}" for name in ("files/a.csv", "index.html", "manifest.json")]
    digests = json.loads(found.pop("demo-synthetic/manifest.json"))
    expected = {
        name.partition("/")[2]: hashlib.sha256(content).hexdigest() for name, content in found.items()
    }
    assert digests == expected and found["demo-synthetic/index.html"] == "<p>é".encode()


def test_the_same_site_gives_the_same_bytes_whenever_it_was_written(tmp_path):
    written = []
    for time in (0, 2_000_000_000):
        site = tmp_path / str(time) / "report"
        site.mkdir(parents=True)
        for name in ("b.html", "a.html") if time else ("a.html", "b.html"):
            (site / name).write_text(name)
            os.utime(site / name, (time, time))
        written.append(write_archive(site, tmp_path / str(time) / "x.zip").read_bytes())
    assert written[0] == written[1]
    (site / "a.html").write_text("other")
    assert write_archive(site, tmp_path / "x.zip").read_bytes() != written[0]
