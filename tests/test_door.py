"""Who is let in to the page of `cw top --web`."""

import pytest

from cw.web import door
from cw.web.door import COOKIES, Door


@pytest.mark.parametrize(
    "host", ["localhost:8765", "127.0.0.1:1", "LOCALHOST:80", "[::1]:8765", "localhost", "[::1]"]
)
def test_this_machine_has_these_names(host):
    assert Door(False).check([host], [], False) is None


@pytest.mark.parametrize(
    "hosts",
    [[], ["evil.example"], ["evil.example:8765"], ["localhost.evil.example:8765"], ["localhost:8765", "evil.example"],
     ["localhost:"], ["localhost:x"], ["localhost:8765.evil.example"], ["evil.example:localhost:1"], [""],
     ["10.0.0.1:80"], ["user@localhost:80"]],
)  # fmt: skip
def test_a_name_that_another_site_may_have_is_refused(hosts):
    assert Door(False).check(hosts, [], False) == door.FOREIGN_HOST


def test_a_websocket_must_come_from_the_page_itself():
    entrance = Door(False)
    assert entrance.check(["localhost:9000"], ["http://localhost:9000"], True) is None
    for origins in ([], ["null"], ["http://localhost:9001"], ["https://localhost:9000"], ["http://evil.example"],
                    ["http://127.0.0.1:9000"], ["http://localhost:9000", "http://evil.example"]):  # fmt: skip
        assert entrance.check(["localhost:9000"], origins, True) == door.FOREIGN_ORIGIN, origins
    # What is no websocket has no origin where the user opens it; another site's is refused.
    assert entrance.check(["localhost:9000"], ["http://evil.example"], False) == door.FOREIGN_ORIGIN


def test_a_proxy_has_the_name_that_the_user_gives():
    entrance = Door(True, "https://hub.example.org/user/ann/proxy/8765/")
    assert entrance.check(["hub.example.org"], ["https://hub.example.org"], True) is None
    assert entrance.check(["localhost:8765"], ["https://hub.example.org"], True) is None  # it may name itself
    assert entrance.check(["hub.example.org"], ["http://hub.example.org"], True) == door.FOREIGN_ORIGIN
    assert entrance.check(["other.example.org"], [], False) == door.FOREIGN_HOST
    assert Door(True).check(["hub.example.org"], [], False) == door.FOREIGN_HOST
    # Other users' pages at the hub do not get the cookie.
    assert (entrance.path, entrance.is_secure) == ("/user/ann/proxy/8765/", True)
    assert (Door(True).path, Door(True).is_secure) == ("/", False)


def test_a_token_buys_one_cookie():
    tokens = []
    entrance = Door(True, on_token=tokens.append)
    assert entrance.spend("") is None and entrance.spend("wrong") is None and entrance.spend("é") is None
    cookie = entrance.spend(tokens[0])
    assert entrance.knows(cookie) and not entrance.knows("") and not entrance.knows(tokens[0])
    assert entrance.spend(tokens[0]) is None
    assert len(tokens) == 2 and tokens[0] != tokens[1]
    assert entrance.spend(tokens[1]) not in (None, cookie)
    assert entrance.knows(cookie)


def test_the_cookies_are_bounded():
    tokens = []
    entrance = Door(True, on_token=tokens.append)
    cookies = [entrance.spend(tokens[-1]) for _ in range(COOKIES + 1)]
    assert [entrance.knows(cookie) for cookie in cookies] == [False] + COOKIES * [True]


def test_without_tokens_nothing_is_one():
    assert Door(False).spend("") is None
    assert not Door(False).knows("")
