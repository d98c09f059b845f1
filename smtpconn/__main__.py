"""``python -m smtpconn``: see `smtpconn.cli`."""

from smtpconn.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
