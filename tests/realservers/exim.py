"""Exim: SMTP with PIPECONNECT, PRDR, chunking, and AUTH EXTERNAL by client certificate.

It counts commands: after more than ten non-mail commands (such as NOOP) it closes the
connection.  With `pipelining_connect=False` it also rejects clients that speak before it has
greeted.

The binary is unpacked, not installed, hence `exim_path`; and as its configuration is not the
compiled-in one, it may not regain root for a delivery, hence `deliver_drop_privilege`.
"""

import pwd

from tests.realservers.base import DOMAIN, HOSTNAME, SERVERS_DIR, RealServer, fill, free_port
from tests.realservers.certificates import CLIENT_NAME, Certificates

EXIM = SERVERS_DIR / "exim/usr/sbin/exim4"
ACCOUNT = "Debian-exim"

MAIN_CONF = """\
exim_path = @{exim}
spool_directory = @{root}/spool
log_file_path = @{root}/log/%slog
pid_file_path = @{root}/exim.pid
primary_hostname = @{hostname}
local_interfaces = 127.0.0.1
daemon_smtp_ports = @{port} : @{tls_port}
tls_on_connect_ports = @{tls_port}
tls_certificate = @{certificate}
tls_privatekey = @{key}
tls_advertise_hosts = *
tls_try_verify_hosts = *
tls_verify_certificates = @{ca}
chunking_advertise_hosts = *
pipelining_connect_advertise_hosts = @{pipelining_connect}
smtputf8_advertise_hosts = *
dsn_advertise_hosts = *
prdr_enable = true
message_size_limit = @{size_limit}
deliver_drop_privilege = true
keep_environment =
rfc1413_query_timeout = 0s
host_lookup =
smtp_accept_max = 200
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
recipients_max = 50000
acl_smtp_vrfy = accept
acl_smtp_rcpt = acl_rcpt
"""

SECTIONS = """\

begin acl
acl_rcpt:
  accept authenticated = *
  accept domains = @{domain}
         verify = recipient
  deny message = relay not permitted

begin routers
local:
  driver = accept
  domains = @{domain}
  local_parts = alice : bob : carol
  transport = maildir

begin transports
maildir:
  driver = appendfile
  directory = @{root}/mail/$local_part_data
  maildir_format
  create_directory
  return_path_add
  envelope_to_add

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = ${if and{{eq{$auth2}{alice}}{eq{$auth3}{wonderland}}}}
  server_set_id = $auth2
login:
  driver = plaintext
  public_name = LOGIN
  server_prompts = Username:: : Password::
  server_condition = ${if and{{eq{$auth1}{alice}}{eq{$auth2}{wonderland}}}}
  server_set_id = $auth1
cram:
  driver = cram_md5
  public_name = CRAM-MD5
  server_secret = ${if eq{$auth1}{alice}{wonderland}fail}
  server_set_id = $auth1
external:
  driver = external
  public_name = EXTERNAL
  server_advertise_condition = $tls_in_certificate_verified
  server_param2 = ${certextract {subject,CN}{$tls_in_peercert}}
  server_condition = ${if eq {$auth2}{@{client_name}}}
  server_set_id = $auth2
"""


class Exim(RealServer):
    """Exim on `port` (STARTTLS) and `tls_port` (implicit TLS); only alice can log in."""

    name = "exim"
    programs = (EXIM,)
    accounts = (ACCOUNT,)
    log_files = ("output", "log/*")

    def __init__(
        self,
        certificates: Certificates,
        *,
        pipelining_connect: bool = True,
        size_limit: str = "50M",
        main_conf: str = "",
    ) -> None:
        """`main_conf` lines are added to the main section, where none may be set twice."""
        super().__init__()
        self.certificates = certificates
        self.tls_port = free_port()
        self.pipelining_connect = pipelining_connect
        self.size_limit = size_limit
        self.main_conf = main_conf

    def ports(self) -> list[int]:
        return [self.port, self.tls_port]

    def configure(self) -> None:
        account = pwd.getpwnam(ACCOUNT)
        self.make_directories("spool", "log", "mail", owner=account.pw_uid, group=account.pw_gid)
        main_conf = fill(
            MAIN_CONF,
            exim=EXIM,
            root=self.root,
            hostname=HOSTNAME,
            port=self.port,
            tls_port=self.tls_port,
            certificate=self.certificates.server_file,
            key=self.certificates.server_key_file,
            ca=self.certificates.ca_file,
            pipelining_connect="*" if self.pipelining_connect else "",
            size_limit=self.size_limit,
        )
        sections = fill(SECTIONS, root=self.root, domain=DOMAIN, client_name=CLIENT_NAME)
        self.write("exim.conf", main_conf + self.main_conf + sections)

    def command(self) -> list[str]:
        return [str(EXIM), "-C", str(self.root / "exim.conf"), "-bdf"]
