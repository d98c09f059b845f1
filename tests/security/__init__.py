"""Known attacks on mail clients, each tried on this one.

`test_tls`: STARTTLS stripped, answered by an attacker, or done half (CVE-2016-0772, CVE-2021-22947,
the "NO STARTTLS" paper of USENIX Security 2021). `test_smuggling`: line ends and dots that servers
disagree on (CVE-2023-51764 to -51766, CVE-2021-38189). `test_injection`: commands and parameters in
arguments (CVE-2025-7962, CVE-2025-59937 and many before them). `test_exhaustion`: servers that
never end, and text that is slow to read (CVE-2013-1752, CVE-2025-14874). `test_desync`: unsolicited
replies, BDAT refused early, QUIT sent too soon. `test_secrets`: what logs, errors and their causes
show, weaker logins, and connections of other users.

The servers of `tests.support.recording_servers` keep every byte that the client sends. Each test's
docstring is a promise, which SECURITY.md and docs/reliability.md repeat; the latter lists every
attack with its tests.
"""
