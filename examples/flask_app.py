"""Mail from a Flask application.

    flask --app examples.flask_app run
    curl -d '' http://localhost:5000/welcome/you@example.net

Under ``TESTING`` nothing leaves, and ``mail.record_messages()`` has what would have been sent.
"""

from __future__ import annotations

import os
from email.message import EmailMessage

from flask import Flask

from smtpconn import SmtpError
from smtpconn.contrib.flask import Mail

mail = Mail()


def create_app() -> Flask:
    """The application; its connections are those of the process, however many are created."""
    app = Flask(__name__)
    app.config["MAIL_URL"] = os.environ.get("SMTP_URL", "smtp://localhost")
    app.config["MAIL_DEFAULT_SENDER"] = "app@example.com"
    app.config["SMTPCONN"] = {"pool": {"max_size": 2}}
    mail.init_app(app)

    @app.post("/welcome/<address>")
    def welcome(address: str) -> tuple[str, int]:
        message = EmailMessage()
        message["To"], message["Subject"] = address, "welcome"
        message.set_content("Hello!\n")
        try:
            mail.send(message)
        except SmtpError as error:
            app.logger.warning("no welcome: %s", error)
            return "not sent\n", 503 if error.is_transient else 400
        return "sent\n", 200

    return app
