"""The same server in gevent, with a greenlet for each connection."""

from gevent import socket
from gevent.pywsgi import WSGIServer

from _server import tell_port

BODY = b"hello, world\n"
HEADERS = [
    ("Content-Type", "text/plain;charset=UTF-8"),
    ("Content-Length", str(len(BODY))),
]


def handle(_environ, start_response):
    start_response("200 OK", HEADERS)
    return [BODY]


# It sends the headers and the body one by one. With Nagle's algorithm the body would wait for
# the client's delayed acknowledgement of the headers: 40 ms that are not gevent's.
listener = socket.socket()
listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
listener.bind(("127.0.0.1", 0))
listener.listen(1024)

server = WSGIServer(listener, handle, log=None)
server.start()
tell_port(listener.getsockname()[1])
server.serve_forever()
