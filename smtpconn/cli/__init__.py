"""The command ``smtpconn``, also ``python -m smtpconn``: for people at a terminal, and scripts.

    check       what is this server, and does it do what I need?
    send        send messages: from files, from standard input, or composed here
    ping        how long does it take to get a connection and an answer?
    serve       catch mail on this machine while developing

What is said to a server goes through `SmtpConnection` and `ConnectionPool`, so what a command shows
is what a program gets. Which file does what:

    entry       `main`: the one place that catches everything
    options     the options of all commands, with swaks's names where swaks has one
    secret      where passwords and tokens come from; never from the command line
    pem         certificates and authorities from files
    target      from options to a server: `Target`, a `ServerConfig` that knows how to log in
    stages      how far a session goes (``--quit-after``)
    transcript  the `smtpconn.wire` log as a transcript, and as a clock for each step
    output      where text goes: by `rich` where there is a terminal and the package, else plain
    exits       exit codes, and one line for each thing that can go wrong
    asjson      the same results as JSON
    certificate what stands in an X.509 certificate
    check, ping, serve, send      one command each; `report` is how check shows what it found
    messages    what `send` sends: files and streams; `compose`: messages composed of options;
                `wishes`: what the options say of their envelopes
    mailing     sending many of them, and Ctrl-C; `trial`: going only so far
    fates       what became of each message, and how that is told

Rules: a command returns an exit code and never lets a traceback through. With ``--json`` standard
output has one JSON object and nothing else. No secret is ever written; besides being left out where
they are known, `output` takes them out of every line.
"""

from smtpconn.cli.main import main

__all__ = ["main"]
