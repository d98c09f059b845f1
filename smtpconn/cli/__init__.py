"""The command ``smtpconn``, also ``python -m smtpconn``: for people at a terminal, and for scripts.

    check       what does this server offer, and does it do what I need?
    send        send messages: from files, from standard input, or composed here
    ping        how long does it take to get a connection and a reply?
    serve       catch mail on this machine during development

The modules:

    main        `main`: runs a command, and turns its result or exception into an exit code
    options     the options that commands share, with swaks's names where swaks has one
    target      makes a server of the options: `Target`; the stages of --quit-after
    secrets     passwords and tokens, which never come from an option
    output      standard output and standard error, with colours by `rich`
    exit_codes  exit codes, results as JSON
    transcript  the log `smtpconn.wire` as a transcript, and as the times of each step
    check, send, ping, serve    one command each
    messages    the messages that ``send`` sends, and their envelopes
    results     the delivery status of each message, and the report of them

A command returns an exit code and never shows a traceback. It uses `SmtpConnection` and
`ConnectionPool`, so that its results are those that a program gets. With ``--json`` standard output
has JSON and nothing else. No secret is ever written.
"""

from smtpconn.cli.main import main

__all__ = ["main"]
