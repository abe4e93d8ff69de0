"""The Gearman protocol: packets, the client's and worker's side of a conversation, shells, a server."""
