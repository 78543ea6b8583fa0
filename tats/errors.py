"""How a user's mistake is reported: one clear line, a non-zero exit, and no traceback."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

Main = TypeVar("Main", bound=Callable[..., Any])  # main(argv=None)
USER_ERROR_EXIT_CODE = 2  # what argparse itself exits with
INTERRUPTED_EXIT_CODE = 130  # what a shell gives a command that Ctrl-C ended


class UserError(ValueError):
    """A mistake only the user can mend.

    Its message is one line that names the flag or the file and says what was got, what was
    expected, and what to do.
    """


def one_line_errors(main: Main) -> Main:
    """Make a script's ``main(argv=None)`` end a ``UserError`` as argparse ends a bad flag.

    Args:
        main: the script's entry point.

    Returns:
        The same function, except that a ``UserError`` becomes one line on stderr and exit code 2,
        and Ctrl-C one line and exit code 130.
    """

    @functools.wraps(main)
    def wrapped(argv: Sequence[str] | None = None) -> Any:
        try:
            return main(argv)
        except UserError as error:
            # An error in a data-loading process arrives with that process's traceback before it.
            message = " ".join(str(error).rpartition("UserError: ")[2].split())
            print(f"{Path(sys.argv[0]).name}: error: {message}", file=sys.stderr)
            raise SystemExit(USER_ERROR_EXIT_CODE) from None
        except KeyboardInterrupt:
            print(f"{Path(sys.argv[0]).name}: interrupted; what is finished stays", file=sys.stderr)
            raise SystemExit(INTERRUPTED_EXIT_CODE) from None

    return cast(Main, wrapped)
