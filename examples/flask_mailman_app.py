"""Mail from a Flask application that uses Flask-Mailman: one setting more than without smtpconn.

flask --app examples.flask_mailman_app run
curl -d '' http://localhost:5000/welcome/you@example.net
"""

from __future__ import annotations

import os

from flask import Flask
from flask_mailman import Mail

mail = Mail()


def create_app() -> Flask:
    """The application. Flask-Mailman makes a backend for each mail; the process has one pool."""
    app = Flask(__name__)
    app.config["MAIL_BACKEND"] = "smtpconn.contrib.flask_mailman.EmailBackend"
    app.config["MAIL_SERVER"] = os.environ.get("MAIL_SERVER", "localhost")
    app.config["MAIL_PORT"] = int(os.environ.get("MAIL_PORT", "25"))
    app.config["MAIL_DEFAULT_SENDER"] = "app@example.com"
    app.config["SMTPCONN"] = {"pool": {"max_size": 2}}
    mail.init_app(app)

    @app.post("/welcome/<address>")
    def welcome(address: str) -> tuple[str, int]:
        try:
            mail.send_mail("welcome", "Hello!\n", None, [address])
        except OSError as error:
            app.logger.warning("no welcome: %s", error)
            return "not sent\n", 503
        return "sent\n", 200

    return app
