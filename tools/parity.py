"""Prints how far this study's numbers are from those of the released code: `python tools/parity.py`.

Runs the tests that compare with tests/golden/. For each test it prints how many values were compared, their
largest magnitude, and the largest deviation, absolute and relative to that magnitude. The exit status is 1 if
a test fails.
"""

import argparse
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))  # for tests that import run_all


class Recorder:
    """Records every comparison of the tests with "golden" in their names."""

    def __init__(self):
        # test, values, largest magnitude, largest deviation
        self.rows: list[tuple[str, int, float, float]] = []
        self.failed = False

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item):
        with pytest.MonkeyPatch.context() as patch:
            for module, name in ((torch.testing, "assert_close"), (np.testing, "assert_allclose")):
                patch.setattr(module, name, self._listening(item.nodeid, getattr(module, name)))
            return (yield)

    def pytest_runtest_logreport(self, report):
        self.failed = self.failed or report.failed

    def _listening(self, test: str, compare):
        def listening(actual, expected, *args, **kwargs):
            one, two = (
                np.asarray(torch.as_tensor(value).detach(), np.float64) for value in (actual, expected)
            )
            if one.shape == two.shape and one.size:
                self.rows.append(
                    (test, one.size, float(np.nanmax(np.abs(two))), float(np.nanmax(np.abs(one - two))))
                )
            compare(actual, expected, *args, **kwargs)

        return listening

    def table(self) -> list[str]:
        lines = [
            "| compared | values | largest magnitude | largest deviation | relative |",
            "|---|---:|---:|---:|---:|",
        ]
        for test in dict.fromkeys(row[0] for row in self.rows):
            own = [row for row in self.rows if row[0] == test]
            worst = max(own, key=lambda row: row[3] / (row[2] or 1))
            relative = worst[3] / (worst[2] or 1)
            values = sum(row[1] for row in own)
            name = re.sub(r"^tests/(\w+/)?test_", "", test).replace(".py::test", ":").replace("_", " ")
            lines.append(f"| {name} | {values:,} | {worst[2]:.3g} | {worst[3]:.1e} | {relative:.1e} |")
        return lines


def main() -> int:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    recorder = Recorder()
    status = pytest.main(
        ["-q", "-k", "golden", "--no-header", "--rootdir", str(REPOSITORY), str(REPOSITORY / "tests")],
        [recorder],
    )
    print("\n".join(recorder.table()))
    return 1 if recorder.failed or status else 0


if __name__ == "__main__":
    sys.exit(main())
