"""The fetching works in gevent: the standard library's http.client, monkey-patched.

Connections are kept and used again, as Deno's `fetch` does.
"""

from gevent import monkey

monkey.patch_all()

import http.client  # noqa: E402
import sys  # noqa: E402

import gevent  # noqa: E402
from gevent.pool import Pool  # noqa: E402

from _rounds import WORKERS, check, serve_rounds  # noqa: E402

FILLING = "<p>Nothing of interest.</p>\n" * 360
SHORT = "hello, world\n"

port = int(sys.argv[-1])
idle = []


def get(path):
    """Gets a page by a connection that nobody else uses meanwhile."""
    connection = idle.pop() if idle else http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    text = connection.getresponse().read().decode()
    idle.append(connection)
    return text


def get_page(number):
    text = get(f"/{number}")
    check(text.startswith(f"<h1>{number}</h1>"), True, f"whether it is page {number}")
    return len(text)


def get_short_pages(count):
    return sum(len(get("/")) for _ in range(count // WORKERS))


def fetch(count, _clock, _port):
    greenlets = [gevent.spawn(get_short_pages, count) for _ in range(WORKERS)]
    gevent.joinall(greenlets, raise_error=True)
    check(sum(made.value for made in greenlets), count * len(SHORT), "characters")


def crawl(count, _clock, _port):
    lengths = Pool(WORKERS).map(get_page, range(count))
    expected = sum(len(f"<h1>{i}</h1>\n{FILLING}") for i in range(count))
    check(sum(lengths), expected, "characters of all pages")


serve_rounds({"fetch": fetch, "crawl": crawl})
