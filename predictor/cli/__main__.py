"""`python -m predictor.cli`: the command line where the package is not installed."""

from predictor.cli.main import main

main()
