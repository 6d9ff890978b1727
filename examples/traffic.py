"""Sends the notes service a fixed amount of traffic: python traffic.py PORT"""

import sys
import urllib.error
import urllib.request

base = f"http://127.0.0.1:{sys.argv[1]}"


def send(path: str, data: bytes | None = None) -> None:
    try:
        urllib.request.urlopen(base + path, data, timeout=30).read()
    except urllib.error.HTTPError as error:
        if error.code != 400:
            raise


good_rows = b"".join(b"item %d,%d\n" % (i, i) for i in range(2_000))
document = b"".join(b"line %d of a document\n" % i for i in range(1_000))
for i in range(1_500):
    send(f"/note/user{i % 40}?at={i}")
for _ in range(25):
    send("/import", good_rows + b"item,twelve\n")
for _ in range(100):
    send("/outline", document)
