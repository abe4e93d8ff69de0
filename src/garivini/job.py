"""Jobs and payloads for workers of your own; their homes are in ``garivini.model``."""

from garivini.model.job import Job
from garivini.model.payload import decode_payload, encode_payload

__all__ = ["Job", "decode_payload", "encode_payload"]
