"""A PDU for tests: an SNMPv3 responder on loopback that has a captured table, and a log of what it was asked.

pysnmp's own engine speaks for it; what it has is a dictionary.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pysnmp.carrier.asyncio.dgram import udp
from pysnmp.entity import config, engine
from pysnmp.entity.rfc3413 import cmdrsp, context
from pysnmp.proto.api import v2c
from pysnmp.smi.instrum import AbstractMibInstrumController

TREES = Path(__file__).parent / "fixtures" / "meters"
USER, AUTH, PRIVACY = "perun-meters", "kept: a secret", "and another one"
_TYPES = {"2": v2c.Integer32, "4": v2c.OctetString, "6": v2c.ObjectIdentifier, "66": v2c.Gauge32}
Oid = tuple[int, ...]


def objects(name: str) -> dict[str, Any]:
    """A captured table's objects by their OID."""
    lines = [line.split("|") for line in (TREES / f"{name}.snmprec").read_text().splitlines() if line]
    return {oid: _TYPES[kind](value if kind in "46" else int(value)) for oid, kind, value in lines}


@dataclass
class Responder(AbstractMibInstrumController):
    """What it has, and what it was asked."""

    objects: dict[str, Any]
    port: int = 0
    asked: list[str] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def read_variables(self, *binds: Any, **_: Any) -> list[Any]:
        self.asked += [str(oid) for oid, _ in binds]
        return [(oid, self.objects.get(str(oid), v2c.NoSuchInstance())) for oid, _ in binds]

    def read_next_variables(self, *binds: Any, **_: Any) -> list[Any]:
        order = sorted(tuple(map(int, oid.split("."))) for oid in self.objects)
        return [self._after(tuple(oid), order) for oid, _ in binds]

    def _after(self, oid: Oid, order: list[Oid]) -> tuple[Any, Any]:
        after = next((one for one in order if one > oid), None)
        if after is None:
            return v2c.ObjectIdentifier(oid), v2c.EndOfMibView()
        return v2c.ObjectIdentifier(after), self.objects[".".join(map(str, after))]


@contextmanager
def responding(table: dict[str, Any]) -> Iterator[Responder]:
    """Run a responder with these objects as long as the block."""
    responder, began = Responder(table), threading.Event()
    loop = asyncio.new_event_loop()

    async def begin() -> engine.SnmpEngine:
        speaker = engine.SnmpEngine()
        transport = udp.UdpAsyncioTransport().open_server_mode(("127.0.0.1", 0))
        config.add_transport(speaker, udp.DOMAIN_NAME, transport)
        config.add_v3_user(speaker, USER, config.USM_AUTH_HMAC192_SHA256, AUTH, config.USM_PRIV_CFB128_AES, PRIVACY)
        config.add_vacm_user(speaker, 3, USER, "authPriv", (1, 3, 6), ())
        named = context.SnmpContext(speaker)
        named.unregister_context_name(b"")
        named.register_context_name(b"", responder)
        cmdrsp.GetCommandResponder(speaker, named)
        cmdrsp.NextCommandResponder(speaker, named)
        while transport.transport is None:
            await asyncio.sleep(0.01)
        responder.port = transport.transport.get_extra_info("sockname")[1]
        began.set()
        return speaker

    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    speaker = asyncio.run_coroutine_threadsafe(begin(), loop).result(10)

    async def end() -> None:
        speaker.close_dispatcher()

    try:
        yield responder
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
