"""The same server in gevent, with a greenlet for each connection."""

from gevent.server import StreamServer

from _server import tell_port


def echo(sock, _address):
    while data := sock.recv(4096):
        sock.sendall(data)


server = StreamServer(("127.0.0.1", 0), echo, backlog=1024)
server.start()
tell_port(server.server_port)
server.serve_forever()
