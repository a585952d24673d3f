"""Streams in both directions with requests and httpx. Prints the results as JSON.

    python3 transfers_client.py URL

streams.js is behind URL. The password of bob is Latin-1.
"""

import hashlib
import json
import os
import sys

import httpx
import requests

URL = sys.argv[1]
ROY = ("roy", "open-sesame")
BOB = ("bob", "pässwörd")
PIECES = [os.urandom(1 << 20) for _ in range(5)]
SHA256 = hashlib.sha256(b"".join(PIECES)).hexdigest()


def events(lines, acknowledge):
    """Returns three events, each of which is sent after the one before was acknowledged."""
    seen = []
    for line in lines:
        if line:
            seen.append(line)
            if len(seen) == 3:
                return seen
            acknowledge()
    return seen


def with_requests():
    uploaded = requests.put(URL + "/digest", data=(piece for piece in PIECES), auth=ROY, timeout=30)
    with requests.get(URL + "/events", auth=ROY, timeout=30, stream=True) as response:
        lines = response.iter_lines(chunk_size=None, decode_unicode=True)
        seen = events(lines, lambda: requests.post(URL + "/ack", auth=ROY, timeout=30))
    # requests sends Latin-1.
    statuses = [requests.get(URL, auth=auth, timeout=30).status_code for auth in (BOB, None)]
    return uploaded.text == SHA256, seen, statuses


def with_httpx():
    with httpx.Client(auth=ROY, timeout=30) as client:
        uploaded = client.put(URL + "/digest", content=(piece for piece in PIECES))
        with client.stream("GET", URL + "/events") as response:
            seen = events(response.iter_lines(), lambda: client.post(URL + "/ack"))
    # httpx sends UTF-8.
    statuses = [httpx.get(URL, auth=auth, timeout=30).status_code for auth in (BOB, None)]
    return uploaded.text == SHA256, seen, statuses


print(json.dumps({"requests": with_requests(), "httpx": with_httpx()}))
