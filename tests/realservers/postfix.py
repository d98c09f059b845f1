"""Postfix: SMTP with STARTTLS, SMTP over TLS, SMTP on a UNIX socket; delivers to Maildirs.

It is started as `master` in the foreground.  (`postfix start-fg` is a shell script around it, and
killing the script leaves master running.)  Mail for the three mailboxes is delivered by virtual(8);
mail for any other domain is accepted from loopback and discarded, so that nothing ever leaves the
machine.

The two `smtpd_forbid_...` settings are on because later versions have them on by default: they cut
off clients which pipeline what may not be pipelined or end lines with a bare LF.
"""

import grp
import os
import pwd
import time
from pathlib import Path

from tests.realservers.base import DOMAIN, HOSTNAME, NOBODY, RealServer, fill, free_port, wait_until
from tests.realservers.certificates import Certificates

MASTER = Path("/usr/lib/postfix/sbin/master")

MAIN_CF = """\
compatibility_level = 3.6
queue_directory = @{root}/spool
data_directory = @{root}/data
maillog_file = @{root}/mail.log
maillog_file_prefixes = @{root}
myhostname = @{hostname}
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
alias_maps =
alias_database =
local_recipient_maps =
smtputf8_enable = yes
biff = no
disable_dns_lookups = yes
smtpd_peername_lookup = no
default_transport = discard:only local mail
virtual_mailbox_domains = @{domain}
virtual_mailbox_base = @{root}/mail
virtual_mailbox_maps = inline:{
  { alice@@{domain} = alice/ }, { bob@@{domain} = bob/ }, { carol@@{domain} = carol/ } }
virtual_minimum_uid = 1
virtual_uid_maps = static:@{nobody}
virtual_gid_maps = static:@{nobody}
message_size_limit = 52428800
mailbox_size_limit = 0
virtual_mailbox_limit = 0
smtpd_recipient_restrictions =
  permit_mynetworks, permit_sasl_authenticated, reject_unauth_destination
smtpd_tls_security_level = may
smtpd_tls_cert_file = @{certificate}
smtpd_tls_key_file = @{key}
smtpd_forbid_unauth_pipelining = yes
smtpd_forbid_bare_newline = reject
smtpd_forbid_bare_newline_exclusions =
"""

SASL_CF = """\
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = inet:127.0.0.1:@{sasl_port}
smtpd_sasl_security_options =
"""

MASTER_CF = """\
127.0.0.1:@{port} inet n - n - - smtpd
127.0.0.1:@{tls_port} inet n - n - - smtpd
  -o smtpd_tls_wrappermode=yes
smtpd-unix unix n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""

PRIVATE_DIRECTORIES = (
    "active",
    "bounce",
    "corrupt",
    "defer",
    "deferred",
    "flush",
    "hold",
    "incoming",
    "private",
    "saved",
    "trace",
)

# In the order in which a message passes through them, so that a check in this order cannot miss a
# message that moves.
QUEUES = ("maildrop", "incoming", "active", "deferred", "hold")


class Postfix(RealServer):
    """Postfix on `port` (STARTTLS), `tls_port` (implicit TLS) and `socket_path`."""

    name = "postfix"
    programs = (MASTER,)
    accounts = ("postfix",)
    log_files = ("output", "mail.log")

    def __init__(
        self, certificates: Certificates, *, sasl_port: int | None = None, main_cf: str = ""
    ) -> None:
        """Offer AUTH if given Dovecot's `sasl_port`; `main_cf` lines override the ones here."""
        super().__init__()
        self.certificates = certificates
        self.tls_port = free_port()
        self.sasl_port = sasl_port
        self.main_cf = main_cf

    @property
    def socket_path(self) -> Path:
        """The UNIX socket on which SMTP is spoken."""
        return self.root / "spool/public/smtpd-unix"

    def ports(self) -> list[int]:
        return [self.port, self.tls_port]

    def configure(self) -> None:
        # `postfix check` would make these directories too, but takes 1.7 seconds.
        postfix = pwd.getpwnam("postfix").pw_uid
        postdrop = grp.getgrnam("postdrop").gr_gid
        self.make_directories("spool", "spool/pid")
        self.make_directories("data", owner=postfix)
        self.make_directories("mail", owner=NOBODY, group=NOBODY)
        for name in PRIVATE_DIRECTORIES:
            self.make_directories(f"spool/{name}", owner=postfix, mode=0o700)
        self.make_directories("spool/maildrop", owner=postfix, group=postdrop, mode=0o730)
        self.make_directories("spool/public", owner=postfix, group=postdrop, mode=0o710)
        sasl_cf = "" if self.sasl_port is None else fill(SASL_CF, sasl_port=self.sasl_port)
        main_cf = fill(
            MAIN_CF,
            root=self.root,
            hostname=HOSTNAME,
            domain=DOMAIN,
            nobody=NOBODY,
            certificate=self.certificates.server_file,
            key=self.certificates.server_key_file,
        )
        master_cf = fill(MASTER_CF, port=self.port, tls_port=self.tls_port)
        for name, text in (("main.cf", main_cf + sasl_cf + self.main_cf), ("master.cf", master_cf)):
            path = self.write(f"etc/{name}", text)
            # Postfix distrusts a file younger than two seconds and waits until it is older.
            past = time.time() - 60
            os.utime(path, (past, past))

    def command(self) -> list[str]:
        return [str(MASTER), "-c", str(self.root / "etc"), "-s"]

    def wait_until_queue_empty(self, timeout: float = 10.0) -> None:
        """Wait until every accepted message is delivered, bounced or discarded."""
        if not wait_until(lambda: not self._queued(), timeout):
            raise AssertionError(f"still queued: {self._queued()}\n{self.logs()}")

    def _queued(self) -> list[str]:
        return [
            name
            for queue in QUEUES
            for _, _, names in os.walk(self.root / "spool" / queue)
            for name in names
        ]
