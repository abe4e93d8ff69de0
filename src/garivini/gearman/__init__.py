"""Gearman: packets, both sides of the protocol, clients, workers, and an embedded server.

* ``packets`` encodes and decodes packets. ``protocol`` has both sides of a conversation, ``requests`` keeps
  the requests that wait for an answer, and ``admin`` reads and writes administrative lines.
* ``blocking`` is a client without an event loop. ``aio`` has a client and a worker for asyncio, which use a
  ``connection``. ``servers`` chooses the server of a job.
* ``server`` is the embedded server, ``listener`` its socket. ``broker`` answers requests, and ``console``
  answers administrative lines. Both work on the objects of ``jobs`` and ``queues``, which have the limits.
"""
