"""Cyrus lmtpd: LMTP with AUTH, the one server which offers SCRAM with channel binding.

After STARTTLS it has SCRAM-SHA-1-PLUS and SCRAM-SHA-256-PLUS (tls-unique only).  `port` needs no
login; `auth_port` and the UNIX socket do.  Recipients have no domain (`alice`); a mailbox comes
into being with the first message for it, for any user.

To log in there is `ADMIN`: LMTP clients are programs, not the users whose mail they bring.
"""

import os
import subprocess
from pathlib import Path

from tests.realservers.base import HOSTNAME, NOBODY, SERVERS_DIR, RealServer, fill, free_port
from tests.realservers.certificates import Certificates

TREE = SERVERS_DIR / "cyrus"
CYRMASTER = TREE / "usr/sbin/cyrmaster"
SASLPASSWD = Path("/usr/sbin/saslpasswd2")
ADMIN = ("admin", "wonderland")

IMAPD_CONF = """\
cyrus_user: nobody
cyrus_group: nogroup
configdirectory: @{root}/lib
partition-default: @{root}/spool
defaultpartition: default
mailbox_legacy_dirs: yes
sievedir: @{root}/sieve
servername: @{hostname}
admins: @{admin}
lmtp_admins: @{admin}
altnamespace: yes
unixhierarchysep: yes
autocreate_quota: 0
autocreate_post: yes
sasl_pwcheck_method: auxprop
sasl_auxprop_plugin: sasldb
sasl_sasldb_path: @{root}/lib/sasldb2
sasl_mech_list: PLAIN LOGIN CRAM-MD5 DIGEST-MD5 SCRAM-SHA-1 SCRAM-SHA-256
allowplaintext: yes
tls_server_cert: @{certificate}
tls_server_key: @{key}
tls_client_ca_file: @{ca}
lmtpsocket: @{root}/run/lmtp
idlesocket: @{root}/run/idle
notifysocket: @{root}/run/notify
"""

CYRUS_CONF = """\
START {
  recover cmd="@{bin}/ctl_cyrusdb -C @{root}/imapd.conf -r"
}
SERVICES {
  auth cmd="@{bin}/lmtpd -C @{root}/imapd.conf" listen="127.0.0.1:@{auth_port}" proto="tcp4"
  lmtp cmd="@{bin}/lmtpd -C @{root}/imapd.conf -a" listen="127.0.0.1:@{port}" proto="tcp4"
  unix cmd="@{bin}/lmtpd -C @{root}/imapd.conf" listen="@{root}/run/lmtp"
}
EVENTS {
}
"""


class Cyrus(RealServer):
    """Cyrus lmtpd on `port`; on `auth_port` and `socket_path` it wants AUTH."""

    name = "cyrus"
    programs = (CYRMASTER, SASLPASSWD)
    mailbox = "spool/user/{user}/[0-9]*."

    def __init__(self, certificates: Certificates) -> None:
        super().__init__()
        self.certificates = certificates
        self.auth_port = free_port()

    @property
    def socket_path(self) -> Path:
        """The UNIX socket on which LMTP is spoken."""
        return self.root / "run/lmtp"

    def ports(self) -> list[int]:
        return [self.port, self.auth_port]

    def environment(self) -> dict[str, str]:
        libraries = sorted(TREE.glob("usr/lib/*-linux-gnu*"))
        return {"LD_LIBRARY_PATH": ":".join(map(str, libraries))}

    def configure(self) -> None:
        self.make_directories("lib", "spool", "run", "sieve", owner=NOBODY, group=NOBODY)
        user, password = ADMIN
        imapd_conf = fill(
            IMAPD_CONF,
            root=self.root,
            hostname=HOSTNAME,
            admin=user,
            certificate=self.certificates.server_file,
            key=self.certificates.server_key_file,
            ca=self.certificates.ca_file,
        )
        self.write("imapd.conf", imapd_conf)
        cyrus_conf = fill(
            CYRUS_CONF,
            root=self.root,
            bin=TREE / "usr/lib/cyrus/bin",
            port=self.port,
            auth_port=self.auth_port,
        )
        self.write("cyrus.conf", cyrus_conf)
        database = self.root / "lib/sasldb2"
        subprocess.run(
            [SASLPASSWD, "-p", "-c", "-f", database, "-u", HOSTNAME, user],
            input=password.encode(),
            check=True,
        )
        os.chown(database, NOBODY, NOBODY)

    def command(self) -> list[str]:
        files = {"-C": "imapd.conf", "-M": "cyrus.conf", "-p": "run/master.pid"}
        options = [
            word for option, name in files.items() for word in (option, f"{self.root}/{name}")
        ]
        return [str(CYRMASTER), "-D", *options]
