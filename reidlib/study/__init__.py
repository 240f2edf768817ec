"""The study: its steps, where their results lie, and how they run.

    from reidlib.study.results import open_study
    from reidlib.study.runs import finished_runs
    [(run.name, run.metrics["map"]) for run in finished_runs(open_study("demo", "synthetic"))]

`results` knows every path, `runs` reads finished runs and chooses those that belong together, and
`parameters` checks those of the notebooks. `command_line` is that of run_all.py. It hands `steps` to
`pipeline`, which asks `fingerprints` what is out of date and runs it on an `engine`. `reference` has the runs
that are committed.
"""
