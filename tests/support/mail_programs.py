"""Programs that send mail with ``smtplib``, as they are used; none knows of smtpconn.

    python -m tests.support.mail_programs NAME HOST PORT USER PASSWORD COUNT

sends so many messages, with STARTTLS and a login, each by a call of its own. `PROGRAMS` has the
names, and the module that has to be installed for each.
"""

from __future__ import annotations

import email.message
import importlib
import logging
import logging.handlers
import sys
from typing import Any
from urllib.parse import quote

PROGRAMS = {
    "logging": "logging.handlers",
    "django": "django",
    "flask_mail": "flask_mail",
    "yagmail": "yagmail",
    "redmail": "redmail",
    "apprise": "apprise",
    "repoze": "repoze.sendmail",
    "emails": "emails",
    "trytond": "trytond",
}
ME, YOU = "me@example.com", "you@example.net"


def send_logging(host: str, port: int, user: str, password: str, count: int) -> None:
    """The standard library's handler for log records."""
    handler = logging.handlers.SMTPHandler(
        (host, port), ME, [YOU], "hello", credentials=(user, password), secure=()
    )
    for _ in range(count):
        handler.handle(logging.LogRecord("shop", logging.ERROR, "x.py", 1, "Hello!", None, None))


def send_django(host: str, port: int, user: str, password: str, count: int) -> None:
    """Django's own backend."""
    settings, mail = load("django.conf").settings, load("django.core.mail")
    settings.configure(
        EMAIL_BACKEND="django.core.mail.backends.smtp.EmailBackend",
        EMAIL_HOST=host,
        EMAIL_PORT=port,
        EMAIL_USE_TLS=True,
        EMAIL_HOST_USER=user,
        EMAIL_HOST_PASSWORD=password,
    )
    for _ in range(count):
        mail.send_mail("hello", "Hello!", ME, [YOU])


def send_flask_mail(host: str, port: int, user: str, password: str, count: int) -> None:
    """Flask-Mail."""
    flask_mail = load("flask_mail")
    app = load("flask").Flask("app")
    app.config.update(
        MAIL_SERVER=host,
        MAIL_PORT=port,
        MAIL_USE_TLS=True,
        MAIL_USERNAME=user,
        MAIL_PASSWORD=password,
        MAIL_DEFAULT_SENDER=ME,
    )
    mail = flask_mail.Mail(app)
    with app.app_context():
        for _ in range(count):
            mail.send(flask_mail.Message("hello", recipients=[YOU], body="Hello!"))


def send_yagmail(host: str, port: int, user: str, password: str, count: int) -> None:
    """yagmail."""
    yagmail = load("yagmail")
    for _ in range(count):
        with yagmail.SMTP(
            user, password, host=host, port=port, smtp_starttls=True, smtp_ssl=False
        ) as client:
            client.send(YOU, "hello", "Hello!")


def send_redmail(host: str, port: int, user: str, password: str, count: int) -> None:
    """redmail."""
    kind = load("redmail").EmailSender
    sender = kind(host, port, username=user, password=password, use_starttls=True)
    for _ in range(count):
        sender.send(subject="hello", sender=ME, receivers=[YOU], text="Hello!")


def send_apprise(host: str, port: int, user: str, password: str, count: int) -> None:
    """apprise."""
    apprise = load("apprise")
    for _ in range(count):
        notifier = apprise.Apprise()
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
        assert notifier.add(f"mailtos://{login}@{host}:{port}?mode=starttls&from={ME}&to={YOU}")
        assert notifier.notify(title="hello", body="Hello!")


def send_repoze(host: str, port: int, user: str, password: str, count: int) -> None:
    """repoze.sendmail, of Pyramid and Zope."""
    mailer = load("repoze.sendmail.mailer").SMTPMailer(host, port, user, password, force_tls=True)
    for _ in range(count):
        mailer.send(ME, [YOU], a_message(email.message.Message()))


def send_emails(host: str, port: int, user: str, password: str, count: int) -> None:
    """emails."""
    emails = load("emails")
    for _ in range(count):
        message = emails.Message(subject="hello", text="Hello!", mail_from=ME)
        options = {"host": host, "port": port, "tls": True, "user": user, "password": password}
        response = message.send(to=YOU, smtp=options)
        assert response.status_code == 250, response


def send_trytond(host: str, port: int, user: str, password: str, count: int) -> None:
    """Tryton's server."""
    config, send_message = load("trytond.config"), load("trytond.sendmail").send_message
    login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    settings = getattr(config, "config", config)
    if not settings.has_section("email"):
        settings.add_section("email")
    settings.set("email", "uri", f"smtp+tls://{login}@{host}:{port}")
    for _ in range(count):
        send_message(a_message(email.message.EmailMessage()), ME, [YOU], strict=True)


def load(module: str) -> Any:
    """A module that need not be installed where this one is checked."""
    return importlib.import_module(module)


def a_message(message: Any) -> Any:
    """The message with what belongs into one."""
    message["From"], message["To"], message["Subject"] = ME, YOU, "hello"
    message.set_payload("Hello!\n")
    return message


def main(name: str, host: str, port: str, user: str, password: str, count: str) -> None:
    """Run one of them."""
    globals()[f"send_{name}"](host, int(port), user, password, int(count))


if __name__ == "__main__":
    main(*sys.argv[1:])
