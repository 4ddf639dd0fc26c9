"""Listens at a socket in the working folder, which stays there."""

import socket
import sys

lr = float(sys.argv[1].removeprefix("--lr="))
server = socket.socket(socket.AF_UNIX)
server.bind("binds_socket.sock")
print(f"acc={lr:.6f}")
