"""A site's CA for tests, made by openssl: certificates of hosts, as a site would have them made."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from perun_hpc.archive.certificates import Certificates

_EC = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def openssl(*words: str | Path) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@dataclass(frozen=True)
class Authority:
    """A CA in a directory."""

    home: Path

    @property
    def ca(self) -> Path:
        return self.home / "ca.pem"

    @classmethod
    def begin(cls, home: Path, name: str = "site") -> Authority:
        home.mkdir(parents=True, exist_ok=True)
        openssl("req", "-x509", *_EC, "-days", "30", "-subj", f"/CN={name}", "-keyout", home / "ca.key",
                "-out", home / "ca.pem")  # fmt: skip
        return cls(home)

    def issue(
        self, name: str, names: Sequence[str], days: int = 20, usage: str = "serverAuth,clientAuth"
    ) -> Certificates:
        """A certificate of these names (`DNS:n1`, `IP:127.0.0.1`); with `days` below 0 it is out of date."""
        key, request, cert, more = (self.home / f"{name}.{end}" for end in ("key", "csr", "pem", "ext"))
        named = f"subjectAltName={','.join(names)}\n" if names else ""
        more.write_text(f"{named}extendedKeyUsage={usage}\n")
        openssl("req", *_EC, "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", request, "-CA", self.ca, "-CAkey", self.home / "ca.key", "-CAcreateserial",
                "-days", str(days), "-extfile", more, "-out", cert)  # fmt: skip
        key.chmod(0o600)
        return Certificates(cert, key, self.ca)

    def revoke(self, cert: Path, *dates: str) -> bytes:
        """Take a certificate back; the CA's list of those, of these dates (options of `openssl ca`)."""
        config, database = self.home / "ca.conf", self.home / "index"
        database.touch()
        config.write_text(
            f"[ca]\ndefault_ca=site\n[site]\ndatabase={database}\ndefault_md=sha256\ndefault_crl_days=30\n"
            f"certificate={self.ca}\nprivate_key={self.home / 'ca.key'}\n"
        )
        openssl("ca", "-config", config, "-revoke", cert)
        openssl("ca", "-config", config, "-gencrl", *dates, "-out", self.home / "crl.pem")
        return (self.home / "crl.pem").read_bytes()
