"""How long the command line takes to start, and what a step costs that only draws; beside another checkout.

    python benchmarks/bench_start.py                    this checkout
    python benchmarks/bench_start.py --against DIR      another one beside it, in turns, in the same run
    python benchmarks/bench_start.py --repeats 1        a quick look

Each checkout runs with its own .venv where it has one. A smoke study is made first for each (two minutes).
Times are CPU seconds of the command and all its children (medians); for a step also its wall time, as the
pipeline prints it.
"""

import argparse
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
DRAWS = "20_ablation_abdnet"  # a step that reads runs, and makes two tables and a figure


def python_of(checkout: Path) -> str:
    own = checkout / ".venv" / "bin" / "python"
    return str(own) if own.exists() else sys.executable


def timed(checkout: Path, *arguments: str) -> tuple[float, str]:
    """CPU seconds of run_all.py with these arguments and of its children, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [python_of(checkout), str(checkout / "run_all.py"), *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 2):
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stderr


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout to compare with")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    checkouts = {"here": REPOSITORY} | ({"against": options.against.resolve()} if options.against else {})
    with tempfile.TemporaryDirectory() as scratch:
        study = {
            name: [
                "--profile",
                "smoke",
                "--results",
                f"{scratch}/{name}",
                "--data-root",
                f"{scratch}/{name}-data",
            ]
            for name in checkouts
        }
        for name, checkout in checkouts.items():
            print(f"making the smoke study of {checkout} …", file=sys.stderr)
            timed(checkout, *study[name])
            timed(checkout, *study[name])
        calls = {
            "--help": lambda name: ["--help"],
            "a wrong call": lambda name: ["--methods", "abd-net"],
            "--dry-run, nothing made": lambda name: ["--dry-run", "--results", f"{scratch}/nothing"],
            "everything up to date": lambda name: study[name],
            "a step that draws": lambda name: [*study[name], "--only", DRAWS, "--force", "--workers", "1"],
        }
        print(
            f"| call, {options.repeats} times in turns |" + "".join(f" {name}, CPU s |" for name in checkouts)
        )
        print("|---|" + "---:|" * len(checkouts))
        walls: dict[str, list[float]] = {name: [] for name in checkouts}
        for call, arguments in calls.items():
            seconds: dict[str, list[float]] = {name: [] for name in checkouts}
            for _ in range(options.repeats):
                for name, checkout in checkouts.items():
                    used, printed = timed(checkout, *arguments(name))
                    seconds[name].append(used)
                    wall = re.search(rf"^{DRAWS} +done +([\d.]+)", printed, re.MULTILINE)
                    walls[name] += [float(wall[1])] if wall else []
            print(
                f"| {call} |" + "".join(f" {statistics.median(values):.2f} |" for values in seconds.values())
            )
        print(
            "| wall time of that step |"
            + "".join(f" {statistics.median(values):.1f} |" for values in walls.values())
        )


if __name__ == "__main__":
    main()
