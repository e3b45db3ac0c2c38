"""`python -m syncd` is the command `syncd`."""

import sys

from syncd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
