"""The addresses of this machine's network interfaces, for peers on other machines."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct

# Besides the loopback, bridges of containers and virtual machines: they have the same address everywhere.
_PRIVATE_INTERFACES = ("lo", "docker", "br-", "veth", "virbr", "lxc", "cni", "podman")
_SIOCGIFADDR = 0x8915  # From <linux/sockios.h>.


def ipv4_addresses() -> list[str]:
    """List the IPv4 addresses."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        for _, interface in socket.if_nameindex():
            if not interface.startswith(_PRIVATE_INTERFACES):
                with contextlib.suppress(OSError):  # It has no IPv4 address.
                    answer = fcntl.ioctl(asker, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
                    found.append(socket.inet_ntoa(answer[20:24]))
    return found


def ipv6_addresses() -> list[str]:
    """List the IPv6 addresses that are not for one link only."""
    try:
        with open("/proc/net/if_inet6") as file:
            rows = [
                line.split() for line in file
            ]  # address, index, length, scope ("00": global), flags, name
    except OSError:  # A machine without IPv6.
        return []
    return [
        socket.inet_ntop(socket.AF_INET6, bytes.fromhex(row[0]))
        for row in rows
        if row[3] == "00" and not row[5].startswith(_PRIVATE_INTERFACES)
    ]
