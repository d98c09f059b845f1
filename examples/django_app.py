"""Mail from a Django site, in one file: what differs from any other site are the mail settings.

    python examples/django_app.py runserver
    curl -d '' http://localhost:8000/welcome/you@example.net

From Django 6.1 on mail is configured by ``MAILERS``, before by ``EMAIL_*``; both ways are here.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import django
from django.conf import settings
from django.core.mail import send_mail
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path

BACKEND = "smtpconn.contrib.django.EmailBackend"
HOST = os.environ.get("EMAIL_HOST", "localhost")
PORT = int(os.environ.get("EMAIL_PORT", "25"))
POOL = {"max_size": 2, "acquire_timeout": 5}

BY_MAILERS: dict[str, Any] = {
    "MAILERS": {
        "default": {"BACKEND": BACKEND, "OPTIONS": {"host": HOST, "port": PORT, "pool": POOL}}
    }
}
BY_SETTINGS: dict[str, Any] = {
    "EMAIL_BACKEND": BACKEND,
    "EMAIL_HOST": HOST,
    "EMAIL_PORT": PORT,
    "SMTPCONN": {"pool": POOL},
}

settings.configure(
    DEBUG=os.environ.get("DEBUG") == "1",
    SECRET_KEY=os.environ.get("SECRET_KEY", "not for production"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    DEFAULT_FROM_EMAIL="app@example.com",
    **(BY_MAILERS if django.VERSION >= (6, 1) else BY_SETTINGS),
)


def welcome(request: HttpRequest, address: str) -> HttpResponse:
    """Send a welcome."""
    try:
        send_mail("welcome", "Hello!\n", None, [address])
    except OSError as error:
        logging.getLogger(__name__).warning("no welcome: %s", error)
        return HttpResponse("not sent\n", status=503)
    return HttpResponse("sent\n")


urlpatterns = [path("welcome/<str:address>", welcome)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
