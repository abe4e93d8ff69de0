"""Jobs and payloads, for workers that you write yourself. ``garivini.model`` defines them."""

from garivini.model.job import Job
from garivini.model.payload import decode_payload, encode_payload

__all__ = ["Job", "decode_payload", "encode_payload"]
