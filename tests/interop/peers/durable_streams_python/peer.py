"""Follows and changes a keyed stream with Electric's Python client of Durable Streams.

Usage: peer.py URL MODE. It prints its rows once it has caught up, appends a row, and prints its rows
again once it has received a row with the key "end", by long-polls or server-sent events.
"""

import json
import sys

from durable_streams import DurableStream, stream


def apply(rows, message):
    """Applies a change message. Returns True for the last one."""
    headers = message["headers"]
    if "control" in headers:
        return False
    row = f"{message['type']}/{message['key']}"
    if headers["operation"] == "delete":
        rows.pop(row, None)
    else:
        rows[row] = message["value"]
    return message["key"] == "end"


def report(rows, messages):
    print(json.dumps({"rows": rows, "messages": messages}), flush=True)


url, mode = sys.argv[1:]
rows = {}
with stream(url, live=False) as response:
    items = response.read_json()
    offset = response.offset
for item in items:
    apply(rows, item)
report(rows, len(items))

with DurableStream.connect(url) as handle:
    handle.append(
        {"type": "card", "key": "python", "value": 1, "headers": {"operation": "upsert"}}
    )

count = 0
with stream(url, offset=offset, live=mode) as response:
    for item in response.iter_json():
        count += 1
        if apply(rows, item):
            break
    report(rows, count)
