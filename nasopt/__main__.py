"""`python -m nasopt`."""

from nasopt.cli.app import main

if __name__ == "__main__":
    main()
