"""Gearman: packets, both sides of the protocol, clients, workers, and an embedded server.

* ``packets`` encodes and decodes. ``protocol`` is both sides of a conversation, ``requests`` has the requests
  that wait for an answer, and ``admin`` the administrative lines.
* ``blocking`` is a client without an event loop. ``aio`` has a client and a worker for asyncio, which use a
  ``connection``. ``servers`` chooses the server of a job.
* ``server`` is the embedded server, ``listener`` its socket. ``broker`` answers requests and ``console``
  lines; ``jobs`` and ``queues`` are what they work on, and its limits.
"""
