"""Makes figures, tables and sentences from results. Nothing here trains or writes a file.

`tables` and `figures` are for all runs; `text` writes numbers and `drawing` has matplotlib's settings. Each
other module serves one subject, and most serve one notebook:

    findings, verdicts, paired       the papers' claims, and how two methods are compared
    learning                         runs that did not learn
    switch_effects, beta_sweep       paper against released code, and the sweep of O.F.'s weight
    networks, network_*              the networks as a table and as drawings
    maps, map_measures               heat maps, and how much of them lies where
    rankings, selection, explorer    who is found, for which queries
    diversity, failures, planes      features, errors, embeddings in a plane
    model_card                       a run described for whoever gets its weights
"""
