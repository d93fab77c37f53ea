"""The paper's figures and tables as experiments, and a few beyond it.

registry    names and functions; every other file here that is not named below registers some
protocol    what they have in common
scales      from a paper's run to a smaller one
plan        from names to runs, each once
costs       what a run will cost
sources     the data they need, and made data for the smoke scale
runner      runs in worker processes
worker      one of them
"""
