"""Credential of a cluster: a file that all its parts have, and nobody else.

    master, launcher    load_or_make() --> made if there is none; if two make one at once, one wins
    worker, client      load()         --> CredentialMissing until it exists: they never make one
    a user              python -m cw.credential [--new | --copy HOST]

The file is `~/.cw/credential.pem`, or the one that CW_CREDENTIAL names: a self-signed certificate and its private key.
Both ends of a connection prove that they have the key, and accept only this very certificate from the other end
(cw.net.tls). It contains no authority, no name and no expiry. Whoever has the file owns the cluster: its mode is 0600,
and it is refused if others could have read or written it.

The package `cryptography` makes the certificate and is loaded for nothing else; `ssl` is not loaded here, since peers
on one machine do without it.
"""

from __future__ import annotations

import binascii
import contextlib
import hashlib
import hmac
import os
import re
import shlex
import stat
from collections.abc import Iterable

from cw import advice, program, userdir
from cw.errors import Error
from cw.program import UserError

OF_MASTERS: dict[tuple[str, int], str] = {}
"""Files of the credentials of masters that have one of their own, by (host, port). Launchers add theirs."""

MAX_FILE_SIZE = 64 * 1024
"""Maximum number of bytes read from the file, which has some 1,000."""

_CERTIFICATE = re.compile(rb"-----BEGIN CERTIFICATE-----\s([A-Za-z0-9+/=\s]+)-----END CERTIFICATE-----")


class CredentialError(UserError, Error, OSError):
    """The credential cannot be used; the text is one sentence that says what to do."""

    may_pass = False
    """True if the error may pass by itself: a network file system may show a new file late."""


class CredentialMissing(CredentialError):
    """There is no credential, or not yet."""

    may_pass = True


class WrongCredential(CredentialError):
    """The other end has another credential than this one, which may still be an old copy."""

    may_pass = True


class Credential:
    """Content of the file."""

    def __init__(self, path: str, pem: bytes) -> None:
        """Read a credential from bytes. Raises CredentialError if they are none."""
        found = _CERTIFICATE.findall(pem)
        try:
            if len(found) != 1 or b"PRIVATE KEY-----" not in pem:
                raise ValueError
            self.certificate = binascii.a2b_base64(found[0])
        except ValueError:
            raise CredentialError(
                f"{path} is no credential (one certificate and its private key): "
                f"copy it again, or make a new one with `{advice.module('credential', '--new')}`"
            ) from None
        self.path = path
        self.pem = pem
        self.fingerprint = hashlib.sha256(self.certificate).hexdigest()
        """Digest of the certificate. Not secret: a master shows the certificate to every peer that connects."""

    def hash_seed(self) -> str:
        """Return a PYTHONHASHSEED: the same for all peers with this file, and unpredictable for others."""
        digest = hmac.digest(b"".join(self.pem.split()), b"PYTHONHASHSEED", "sha256")
        return str(1 + int.from_bytes(digest, "big") % (2**32 - 1))

    def __repr__(self) -> str:
        return f"<Credential {self.path}>"  # never its content


def credential_file() -> str:
    """Return the path of the credential, which need not exist."""
    named = os.environ.get("CW_CREDENTIAL")
    return os.path.abspath(named) if named else os.path.join(userdir.home_directory(), "credential.pem")


def load(path: str = "") -> Credential:
    """Load the credential, or the one in this file. Raises CredentialMissing or CredentialError."""
    try:
        path = path or credential_file()
        pem = _read(path)
    except userdir.HomeError as error:
        raise CredentialError(str(error)) from None
    if pem is None:
        raise CredentialMissing(
            f"there is no credential at {path}: a master makes it where it runs ({advice.elsewhere('master')}); "
            "copy it from there if this machine does not share that directory "
            f"(`{advice.elsewhere('credential', '--copy', 'HOST')}`, run there, says how)"
        )
    return Credential(path, pem)


def load_or_make(path: str = "") -> Credential:
    """Load the credential, or the one in this file; make one if there is none. Raises CredentialError."""
    with contextlib.suppress(CredentialMissing):
        return load(path)
    _write(path or credential_file(), _new_pem(), is_replacing=False)
    return load(path)  # perhaps that of another process, which was faster


def fault_among(failures: Iterable[BaseException]) -> CredentialError | None:
    """Return the failure to connect that is about the credential, if any: the user must mend this one first."""
    return next((error for error in failures if isinstance(error, CredentialError)), None)


def make_new() -> Credential:
    """Make a new credential in place of the present one. Raises CredentialError."""
    _write(credential_file(), _new_pem(), is_replacing=True)
    return load()


def _read(path: str) -> bytes | None:
    if not os.environ.get("CW_CREDENTIAL") and not userdir.check_home():
        return None
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CredentialError(
            f"cannot read the credential {path} ({error.strerror}): it must be a file of your own, mode 0600"
        ) from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise CredentialError(f"the credential {path} is no file: move it away, or set CW_CREDENTIAL")
        # Another user's link may lead to any file of ours.
        if {status.st_uid, os.lstat(path).st_uid} != {os.geteuid()}:
            raise CredentialError(
                f"the credential {path} belongs to another user: set CW_CREDENTIAL to a copy of your own"
            )
        if status.st_mode & 0o077:
            raise CredentialError(
                f"the credential {path} is open to other users (mode {stat.S_IMODE(status.st_mode):04o}): run "
                f"`chmod 600 {shlex.quote(path)}`, or if they may have read it, "
                f"`{advice.module('credential', '--new')}`"
            )
        return os.read(descriptor, MAX_FILE_SIZE)
    finally:
        os.close(descriptor)


def _write(path: str, pem: bytes, is_replacing: bool) -> None:
    """Write the file atomically: readers see all of it or nothing. An existing one stays, unless `is_replacing`."""
    temporary = f"{path}.{os.urandom(8).hex()}.tmp"
    try:
        userdir.make_home()  # the lock is in there
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                os.fchmod(descriptor, 0o600)  # whatever the umask is
                file.write(pem)
                file.flush()
                os.fsync(descriptor)
            with userdir.locked("credential.lock"):
                if is_replacing or not _links(temporary, path):
                    os.rename(temporary, path)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
    except userdir.HomeError as error:
        raise CredentialError(str(error)) from None
    except OSError as error:
        raise CredentialError(
            f"cannot make the credential {path} ({error.strerror}): see that its directory is there and your own, "
            "or set CW_CREDENTIAL to another file"
        ) from None


def _links(temporary: str, path: str) -> bool:
    """Give the file its name unless a file has it: atomically, even between machines. False: the file system has no
    links, and no file has the name."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError:
        return os.path.lexists(path)
    return True


def _new_pem() -> bytes:
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ImportError as error:
        raise CredentialError(
            f"to make a credential, cw needs the package `cryptography` ({error}): pip install cryptography"
        ) from None
    import datetime

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "cw cluster")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        # Always valid: a machine with a wrong clock must not be kept out, and no expiry must surprise users.
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31, 23, 59, 59))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM) + private


# --- the program ------------------------------------------------------------------------------


def copy_command(path: str, host: str) -> str:
    """Return the shell command that copies the credential to the place where cw looks for it on another machine."""
    put = "umask 077 && mkdir -p .cw && cat >.cw/credential.pem"
    return f"ssh {shlex.quote(host)} {shlex.quote(put)} <{shlex.quote(path)}"


def main() -> int:
    """Run `python -m cw.credential`; returns the exit status."""
    parser = program.argument_parser(
        "cw.credential",
        "Shows the path and fingerprint of the credential. Anyone with this file can run programs as you; without it, "
        "nobody can connect. The first master or local cluster makes it.",
    )
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--new", action="store_true", help="make a new credential in place of the old one")
    group.add_argument("--copy", metavar="HOST", help="print the command that copies it to another machine")
    options = parser.parse_args()
    found = make_new() if options.new else load()
    if options.copy:
        print(copy_command(found.path, options.copy))
        return 0
    print(found.path)
    print(f"SHA-256 {found.fingerprint}")
    if options.new:
        print("restart what runs with the old one, and copy the new one to where the old one was copied")
    return 0


if __name__ == "__main__":
    program.run("cw.credential", main)
