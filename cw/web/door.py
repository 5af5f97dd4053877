"""Who may see the page of `cw top --web`: what is checked of each request. No socket is known here.

at a Unix socket     its kernel says who connects: only the same user
at a port            an address with a token, which buys a cookie once
always               Host and Origin: the browser's own page, not another site's, whatever a name resolves to
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine in a browser, which no other site can have."""

PARAMETER = "cw-token"
"""Name of the token in an address. (`token` would be Jupyter's, where its proxy stands in front.)"""

COOKIES = 32
"""Browsers that are known; with more, the oldest must come with a new address. Larger: nothing is gained."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "font-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",  # its address may have a token
    "X-Content-Type-Options": "nosniff",
}
"""Headers of every answer."""


@dataclass(frozen=True)
class Refusal:
    """Answer to a request that is not let in."""

    status: int
    text: str


NO_TOKEN = Refusal(403, "Open the address that `cw top --web` shows in its terminal.")
SPENT = Refusal(
    403, "This address is wrong, or it was used: `cw top --web` shows another one in its terminal."
)
FOREIGN_HOST = Refusal(
    403, "This page is at localhost only: open http://localhost:PORT/, or see --public-url."
)
FOREIGN_ORIGIN = Refusal(403, "Another site may not look at this page.")
OTHER_USER = Refusal(403, "This page is another user's.")


class Door:
    """Lets the user's own browser in, and nobody else.

    `public_url`: the page's address where a proxy stands in front. `on_new_address` is called with each new token.
    """

    def __init__(
        self, has_token: bool, public_url: str = "", on_token: Callable[[str], None] = lambda token: None
    ) -> None:
        self.has_token = has_token
        self._public = urlsplit(public_url)
        self._on_token = on_token
        self._token = ""
        self._cookies: list[str] = []
        if has_token:
            self._renew()

    @property
    def path(self) -> str:
        """Path that gets the cookie: at a hub, other paths are other users'."""
        return self._public.path or "/"

    @property
    def is_secure(self) -> bool:
        """True if the browser may send the cookie with TLS only."""
        return self._public.scheme == "https"

    def check(self, hosts: Sequence[str], origins: Sequence[str], is_websocket: bool) -> Refusal | None:
        """Return why a request with these Host and Origin headers is refused, or None."""
        if len(hosts) != 1 or not self._is_own(hosts[0]):
            return FOREIGN_HOST
        if not origins and not is_websocket:  # A browser names the origin of a websocket always.
            return None
        return None if len(origins) == 1 and origins[0] in self._origins(hosts[0]) else FOREIGN_ORIGIN

    def _is_own(self, host: str) -> bool:
        name, colon, port = host.rpartition(":")
        if not colon or host.endswith("]"):
            name, port = host, "80"
        is_port = port.isascii() and port.isdigit()
        return (is_port and name.lower() in LOCAL_NAMES) or self._is_public(host)

    def _is_public(self, host: str) -> bool:
        return bool(self._public.netloc) and host.lower() == self._public.netloc.lower()

    def _origins(self, host: str) -> set[str]:
        """Origins of the page that was opened at this host."""
        # A proxy may name itself as the host or not; the page's origin is its public address then.
        public = {f"{self._public.scheme}://{self._public.netloc}".lower()} if self._public.netloc else set()
        return public if self._is_public(host) else {f"http://{host}", *public}

    def spend(self, token: str) -> str | None:
        """Return a new cookie for the token, which is void from now on; None if it is not the token."""
        if not self.has_token or not hmac.compare_digest(token.encode(), self._token.encode()):
            return None
        self._renew()
        cookie = secrets.token_urlsafe(32)
        self._cookies = [*self._cookies, cookie][-COOKIES:]
        return cookie

    def knows(self, cookie: str) -> bool:
        """True if that is the cookie of a browser that was let in."""
        return any(hmac.compare_digest(cookie.encode(), known.encode()) for known in self._cookies)

    def _renew(self) -> None:
        self._token = secrets.token_urlsafe(32)
        self._on_token(self._token)
