"""What the development authority signs."""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import ExtensionOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

from agentmetal.dev.controlplane.certificates import Authority, signing_key


def authority(directory: Path, name: str = "ca") -> Authority:
    made = Authority(directory, name)
    made.prepare()
    return made


def test_client_is_named_by_common_name_and_organizations(tmp_path: Path) -> None:
    subject = x509.load_pem_x509_certificate(authority(tmp_path).client("ann", ["staff", "ops"]).read_bytes()).subject
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["ann"]
    assert [a.value for a in subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)] == ["staff", "ops"]


def test_server_certificate_verifies_strictly_for_its_name(tmp_path: Path) -> None:
    made = authority(tmp_path)
    pair = made.server("api", ("localhost", "127.0.0.1"))
    trusted = Store([x509.load_pem_x509_certificate(made.certificate.read_bytes())])
    leaf = x509.load_pem_x509_certificate(pair.read_bytes())
    verifier = PolicyBuilder().store(trusted).build_server_verifier(x509.DNSName("localhost"))
    assert verifier.verify(leaf, [])[0] == leaf
    names = leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert isinstance(names, x509.SubjectAlternativeName)
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]


def test_pair_is_one_private_file_that_tls_takes(tmp_path: Path) -> None:
    pair = authority(tmp_path).client("ann")
    assert pair.stat().st_mode & 0o777 == 0o600
    ssl.create_default_context().load_cert_chain(pair)


def test_second_call_returns_the_first_pair(tmp_path: Path) -> None:
    first = authority(tmp_path).client("ann").read_bytes()
    assert authority(tmp_path).client("ann").read_bytes() == first


def test_same_user_with_other_groups_gets_another_certificate(tmp_path: Path) -> None:
    made = authority(tmp_path)
    first = made.client("ann").read_bytes()
    assert made.client("ann", ["ops"]).read_bytes() != first


def test_authority_whose_certificate_was_never_written_is_made_anew(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text("half of a start that was interrupted")
    assert authority(tmp_path).client("ann").exists()


def test_token_keys_are_made_once(tmp_path: Path) -> None:
    private, public = signing_key(tmp_path, "tokens")
    before = private.read_bytes(), public.read_bytes()
    signing_key(tmp_path, "tokens")
    assert (private.read_bytes(), public.read_bytes()) == before
    assert b"BEGIN PUBLIC KEY" in before[1]
