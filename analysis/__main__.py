"""`python -m analysis`: the command line where the console script is not installed."""

from analysis.cli import main

if __name__ == "__main__":
    main()
