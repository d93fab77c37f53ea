"""From run directories to one page: `worlds-report RUNS --out DIR`.

    analysis     what the two worlds say of each other: T0, bootstrap error, power laws
    collect      the runs of a folder found for each experiment, and what is missing
    measure      an experiment's numbers, and whether they meet its claim
    sentences    what was measured, in a sentence
    figures      a figure and its points for each kind of experiment
    page         the HTML
    write        all of it into a folder

Nothing here knows how runs are made: a report can be written on a machine that has only their
files.
"""
