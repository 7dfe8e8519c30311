"""What every run shares: command line, run folders, engines, clusters, and the analysis of sweeps."""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m` is looking for the command, and imports from the working folder first
    from launch.cli.shadowing import refuse_shadowing

    refuse_shadowing()
