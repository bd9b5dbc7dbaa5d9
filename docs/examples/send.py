"""Sends the lines of an NDJSON file to OPM Partners API, in batches. Needs Python 3.8 or newer and nothing else.

    OPM_URL=https://api.example.com OPM_KEY=opm_your_key python3 send.py entries.ndjson receipts.ndjson

Prints each rejected line, and appends the receipt of each accepted one to the second file. The exit code is 1 if a line
was rejected, and 2 if the API could not take the rest: the message names the line to go on from.
"""

import http.client
import json
import os
import random
import sys
import time
import urllib.parse
import uuid

MAX_ENTRIES = 1_000
MAX_BYTES = 1_024 * 1_024
TRANSIENT = {408, 429, 500, 502, 503, 504}
MAX_FAILURES = 15  # in a row; with the pauses between them, about ten minutes

API = urllib.parse.urlsplit(os.environ["OPM_URL"])
Connection = http.client.HTTPSConnection if API.scheme == "https" else http.client.HTTPConnection
connection = Connection(API.netloc, timeout=10)


def read_batches(file):
    """Yields lists of numbered lines."""
    batch, size = [], 0
    for number, line in enumerate(file, 1):
        line = line.strip()
        if batch and (len(batch) == MAX_ENTRIES or size + len(line) + 1 > MAX_BYTES):
            yield batch
            batch, size = [], 0
        if line:
            batch.append((number, line))
            size += len(line) + 1
    if batch:
        yield batch


def post(body, idempotency_key):
    """Makes one attempt. Returns the status, the answer and the seconds in retry-after, if there are any."""
    headers = {"x-api-key": os.environ["OPM_KEY"], "content-type": "application/x-ndjson"}
    if idempotency_key:
        headers["idempotency-key"] = idempotency_key
    try:
        connection.request("POST", API.path.rstrip("/") + "/entries", body, headers)
        response = connection.getresponse()
        status, text, retry_after = response.status, response.read(), response.headers.get("retry-after", "")
    except (OSError, http.client.HTTPException) as error:
        connection.close()
        return 503, {"message": f"no answer: {error}"}, None
    return status, parse(text), int(retry_after) if retry_after.isdigit() else None


def parse(text):
    """Parses an answer of the API. A gateway in front of it may answer anything."""
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    is_answer = isinstance(answer, dict) and isinstance(answer.get("message"), str)
    return answer if is_answer else {"message": "not an answer of the API"}


def send(batch):
    """Sends a batch until each line is accepted or rejected. Returns the result and receipt of each, by its number.

    All attempts have one key and the same lines, so no line counts twice. If the API asks to send without a key, attempts
    have only the lines that are left; after a lost answer, a line may then count twice, but the same is stored.
    """
    idempotency_key, done, failures = str(uuid.uuid4()), {}, 0
    while True:
        lines = batch if idempotency_key else [(number, line) for number, line in batch if number not in done]
        status, answer, retry_after = post(b"\n".join(line for _, line in lines), idempotency_key)
        if status == 429 and idempotency_key and "too many idempotency keys" in answer["message"]:
            idempotency_key = None
            continue
        done_before, results = len(done), answer.get("results", [])
        receipts = answer.get("receipts") or [None] * len(results)
        for (number, _), result, receipt in zip(lines, results, receipts):
            if result["statusCode"] not in TRANSIENT:
                done[number] = {**result, "receipt": receipt}
        if len(done) == len(batch):
            return done
        failures = 0 if len(done) > done_before else failures + 1
        if not (results or status in TRANSIENT) or failures == MAX_FAILURES:
            sys.stderr.write(f"gave up at line {batch[0][0]}: {status} {answer['message']}\n")
            sys.exit(2)
        pause = min(60, 2 ** max(0, failures - 1)) * random.uniform(0.75, 1.25)
        time.sleep(pause if retry_after is None else retry_after)


rejected = 0
with open(sys.argv[1], "rb") as file, open(sys.argv[2], "a", encoding="utf-8") as receipts:
    for batch in read_batches(file):
        results = send(batch)
        for number, line in batch:
            result = results[number]
            if result["statusCode"] in (201, 202):
                kept = {"line": number, "customerId": json.loads(line)["customerId"], "receipt": result["receipt"]}
                receipts.write(json.dumps(kept) + "\n")
            else:
                rejected += 1
                sys.stderr.write(f"{sys.argv[1]}:{number}: {result['statusCode']} {result['message']}\n")
sys.exit(1 if rejected else 0)
