"""Run a program with smtpconn instead of ``smtplib``, with pooled connections.

    python -m smtpconn.smtplib [options] script.py [arguments]
    python -m smtpconn.smtplib [options] -m module [arguments]

The program is not changed. Its connections are closed when it ends.
"""

from __future__ import annotations

import argparse
import atexit
import os
import runpy
import sys

import smtpconn.smtplib
from smtpconn.smtplib.settings import configure, pooled


def main(arguments: list[str]) -> None:
    """Run the program that the arguments name.

    Args:
        arguments: the command line without the name of this program.
    """
    parser = argparse.ArgumentParser(
        prog="python -m smtpconn.smtplib",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--max-size", type=int, default=10, help="connections to each server")
    parser.add_argument("--no-pool", action="store_true", help="open a connection for each object")
    parser.add_argument(
        "--no-verify", action="store_true", help="as smtplib: do not check certificates by default"
    )
    parser.add_argument(
        "--allow-cleartext-auth", action="store_true", help="allow passwords to be sent without TLS"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="PROGRAM is a module")
    parser.add_argument("program", help="a script, or with -m a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="arguments of the program")
    options = parser.parse_args(arguments)
    sys.modules["smtplib"] = smtpconn.smtplib
    configure(verify=not options.no_verify, allow_cleartext_auth=options.allow_cleartext_auth)
    sys.argv = [options.program, *options.arguments]
    if not options.no_pool:
        # Closed at exit: the program's threads may send mail after its main thread has ended.
        atexit.register(pooled(max_size=options.max_size).close)
    if options.module:
        runpy.run_module(options.program, run_name="__main__", alter_sys=True)
        return
    if not sys.flags.safe_path:
        del sys.path[0]  # the current directory, which Python does not search for a script
    sys.path.insert(0, os.path.dirname(os.path.realpath(options.program)))
    runpy.run_path(options.program, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
