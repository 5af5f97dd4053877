"""The credential's file: how it comes to be, and when it is not trusted. No process but `python -m cw.credential`."""

import datetime
import multiprocessing
import os
import stat
import subprocess
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cw import credential, userdir
from cw.credential import CredentialError, CredentialMissing
from cw.net import tls


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    """A user's own directory that is not there yet, and no credential named."""
    path = tmp_path / "home"
    monkeypatch.setenv("CW_HOME", str(path))
    monkeypatch.delenv("CW_CREDENTIAL")
    return path


def mode_of(path):
    return stat.S_IMODE(os.stat(path).st_mode)


def make_pem(
    begin=datetime.datetime(2000, 1, 1),
    end=datetime.datetime(2100, 1, 1),
    key=None,
    password=None,
    is_authority=True,
):
    """A credential of somebody else's making."""
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "by hand")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .sign(own, hashes.SHA256())
    )
    hidden = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    private = (key or own).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, hidden
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private


def put(path, pem):
    path.write_bytes(pem)
    path.chmod(0o600)


# --- making one -------------------------------------------------------------------------------


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_it_is_made_where_there_is_none_and_is_private_whatever_the_umask_is(directory, umask):
    old = os.umask(umask)
    try:
        made = credential.load_or_make()
    finally:
        os.umask(old)
    assert made.path == str(directory / "credential.pem")
    assert mode_of(directory) == 0o700
    assert {path.name: mode_of(path) for path in directory.iterdir()} == {
        "credential.pem": 0o600,
        "credential.lock": 0o600,
    }


def test_one_that_is_there_is_kept():
    made = credential.load_or_make()
    assert credential.load_or_make().pem == credential.load().pem == made.pem


def test_it_is_valid_from_well_in_the_past_and_without_an_end():
    certificate = x509.load_der_x509_certificate(credential.load_or_make().certificate)
    assert certificate.not_valid_before_utc.year == 2000
    assert certificate.not_valid_after_utc.year == 9999


def test_each_one_is_another():
    first = credential.load_or_make()
    second = credential.make_new()
    assert first.fingerprint != second.fingerprint == credential.load().fingerprint


def _make(barrier, answers):
    barrier.wait(30)
    answers.put(credential.load_or_make().fingerprint)


def test_of_several_that_make_it_at_once_all_get_the_same(directory):
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(6), context.Queue()
    processes = [context.Process(target=_make, args=(barrier, answers)) for _ in range(6)]
    for process in processes:
        process.start()
    assert {answers.get(timeout=30) for _ in processes} == {credential.load().fingerprint}
    for process in processes:
        process.join(30)
    assert sorted(path.name for path in directory.iterdir()) == ["credential.lock", "credential.pem"]


def test_it_is_made_on_a_file_system_without_links_too(directory, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    made = credential.load_or_make()
    assert credential.load_or_make().pem == made.pem
    assert sorted(path.name for path in directory.iterdir()) == ["credential.lock", "credential.pem"]


def test_without_the_package_that_makes_certificates_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(CredentialError, match="pip install cryptography"):
        credential.load_or_make()


def test_where_it_cannot_be_made_it_is_said_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("CW_CREDENTIAL", str(tmp_path / "not there" / "credential.pem"))
    with pytest.raises(CredentialError, match="cannot make the credential .*not there.* set CW_CREDENTIAL"):
        credential.load_or_make()


# --- finding it -------------------------------------------------------------------------------


def test_clients_and_workers_never_make_one(directory):
    with pytest.raises(CredentialMissing, match="no credential at .*credential.pem: a master makes it"):
        credential.load()
    assert not directory.exists()


def test_a_variable_names_another_file(tmp_path, monkeypatch):
    first = credential.load_or_make()
    monkeypatch.setenv("CW_CREDENTIAL", str(tmp_path / "second.pem"))
    with pytest.raises(CredentialMissing, match="second.pem"):
        credential.load()
    second = credential.load_or_make()
    assert second.path == str(tmp_path / "second.pem")
    assert mode_of(second.path) == 0o600
    assert second.fingerprint != first.fingerprint


def test_a_link_of_ones_own_is_followed(directory, tmp_path):
    made = credential.load_or_make()
    os.rename(made.path, tmp_path / "elsewhere.pem")
    os.symlink(tmp_path / "elsewhere.pem", made.path)
    assert credential.load().pem == made.pem


# --- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602, 0o610])
def test_one_that_is_open_to_others_is_refused_with_the_way_out(mode):
    path = credential.load_or_make().path
    os.chmod(path, mode)
    with pytest.raises(
        CredentialError, match=rf"{path} is open to other users \(mode {mode:04o}\).*chmod 600 {path}"
    ):
        credential.load_or_make()


def test_one_of_another_user_is_refused(monkeypatch):
    path = credential.load_or_make().path
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 12345)
        monkeypatch.setenv("CW_CREDENTIAL", path)
    with pytest.raises(CredentialError, match="belongs to another user: set CW_CREDENTIAL"):
        credential.load()


def test_a_link_of_another_user_is_refused(tmp_path, monkeypatch):
    if os.geteuid() != 0:
        pytest.skip("only root can make one")
    made = credential.load_or_make()
    os.symlink(made.path, tmp_path / "link.pem")
    os.lchown(tmp_path / "link.pem", 12345, 12345)
    monkeypatch.setenv("CW_CREDENTIAL", str(tmp_path / "link.pem"))
    with pytest.raises(CredentialError, match="belongs to another user"):
        credential.load()


def test_one_that_cannot_be_read_is_told(monkeypatch):
    made = credential.load_or_make()
    if os.geteuid() == 0:
        real = os.open

        def fail(path, *arguments):
            if path == made.path:
                raise PermissionError(13, "Permission denied")
            return real(path, *arguments)

        monkeypatch.setattr(os, "open", fail)
    else:
        os.chmod(made.path, 0)
    with pytest.raises(CredentialError, match="cannot read the credential .*Permission denied.*mode 0600"):
        credential.load()


def test_a_directory_or_a_pipe_in_its_place_is_refused(directory):
    userdir.make_home()
    (directory / "credential.pem").mkdir()
    with pytest.raises(CredentialError, match="is no file"):
        credential.load_or_make()
    (directory / "credential.pem").rmdir()
    os.mkfifo(directory / "credential.pem", 0o600)
    with pytest.raises(CredentialError, match="is no file"):
        credential.load_or_make()


def test_an_own_directory_that_is_open_to_others_is_refused(directory):
    credential.load_or_make()
    directory.chmod(0o755)
    with pytest.raises(CredentialError, match=f"chmod 700 {directory}"):
        credential.load()


@pytest.mark.parametrize(
    "content", ["empty", "garbage", "only key", "only certificate", "two certificates", "cut"]
)
def test_a_file_that_is_no_credential_is_refused(directory, content):
    pem = credential.load_or_make().pem
    begin = pem.index(b"-----BEGIN PRIVATE")
    put(
        directory / "credential.pem",
        {
            "empty": b"",
            "garbage": b"-----BEGIN CERTIFICATE-----\n\xff\n-----END CERTIFICATE-----\nPRIVATE KEY-----",
            "only key": pem[begin:],
            "only certificate": pem[:begin],
            "two certificates": pem[:begin] + pem,
            "cut": pem[: begin + 10],
        }[content],
    )
    with pytest.raises(CredentialError, match=r"is no credential.*cw.credential --new"):
        credential.load_or_make()


@pytest.mark.parametrize("kind", ["another key", "with a password", "no certificate", "no key"])
def test_one_that_does_not_work_is_refused_before_a_connection_is_tried(directory, kind):
    userdir.make_home()
    pem = {
        "another key": lambda: make_pem(key=ec.generate_private_key(ec.SECP256R1())),
        "with a password": lambda: make_pem(password=b"secret"),
        "no certificate": lambda: (
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n" + make_pem()[-300:]
        ),
        "no key": lambda: make_pem().replace(b"BEGIN PRIVATE KEY-----\n", b"BEGIN PRIVATE KEY-----\nAAAA"),
    }[kind]()
    put(directory / "credential.pem", pem)
    with pytest.raises(CredentialError, match="credential.*copy it again, or make a new one"):
        tls.Contexts(credential.load())


@pytest.mark.parametrize(
    ("begin", "end", "text"),
    [(2001, 2002, "has expired"), (2990, 2999, "is not valid yet")],
    ids=["old", "future"],
)
def test_one_of_another_time_is_refused(directory, begin, end, text):
    userdir.make_home()
    put(directory / "credential.pem", make_pem(datetime.datetime(begin, 1, 1), datetime.datetime(end, 1, 1)))
    with pytest.raises(CredentialError, match=f"{text}.*cw.credential --new"):
        tls.Contexts(credential.load())


# --- the program ------------------------------------------------------------------------------


def run(*arguments, **environment):
    """(exit status, stdout, stderr) of `python -m cw.credential`."""
    done = subprocess.run(
        [sys.executable, "-m", "cw.credential", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout, done.stderr


def test_the_program_shows_where_it_is_and_its_fingerprint_but_not_what_is_in_it():
    made = credential.load_or_make()
    status, out, err = run()
    assert (status, err) == (0, "")
    assert out == f"{made.path}\nSHA-256 {made.fingerprint}\n"
    secret = made.pem.splitlines()[-2].decode()
    assert secret not in out + repr(made)


def test_the_program_makes_a_new_one_and_says_what_that_means():
    old = credential.load_or_make()
    status, out, _ = run("--new")
    new = credential.load()
    assert status == 0 and new.fingerprint in out and "restart" in out
    assert new.fingerprint != old.fingerprint and mode_of(new.path) == 0o600


def test_without_a_credential_the_program_says_so_in_one_line():
    status, out, err = run()
    assert (status, out) == (1, "")
    assert err.count("\n") == 1 and "there is no credential at" in err


def test_the_command_that_copies_it_makes_a_private_file_over_there(tmp_path):
    """With a stand-in for ssh that runs the command here, in another home."""
    made = credential.load_or_make()
    there = tmp_path / "there"
    there.mkdir()
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text('#!/bin/sh\n[ "$1" = "node7 & co" ] && cd "$HOME" && umask 0 && exec sh -c "$2"\n')
    ssh.chmod(0o755)
    status, out, _ = run("--copy", "node7 & co")
    assert status == 0 and out.count("\n") == 1
    environment = {**os.environ, "PATH": f"{ssh.parent}:{os.environ['PATH']}", "HOME": str(there)}
    for _ in range(2):  # it may be there already
        subprocess.run(["sh", "-c", out], env=environment, check=True, timeout=60)
    assert (there / ".cw" / "credential.pem").read_bytes() == made.pem
    assert mode_of(there / ".cw") == 0o700 and mode_of(there / ".cw" / "credential.pem") == 0o600


def test_the_hash_seed_is_that_of_the_file_and_one_that_python_takes(directory):
    first = credential.load_or_make()
    put(
        directory / "credential.pem", first.pem.replace(b"\n", b"\r\n") + b"\n"
    )  # copied by way of another system
    assert credential.load().hash_seed() == first.hash_seed()
    assert 1 <= int(first.hash_seed()) < 2**32
    assert credential.make_new().hash_seed() != first.hash_seed()
