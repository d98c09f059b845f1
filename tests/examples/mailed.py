"""The Flask example, which has mailed already when its server forks."""

from __future__ import annotations

import sys
from email.message import EmailMessage

from examples.flask_app import create_app, mail

application = create_app()
if "uwsgi" in sys.modules:
    # It forks in C: no thread of ours is to run at that moment.
    application.config["SMTPCONN"]["pool"]["keepalive"] = None
with application.app_context():
    message = EmailMessage()
    message["To"] = "start@example.net"
    message.set_content("The site begins.\n")
    mail.send(message)
    assert (mail.pool.stats().idle, mail.pool.stats().connects) == (1, 1)
