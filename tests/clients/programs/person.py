"""The person at the browser, who opens the page that a client wants them to see: `person.py URL [UNTIL]`."""

from __future__ import annotations

import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Hands redirects to whoever follows them."""

    def redirect_request(self, *_: object) -> None:
        """Follow none."""


def sign_in(url: str, until: str = "") -> str:
    """Follow where the authorization server leads, up to an address that begins with `until`: that one."""
    browser = urllib.request.build_opener(NoRedirect, urllib.request.HTTPCookieProcessor(CookieJar()))
    for _ in range(20):
        if until and url.startswith(until):
            return url
        try:
            with browser.open(url, timeout=30) as page:
                page.read()
                return url
        except urllib.error.HTTPError as answer:
            if answer.code not in (301, 302, 303, 307):
                raise RuntimeError(f"{url}: {answer.code} {answer.read()[:300]!r}") from None
            url = urllib.parse.urljoin(url, answer.headers["location"])
        except urllib.error.URLError:
            time.sleep(0.5)  # some clients listen for the answer only after they have opened the page
    raise RuntimeError("the authorization server leads in circles")


if __name__ == "__main__":
    print(sign_in(*sys.argv[1:]))
