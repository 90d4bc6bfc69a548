"""``python -m gennape``: the command line, where the console script is not on the path."""

from gennape.jobs.cli import main

if __name__ == "__main__":
    main()
