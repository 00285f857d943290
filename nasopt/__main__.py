"""`python -m nasopt`."""

import os
import sys

if __name__ == "__main__":
    if not sys.flags.safe_path and sys.path[0] == os.getcwd():
        del sys.path[0]  # Python put the current folder there: a `queue.py` that lies in it would be run

    from nasopt.cli.app import main

    main()
