"""OpenSMTPD: the strict server without PIPELINING, CHUNKING, AUTH or usable TLS.

A second command in the same packet is answered `500 ... Pipelining not supported` and the end of
the connection; so is a second EHLO refused.  (Debian 12's build advertises STARTTLS but every
handshake fails, and AUTH is offered only after TLS; so neither is set up.)

Its paths are compiled in.  It therefore runs in a mount namespace of its own, where directories of
this server lie over the real ones.  It has a PID namespace too, for its delivery agents leave the
process group: when the namespace ends, the kernel ends them.
"""

import signal
from pathlib import Path

from tests.realservers.base import DOMAIN, HOSTNAME, NOBODY, SERVERS_DIR, RealServer, fill

TREE = SERVERS_DIR / "opensmtpd"
SMTPD = TREE / "usr/sbin/smtpd"
UNSHARE = Path("/usr/bin/unshare")

SMTPD_CONF = """\
table users { "alice@@{domain}" = "nobody", "bob@@{domain}" = "nobody", \
"carol@@{domain}" = "nobody" }
smtp max-message-size "50M"
listen on 127.0.0.1 port @{port} hostname "@{hostname}"
action "store" maildir "@{root}/mail/%{dest.user:lowercase}" virtual <users>
match from any for domain "@{domain}" action "store"
"""

# The mount points must exist outside too; they stay empty there.
START_SH = """\
set -e
mount --make-rprivate /
mkdir -p /var/spool/smtpd /var/lib/opensmtpd /usr/libexec/opensmtpd
mount --bind @{root}/spool /var/spool/smtpd
mount --bind @{root}/lib /var/lib/opensmtpd
mount --bind @{tree}/usr/libexec/opensmtpd /usr/libexec/opensmtpd
mount --bind @{root}/run /run
exec @{smtpd} -d -f @{root}/smtpd.conf
"""


class OpenSMTPD(RealServer):
    """OpenSMTPD on `port`."""

    name = "opensmtpd"
    programs = (SMTPD, UNSHARE)
    accounts = ("opensmtpd", "opensmtpq")
    # unshare blocks SIGTERM.
    stop_signal = signal.SIGKILL

    def configure(self) -> None:
        self.make_directories("run", "lib/empty")
        self.make_directories("spool", mode=0o711)
        self.make_directories("mail", owner=NOBODY, group=NOBODY)
        smtpd_conf = fill(
            SMTPD_CONF, root=self.root, hostname=HOSTNAME, domain=DOMAIN, port=self.port
        )
        self.write("smtpd.conf", smtpd_conf)
        self.write("start.sh", fill(START_SH, root=self.root, tree=TREE, smtpd=SMTPD))

    def command(self) -> list[str]:
        namespaces = ["--mount", "--pid", "--fork", "--kill-child"]
        return [str(UNSHARE), *namespaces, "sh", str(self.root / "start.sh")]
