"""`python -m nasopt`."""

from nasopt.cli import main

if __name__ == "__main__":
    main()
