"""Jobs and payloads for workers of your own; their homes are in ``garivini.model``."""

from garivini.model.job import Job as Job
from garivini.model.payload import decode_payload as decode_payload
from garivini.model.payload import encode_payload as encode_payload
