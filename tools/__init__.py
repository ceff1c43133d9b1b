"""The commands of this repository and their parts; they need nothing but a Python 3.10 or newer."""

import sys

if sys.version_info < (3, 10):  # noqa: UP036 - whoever starts an old Python shall read why
    sys.exit(
        f"error: this is Python {sys.version_info[0]}.{sys.version_info[1]}, and 3.10 or newer is "
        f"needed. Run the command with a newer one, for example: python3.12 {sys.argv[0]}"
    )
