"""Connections of a coopetitive run: to the hub, and a server's own to the other servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from hansa.errors import HansaError, PlanError
from hansa.node.config import MemberFile
from hansa.node.direct import DirectChannel
from hansa.plan import Plan
from hansa.transport.notices import Notify
from hansa.transport.tcp import SILENCE_S
from hansa.transport.tls import TlsChannel
from hansa.transport.tls_hub import TlsHub
from hansa.transport.tls_links import HubLimits

SPIN_S = 0.00005
"""Seconds that a server with direct links looks for a sealed message before it sleeps; more takes the cores from servers beside it."""


BACKLOG_BYTES = 2**31
"""What may wait at the hub for one server: the other two send a round's numbers before either reads."""


def limits_of(member: MemberFile, spin_s: float) -> HubLimits:
    return HubLimits(
        backlog_bytes=BACKLOG_BYTES,
        spin_s=spin_s,
        silence_s=_silence_s(member),
        most_bytes_per_s=member.most_bytes_per_s,
    )


def _silence_s(member: MemberFile) -> float:
    """How long a line may carry nothing: nobody dials again in this mode, so the whole reconnect timeout is for the line to heal."""
    return member.reconnect_timeout_s or SILENCE_S


def is_direct(plan: Plan) -> bool:
    return plan.coopetitive is not None and plan.coopetitive.server_links == "direct"


def connect(
    member: MemberFile, serves: bool, notify: Notify, owed: Callable[[], Iterable[str]], wait_s: float
) -> TlsChannel | DirectChannel:
    """The connection to the hub; at a server whose plan says so, with connections to the other servers beside it.

    A server that is the hub needs no other connection: that to the hub is the direct one. Others are waited for `wait_s` seconds.
    """
    plan, name = member.plan, member.identity.name
    if not serves or not is_direct(plan):
        return TlsChannel.connect(
            member.credentials,
            plan.hub,
            member.host,
            member.port,
            retry_for_s=wait_s,
            silence_s=_silence_s(member),
            most_bytes_per_s=member.most_bytes_per_s,
            proxy=member.proxy,
            notify=notify,
            owed=owed,
        )
    apart = [server for server in plan.servers if server != plan.hub]
    if not member.servers:
        raise PlanError(
            f'{member.path}: servers is missing; the plan says members.server_links = "direct": say where {name!r} listens and '
            f'where the other servers are found, such as servers = {{ {apart[0]} = "10.0.0.1:7466", ... }}',
            cure="name every server's address as servers",
        )
    limits = limits_of(member, SPIN_S)
    place = apart.index(name)
    # A server listens for those behind it in the plan's order and dials those before it.
    before, behind = apart[:place], apart[place + 1 :]
    if behind:
        links = TlsHub.listen(
            member.credentials,
            *member.servers[name],
            allowed=behind,
            limits=limits,
            notify=notify,
            owed=owed,
            open_listener=member.open_listener,
        )
    else:
        links = TlsHub.without_listener(member.credentials, limits, notify=notify, owed=owed)
    try:
        links.dial(plan.hub, member.host, member.port, retry_for_s=wait_s, proxy=member.proxy)
        for peer in before:
            links.dial(peer, *member.servers[peer], retry_for_s=wait_s, proxy=member.proxy)
        if behind:
            links.wait_for(behind, wait_s)
    except HansaError:
        links.close()
        raise
    return DirectChannel(name, plan.hub, (*before, *behind), links, time.monotonic)
