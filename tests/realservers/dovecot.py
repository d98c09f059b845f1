"""Dovecot: LMTP (TCP, TLS, UNIX socket), submission, and the SASL service which Postfix uses.

Its LMTP is the most exact oracle there is: with `mail_save_crlf` a stored message is what was sent,
byte for byte (only a bare LF becomes CRLF), below the header lines which Dovecot adds.  Carol is
over her quota: mail for her is refused after the data, while other recipients of the same message
get theirs.

Submission passes mail on to a relay, so it needs one: `Dovecot(certificates, relay_port=...)`.

A failed login costs half a second at most: the delay is set to none, and the penalty at the next
attempt is off because the socket is not reachable from outside.

OAuth works without a provider: tokens are JWTs, checked with a key from a file, and `oauth_token()`
makes them.
"""

import base64
import hashlib
import hmac
import json
import signal
from pathlib import Path

from tests.realservers.base import (
    HOSTNAME,
    NOBODY,
    PASSWORDS,
    RealServer,
    fill,
    free_port,
    greets,
)
from tests.realservers.certificates import Certificates

DOVECOT = Path("/usr/sbin/dovecot")
OAUTH_KEY = b"a key which only the tests know."

DOVECOT_CONF = """\
protocols = lmtp submission
listen = 127.0.0.1
base_dir = @{root}/run
state_dir = @{root}/state
log_path = @{root}/dovecot.log
auth_verbose = yes
instance_name = smtpconn
hostname = @{hostname}
postmaster_address = postmaster@example.test
ssl = yes
ssl_cert = <@{certificate}
ssl_key = <@{key}
disable_plaintext_auth = no
auth_mechanisms = \\
  plain login cram-md5 digest-md5 scram-sha-1 scram-sha-256 xoauth2 oauthbearer anonymous
auth_username_format = %Ln
auth_failure_delay = 0
passdb {
  driver = oauth2
  mechanisms = xoauth2 oauthbearer
  args = @{root}/oauth2.conf
}
passdb {
  driver = passwd-file
  args = scheme=PLAIN username_format=%n @{root}/users
}
userdb {
  driver = passwd-file
  args = username_format=%n @{root}/users
  default_fields = uid=@{nobody} gid=@{nobody} home=@{root}/mail/%n
}
first_valid_uid = 1
mail_location = maildir:~/Maildir
mail_save_crlf = yes
mail_fsync = never
protocol lmtp {
  mail_plugins = quota
}
plugin {
  quota = maildir:User quota
  quota_grace = 0
}
recipient_delimiter = +
submission_relay_host = 127.0.0.1
submission_relay_port = @{relay_port}
submission_relay_trusted = yes
service lmtp {
  unix_listener lmtp {
    mode = 0666
  }
  inet_listener lmtp {
    port = @{port}
  }
  inet_listener lmtps {
    port = @{tls_port}
    ssl = yes
  }
}
service submission-login {
  inet_listener submission {
    port = @{submission_port}
  }
  inet_listener submissions {
    port = @{submission_tls_port}
    ssl = yes
  }
}
service auth {
  inet_listener {
    port = @{sasl_port}
  }
}
service anvil {
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
service stats {
  unix_listener stats-writer {
    mode = 0666
  }
}
"""

OAUTH2_CONF = """\
introspection_mode = local
local_validation_key_dict = fs:posix:prefix=@{root}/jwt/
username_attribute = email
active_attribute = active
active_value = true
openid_configuration_url = https://idp.example.test/.well-known/openid-configuration
"""


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def oauth_token(user: str = "alice") -> str:
    """A bearer token which Dovecot accepts for the user."""
    claims = {"sub": user, "email": user, "active": "true", "iat": 1, "nbf": 1, "exp": 10**10}
    parts = ({"alg": "HS256", "typ": "JWT"}, claims)
    signed = ".".join(_base64url(json.dumps(part).encode()) for part in parts)
    signature = hmac.digest(OAUTH_KEY, signed.encode(), hashlib.sha256)
    return f"{signed}.{_base64url(signature)}"


class Dovecot(RealServer):
    """Dovecot: LMTP on `port`, `tls_port`, `socket_path`; submission and SASL on further ports."""

    name = "dovecot"
    programs = (DOVECOT, Path("/usr/lib/dovecot/lmtp"), Path("/usr/lib/dovecot/submission-login"))
    accounts = ("dovecot", "dovenull")
    # It takes more than a second to end properly, and has nothing to lose.
    stop_signal = signal.SIGKILL
    log_files = ("output", "dovecot.log")
    mailbox = "mail/{user}/Maildir/new/*"

    def __init__(self, certificates: Certificates, *, relay_port: int = 25) -> None:
        """Have submission pass mail on to the SMTP server on `relay_port`."""
        super().__init__()
        self.certificates = certificates
        self.relay_port = relay_port
        self.tls_port = free_port()
        self.submission_port = free_port()
        self.submission_tls_port = free_port()
        self.sasl_port = free_port()

    @property
    def socket_path(self) -> Path:
        """The UNIX socket on which LMTP is spoken."""
        return self.root / "run/lmtp"

    def ports(self) -> list[int]:
        return [
            self.port,
            self.tls_port,
            self.submission_port,
            self.submission_tls_port,
            self.sasl_port,
        ]

    def is_ready(self) -> bool:
        return super().is_ready() and greets(self.socket_path)

    def configure(self) -> None:
        self.make_directories("run", "state")
        self.make_directories("mail", owner=NOBODY, group=NOBODY)
        # Fields after the sixth colon are extra ones for Dovecot itself.
        extra = {"carol": "userdb_quota_rule=*:bytes=1"}
        users = (
            f"{user}:{{PLAIN}}{password}::::::{extra.get(user, '')}\n"
            for user, password in PASSWORDS.items()
        )
        self.write("users", "".join(users))
        self.write("jwt/default/HS256/default", base64.b64encode(OAUTH_KEY).decode())
        self.write("oauth2.conf", fill(OAUTH2_CONF, root=self.root))
        dovecot_conf = fill(
            DOVECOT_CONF,
            root=self.root,
            hostname=HOSTNAME,
            nobody=NOBODY,
            certificate=self.certificates.server_file,
            key=self.certificates.server_key_file,
            port=self.port,
            tls_port=self.tls_port,
            submission_port=self.submission_port,
            submission_tls_port=self.submission_tls_port,
            sasl_port=self.sasl_port,
            relay_port=self.relay_port,
        )
        self.write("dovecot.conf", dovecot_conf)

    def command(self) -> list[str]:
        return [str(DOVECOT), "-F", "-c", str(self.root / "dovecot.conf")]

    def reload(self) -> None:
        """Reload, by which every idle LMTP connection ends at once, with a 421."""
        self.send_signal(signal.SIGHUP)
