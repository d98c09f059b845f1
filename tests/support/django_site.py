"""A Django site in one process, for tests that need its applications and a database.

    python -m tests.support.django_site SCENARIO BACKEND HOST PORT

Each scenario sends mail the way a site or a package does. It runs in a process of its own, because
Django is configured once in each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import django
from django.conf import settings

urlpatterns: list[Any] = []

APPS = ["django.contrib.auth", "django.contrib.contenttypes"]
PACKAGES = {
    "mailer": ["mailer"],
    "anymail": ["anymail"],
    "post_office": ["post_office"],
    "celery_email": ["djcelery_email"],
    "checks": ["smtpconn.contrib.django_checks"],
}
# They replace the templates of the admin application.
TEMPLATES = {
    "registration/password_reset_subject.txt": "Password reset on {{ site_name }}",
    "registration/password_reset_email.html": "http://{{ domain }}/{{ uid }}/{{ token }}/\n",
}
ME, YOU = "The shop <me@example.com>", "you@example.net"


def configure(scenario: str, backend: str, host: str, port: int) -> None:
    """Set the site up, with ``MAILERS`` if this version of Django has it."""
    extra: dict[str, Any] = {}
    if django.VERSION >= (6, 1) and scenario not in ("mailer", "post_office", "celery_email"):
        options = {"host": host, "port": port}
        extra["MAILERS"] = {"default": {"BACKEND": backend, "OPTIONS": options}}
    else:
        extra |= {"EMAIL_BACKEND": backend, "EMAIL_HOST": host, "EMAIL_PORT": port}
    if scenario == "mailer":
        extra |= {"EMAIL_BACKEND": "mailer.backend.DbBackend", "MAILER_EMAIL_BACKEND": backend}
        extra |= {"MAILER_USE_FILE_LOCK": False}
    if scenario == "post_office":
        extra["EMAIL_BACKEND"] = "post_office.EmailBackend"
        extra["POST_OFFICE"] = {"BACKENDS": {"default": backend}}
    if scenario == "celery_email":
        extra["EMAIL_BACKEND"] = "djcelery_email.backends.CeleryEmailBackend"
        extra["CELERY_EMAIL_BACKEND"] = backend
        extra["CELERY_TASK_ALWAYS_EAGER"] = True
    settings.configure(
        SECRET_KEY="of no use",
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["testserver"],
        INSTALLED_APPS=APPS + PACKAGES.get(scenario, []),
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
        DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {"loaders": [("django.template.loaders.locmem.Loader", TEMPLATES)]},
            }
        ],
        DEFAULT_FROM_EMAIL=ME,
        SERVER_EMAIL="root@example.com",
        ADMINS=[("Root", YOU)] if django.VERSION < (6, 0) else [YOU],
        USE_TZ=True,
        **extra,
    )
    django.setup()


def own() -> None:
    """The mails of Django itself: a test mail, a password reset, a report to the admins, others."""
    from django.contrib.auth.forms import PasswordResetForm
    from django.contrib.auth.models import User
    from django.core import mail
    from django.core.management import call_command

    call_command("sendtestemail", YOU, "she@example.net")
    call_command("sendtestemail", "--admins")
    User.objects.create_user("jürgen", YOU, "s3cret")
    form = PasswordResetForm({"email": YOU})
    assert form.is_valid()
    form.save(domain_override="example.com")
    mail.mail_admins("it broke", "héllo", html_message="<p>héllo</p>")
    sent = mail.EmailMultiAlternatives(
        "grüße",
        "Hello!\n.\nFrom here\n",
        "Jane Public <jane@example.com>",
        ["Müller <you@example.net>", "she@öäü.example"],
        ["hidden@example.net"],
        cc=["cc@example.net"],
        reply_to=["reply@example.com"],
        headers={"List-Unsubscribe": "<https://example.com/u>", "X-Own": "x" * 70},
    )
    sent.attach_alternative("<p>Héllo!</p>", "text/html")
    sent.attach("data.bin", bytes(range(256)), "application/octet-stream")
    sent.attach("täxt.txt", "text of a file\n", "text/plain")
    sent.send()
    mail.send_mass_mail([(f"number {n}", "x" * 2000, ME, [YOU]) for n in range(3)])


def mailer() -> None:
    """django-mailer: three queued messages, one of them to an invalid address."""
    from django.core import mail
    from django.core.management import call_command
    from mailer.models import Message

    call_command("migrate", verbosity=0)
    for to in (YOU, "no address", "she@example.net"):
        mail.send_mail("queued", "Hello!", "me@example.com", [to])
    call_command("send_mail")
    print(f"{Message.objects.deferred().count()} deferred, {Message.objects.count()} queued")


def anymail() -> None:
    """anymail: its messages, sent by a backend chosen for a single message."""
    from anymail.message import AnymailMessage
    from django.core import mail

    message = AnymailMessage("hello", "Hello!", "me@example.com", [YOU], tags=["welcome"])
    message.connection = mail.get_connection()
    message.send()


def post_office() -> None:
    """django-post-office: queued mail, sent with the backend of its settings."""
    from django.core.management import call_command
    from post_office import mail

    call_command("migrate", verbosity=0)
    for to in (YOU, "she@example.net"):
        mail.send(to, "me@example.com", subject="queued", message="Hello!")
    print(mail.send_queued(processes=1))


def celery_email() -> None:
    """django-celery-email: a task that opens the backend of its settings."""
    from celery import Celery
    from django.core import mail

    app = Celery("site", broker="memory://")
    app.conf.task_always_eager = True
    app.set_default()
    mail.send_mail("by a task", "Hello!", "me@example.com", [YOU])


def checks() -> None:
    """``manage.py check``, which must find no problem."""
    from django.core.management import call_command

    call_command("check")


SCENARIOS: dict[str, Callable[[], None]] = {
    "own": own,
    "mailer": mailer,
    "anymail": anymail,
    "post_office": post_office,
    "celery_email": celery_email,
    "checks": checks,
}

if __name__ == "__main__":
    configure(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
    if sys.argv[1] == "own":
        from django.core.management import call_command

        call_command("migrate", verbosity=0)
    SCENARIOS[sys.argv[1]]()
