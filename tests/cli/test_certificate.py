"""Reading certificates: what OpenSSL says of them is said here too."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import certifi
import pytest
import trustme

from smtpconn.cli.certificate import read
from tests.realservers.certificates import SERVER_NAMES, Certificates


def der(pem: bytes) -> bytes:
    """A certificate's octets."""
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def test_a_servers_certificate(certificates: Certificates) -> None:
    """Names, issuer, dates and fingerprint are read."""
    pem = certificates.server_file.read_text().split("-----END CERTIFICATE-----")[0]
    found = read(ssl.PEM_cert_to_DER_cert(pem + "-----END CERTIFICATE-----"))
    assert set(found.names) == set(SERVER_NAMES)
    assert "CN=mx.example.test" in found.subject
    assert "O=trustme" in found.issuer
    assert not found.is_self_signed
    assert found.not_before < datetime.now(UTC) < found.not_after
    assert len(found.sha256.split(":")) == 32


def test_days_left() -> None:
    """Whole days, below 0 when it is over."""
    end = datetime(2020, 1, 31, 12, tzinfo=UTC)
    pem = trustme.CA().issue_cert("mx.example.com", not_after=end).cert_chain_pems[0].bytes()
    found = read(der(pem))
    assert found.not_after == end
    assert found.days_left(end - timedelta(days=10, hours=1)) == 10
    assert found.days_left(end - timedelta(hours=1)) == 0
    assert found.days_left(end + timedelta(hours=1)) == -1


def test_addresses_and_wildcards() -> None:
    """IP addresses of both kinds and wildcards are names."""
    names = ["*.example.com", "192.0.2.7", "2001:db8::1"]
    found = read(der(trustme.CA().issue_cert(*names).cert_chain_pems[0].bytes()))
    assert set(found.names) == set(names)


def test_every_certificate_of_the_authorities() -> None:
    """What OpenSSL reads of certifi's authorities is what is read here: dates and names."""
    context = ssl.create_default_context(cafile=certifi.where())
    for octets, theirs in zip(
        context.get_ca_certs(binary_form=True), context.get_ca_certs(), strict=True
    ):
        ours = read(octets)
        not_after = theirs["notAfter"]
        assert isinstance(not_after, str)
        assert ours.not_after.timestamp() == ssl.cert_time_to_seconds(not_after)
        assert ours.is_self_signed == (theirs["subject"] == theirs["issuer"])
        for attributes in theirs["subject"]:
            assert isinstance(attributes, tuple)
            for name, value in attributes:  # type: ignore[str-unpack]
                assert name != "commonName" or f"CN={value}" in ours.subject


@pytest.mark.parametrize(
    "octets", [b"", b"0", b"\x30\x03\x02\x01\x01", b"\x30\x82\xff\xff", b"a" * 99]
)
def test_what_is_no_certificate(octets: bytes) -> None:
    """Garbage is a ValueError, nothing else."""
    with pytest.raises(ValueError, match=r"not a certificate|unpack"):
        read(octets)


def test_a_certificate_that_is_cut_off() -> None:
    """At every octet."""
    whole = der(trustme.CA().issue_cert("mx.example.com").cert_chain_pems[0].bytes())
    for end in range(len(whole)):
        with pytest.raises(ValueError):  # noqa: PT011 - which of its texts does not matter
            read(whole[:end])
