"""`python -m snnrobust` is the command line."""

from snnrobust.cli import main

if __name__ == "__main__":
    main()
