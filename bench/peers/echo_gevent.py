"""The same server in gevent, with a greenlet for each connection."""

from gevent.server import StreamServer


def echo(sock, _address):
    while data := sock.recv(4096):
        sock.sendall(data)


server = StreamServer(("127.0.0.1", 0), echo, backlog=1024)
server.start()
print(server.server_port, flush=True)
server.serve_forever()
