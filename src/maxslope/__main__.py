"""`python -m maxslope` is the command line."""

from maxslope.cli import main

if __name__ == "__main__":
    main()
