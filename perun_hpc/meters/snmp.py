"""SNMPv3 (RFC 3414, 3826) by pysnmp, the extra `meters`: objects of one device, within a limit.

All devices share one event loop in a thread of its own; each has an engine, since an engine knows a user's name once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from perun_hpc.errors import AccessError, ConfigError, DataError, UnavailableError
from perun_hpc.extras import remedy
from perun_hpc.meters.redfish import LIMIT_S, MOST_REFUSALS, split_host
from perun_hpc.meters.secret import Secret

if TYPE_CHECKING:
    from pysnmp.hlapi.v3arch.asyncio import SnmpEngine

T = TypeVar("T")
Value = int | str
BATCH = 20
"""Objects in one request: answers must fit into one packet."""
MOST_ROWS = 2000
RETRIES = 2
AUTHENTICATION = {
    "MD5": "USM_AUTH_HMAC96_MD5", "SHA": "USM_AUTH_HMAC96_SHA", "SHA-224": "USM_AUTH_HMAC128_SHA224",
    "SHA-256": "USM_AUTH_HMAC192_SHA256", "SHA-384": "USM_AUTH_HMAC256_SHA384", "SHA-512": "USM_AUTH_HMAC384_SHA512",
}  # fmt: skip
PRIVACY = {"DES": "USM_PRIV_CBC56_DES", "AES": "USM_PRIV_CFB128_AES", "AES-192": "USM_PRIV_CFB192_AES",
           "AES-256": "USM_PRIV_CFB256_AES"}  # fmt: skip
_REFUSALS = ("UnknownUserName", "WrongDigest", "UnsupportedSecurityLevel", "DecryptionError", "AuthenticationFailure")


class Loop:
    """The event loop that all devices share."""

    def __init__(self) -> None:
        """Start its thread."""
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, name="snmp", daemon=True).start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for something that is done there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()


class Snmp:
    """One device."""

    def __init__(self, host: str, secret: Callable[[], Secret], loop: Loop, limit_s: float = LIMIT_S) -> None:
        """Nothing is sent yet."""
        self.host, self._secret, self._loop, self._limit_s = host, secret, loop, limit_s
        self._engine: SnmpEngine | None = None
        self._stamp, self._refusals = (0, 0), 0

    def get(self, oids: Iterable[str]) -> tuple[Mapping[str, Value | None], float]:
        """Objects by their OID, None where there is none; and the middle of the requests (epoch seconds).

        Raises
        ------
        AccessError
            The credential is refused; after two such answers nothing is sent until it is another one.
        UnavailableError
            The device does not answer.
        DataError
            Its answer is none.
        """
        wanted = list(dict.fromkeys(oids))
        before_s, began = time.time(), time.monotonic()
        found: dict[str, Value | None] = {}
        for index in range(0, len(wanted), BATCH):
            part = wanted[index : index + BATCH]
            values = self._ask(part, following=False)
            found |= {oid: values.get(oid) for oid in part}
        return found, before_s + (time.monotonic() - began) / 2

    def walk(self, root: str) -> Mapping[str, Value]:
        """All objects below an OID, by theirs; raises as `get` does."""
        found: dict[str, Value] = {}
        at = root
        while len(found) < MOST_ROWS:
            ((after, value),) = self._ask([at], following=True).items() or ((at, None),)
            if value is None or not after.startswith(f"{root}.") or after in found:
                break
            found[after] = value
            at = after
        return found

    def close(self) -> None:
        """Give the engine back; raises nothing."""
        engine, self._engine = self._engine, None
        if engine is not None:

            async def close() -> None:
                engine.close_dispatcher()

            self._loop.run(close())

    def _ask(self, oids: list[str], following: bool) -> dict[str, Value | None]:
        try:
            from pysnmp.error import PySnmpError
        except ImportError as error:
            raise UnavailableError("SNMP needs pysnmp: " + remedy("'pysnmp>=7.1' cryptography")) from error
        secret = self._secret()
        if secret.stamp != self._stamp:
            self.close()
            self._stamp, self._refusals = secret.stamp, 0
        if self._refusals >= MOST_REFUSALS:
            raise AccessError(
                f"{self.host}: refused {self._refusals} times, left alone until credential {secret.name} is another "
                "one, or the service restarts"
            )
        try:
            return self._loop.run(asyncio.wait_for(self._request(secret, oids, following), self._limit_s))
        except TimeoutError:
            self.close()
            raise UnavailableError(f"{self.host}: no answer within {self._limit_s:g} s") from None
        except (PySnmpError, OSError) as error:
            raise UnavailableError(f"{self.host}: SNMP: {type(error).__name__}") from None  # its text may have keys

    async def _request(self, secret: Secret, oids: list[str], following: bool) -> dict[str, Value | None]:
        from pysnmp.hlapi.v3arch import asyncio as api

        if self._engine is None:
            self._engine = api.SnmpEngine()
        target = await api.UdpTransportTarget.create(
            split_host(self.host, 161), timeout=self._limit_s / (RETRIES + 2), retries=RETRIES
        )
        command = api.next_cmd if following else api.get_cmd
        objects = [api.ObjectType(api.ObjectIdentity(oid)) for oid in oids]
        indication, status, _, values = await command(
            self._engine, _user(secret), target, api.ContextData(), *objects, lookupMib=False
        )
        if indication:
            kind = type(indication).__name__
            if kind in _REFUSALS:
                self._refusals += 1
                raise AccessError(f"{self.host}: it refuses the credential {secret.name} ({kind}): see docs/meters.md")
            raise UnavailableError(f"{self.host}: {indication}")
        if status:
            raise DataError(f"{self.host}: SNMP error {status.prettyPrint()}")
        self._refusals = 0
        return {str(oid): _plain(value) for oid, value in values}


def _user(secret: Secret) -> Any:
    from pysnmp.hlapi.v3arch import asyncio as api

    kinds = []
    for key, known, default in (("auth-protocol", AUTHENTICATION, "SHA-256"), ("privacy-protocol", PRIVACY, "AES")):
        word = secret.values.get(key, default).upper()
        if word not in known:
            raise ConfigError(f"credential {secret.name}: {key} is none of {', '.join(known)}")
        kinds.append(getattr(api, known[word]))
    privacy = secret.values.get("privacy")
    more = {"privKey": privacy, "privProtocol": kinds[1]} if privacy else {}
    return api.UsmUserData(secret.get("user"), authKey=secret.get("auth"), authProtocol=kinds[0], **more)


def _plain(value: Any) -> Value | None:
    """An integer or text; None for what says that there is no such object."""
    kind = type(value).__name__
    if kind in ("NoSuchObject", "NoSuchInstance", "EndOfMibView", "Null"):
        return None
    try:
        return int(value)
    except (TypeError, ValueError):
        return str(value.prettyPrint())
