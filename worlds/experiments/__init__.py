"""The paper's figures and tables as experiments, and a few beyond it.

spec        an experiment: its groups of runs, its claim and checks; a JSON file beside the runs
registry    names and functions
figures/    the experiments themselves, one module per group of figures
protocol    what they have in common
scales      from a paper's run to a smaller one
plan        from names to runs, each once
costs       what a run will cost
sources     the data they need, and made data for the smoke scale
state       which runs are done, running, missing
listing     tables for `worlds-experiment list` and `show`
run/        runs in worker processes or on a Ray cluster
"""
