"""Puts the report of the reference runs into results/reference/report/: `python tools/keep_report.py`.

Who has run nothing can open it there: a site for each data set, with links to the others. It is made as
`run_all.py --reference` makes it, from the files of results/reference/ alone, so it holds no photograph.
Run this after reference runs were added.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from reidlib.files import replacing  # noqa: E402
from reidlib.study.results import REFERENCE  # noqa: E402

MOST_BYTES = 20_000_000  # of all sites; git keeps files that they have in common once


def main() -> int:
    """Returns the exit status: 0 the report is there, 1 it could not be made and the older one stays."""
    with tempfile.TemporaryDirectory(prefix="reidlib-report-") as folder:
        command = [sys.executable, "run_all.py", "--reference", "--results", folder]
        if subprocess.run(command, cwd=REPOSITORY, check=False).returncode:
            print("keep_report.py: the report was not made; the messages above say why.", file=sys.stderr)
            return 1
        sites = Path(folder, "reference-report")
        files = [path for path in sorted(sites.rglob("*")) if path.is_file()]
        named = [path for path in files if folder.encode() in path.read_bytes()]
        size = sum(path.stat().st_size for path in files)
        if named or size > MOST_BYTES:
            what = (
                f"{named[0].name} names a folder of this machine" if named else f"it has {size / 1e6:.1f} MB"
            )
            print(f"keep_report.py: the report cannot be kept: {what}.", file=sys.stderr)
            return 1
        kept = REFERENCE / "report"
        made = kept.with_name(".report.new")
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(sites, made)
        shutil.rmtree(kept, ignore_errors=True)
        made.rename(kept)
        with replacing(REFERENCE / "overview.png") as picture:  # the README's figure: scores, no photograph
            shutil.copy(Path(folder, "reference-cuhk03-np-detected", "figures", "overview.png"), picture)
    print(f"{kept}: {len(files)} files, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
