"""HTTP requests as bytes: valid ones for every path of the API, and how they are changed."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import quote

from cluster.fuzz.mutation import NUMBERS, TEXTS, Mutator
from cluster.fuzz.texts import change_json
from node.http.routes import ROUTES

METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "get", "", "G\x00T", "A" * 300, "GET/1")
VERSIONS = ("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/1.10", "http/1.1", "", "HTTP/9999999999.1")
HEADERS = (
    "Content-Length: -1", "Content-Length: +5", "Content-Length: 99999999999999999999", "Content-Length: 0x10", "Content-Length: ",
    "Transfer-Encoding: chunked", "Transfer-Encoding: gzip, chunked", "Transfer-Encoding: identity",
    "Transfer-Encoding: chunked, chunked", "Content-Encoding: gzip", "Content-Encoding: deflate", "Content-Encoding: br",
    "Content-Encoding: zstd", "Content-Encoding: x", "Content-Type: application/json", "Content-Type: application/msgpack",
    "Content-Type: text/plain", "Content-Type: ", "Content-Type: a/b;;=", "Content-Type: application/json; charset=utf-16",
    "Content-Type: multipart/form-data; boundary=x", "Expect: 100-continue", "Expect: 200", "Host: ", "Host: a, b", "Host: [::1",
    "Connection: close", "Connection: upgrade", "Upgrade: websocket", "Upgrade: h2c", "Range: bytes=0-1", "Sec-WebSocket-Version: 99",
    "Sec-WebSocket-Key: x", "Sec-WebSocket-Extensions: permessage-deflate; a=b", "Cookie: " + "a=b; " * 200, "X: " + "y" * 9_000,
    "\x00: \x00", " folded: 1", "no colon", ": empty", "A\r\n b: c", "Accept-Encoding: gzip;q=2", "If-Modified-Since: never",
)  # fmt: skip
QUERIES = ("limit", "offset", "after", "before", "proof", "receipts", "wait", "kinds", "channel", "x", "", "limit[]", "%00")
VALUES = (
    "0", "1", "-1", "2", "99999999999999999", "1e3", "٣", "nan", "", "main", "other", "block", "block,traded", "%ff", "..%2f", "0.001",
    "+1",
)  # fmt: skip
_LENGTH = re.compile(rb"(?im)^content-length:[^\r\n]*\r\n")
UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


class Known(NamedTuple):
    """What exists on the chain, for paths.

    Attributes:
        words: values by the name of a path's part.
        raws: signed transactions.
    """

    words: dict[str, tuple[str, ...]]
    raws: tuple[bytes, ...]


def request(method: str, target: str, headers: str = "", body: bytes = b"") -> bytes:
    """Return one request."""
    length = f"Content-Length: {len(body)}\r\n" if body or method == "POST" else ""
    return f"{method} {target} HTTP/1.1\r\nHost: fuzz\r\n{headers}{length}\r\n".encode("utf-8", "surrogatepass") + body


def frame(opcode: int, payload: bytes, *, final: bool = True, mask: bytes = b"\x01\x02\x03\x04") -> bytes:
    """Return a WebSocket frame as clients send it."""
    size = len(payload)
    length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
    return bytes((0x80 * final | opcode,)) + length + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))


class Requests:
    """Makes and changes requests.

    Args:
        known: what exists.
        forge: changes a signed transaction.
    """

    def __init__(self, known: Known, forge: Callable[[bytes, Mutator], bytes]) -> None:
        self._known = known
        self._forge = forge

    def seeds(self, as_json: Callable[[Sequence[bytes]], bytes], as_batch: Callable[[Sequence[bytes]], bytes]) -> list[bytes]:
        """Return a good request for every path.

        Args:
            as_json, as_batch: show transactions as a JSON list, and as a MessagePack one.
        """
        found = []
        for route in ROUTES:
            if route.method == "GET":
                target = re.sub(r"{(\w+)}", lambda part: self._known.words[part[1]][0], route.path)
                found.append(request("GET", target))
                found += [request("GET", f"{target}?{name}=1") for name in sorted(route.known - {"channel", "kinds", "after", "wait"})]
        raws, msgpack, json = self._known.raws, "Content-Type: application/msgpack\r\n", "Content-Type: application/json\r\n"
        found += [request("POST", "/v1/transactions", msgpack, raw) for raw in raws[:8]]
        found += [request("POST", "/v1/transactions", json, as_json([raw])[1:-1]) for raw in raws[:4]]
        found.append(request("POST", "/v1/transactions/batch", msgpack, as_batch(raws[:5])))
        found.append(request("POST", "/v1/transactions/batch", json, as_json(raws[:5])))
        upgrade = request("GET", "/v1/events?kinds=block,traded", UPGRADE)
        found.append(upgrade + frame(9, b"hello") + frame(1, b"{}"))
        found.append(upgrade + frame(1, b"a", final=False) + frame(0, b"b") + frame(2, bytes(300)) + frame(8, b"\x03\xe8bye"))
        return found

    def change(self, data: bytes, mutator: Mutator) -> bytes:
        """Return a request changed: its line, its headers, its body, or its bytes."""
        head, gap, body = data.partition(b"\r\n\r\n")
        if not gap or mutator.chance(0.06):
            return mutator.raw(data)
        lines = head.decode("latin-1").split("\r\n")
        for _ in range(mutator.pick((1, 1, 2, 3))):
            match int(mutator.random.random() * 16):
                case 0 | 1 | 2 | 3 | 4 | 5:
                    lines[0] = self._line(lines[0], mutator)
                case 6 | 7:
                    lines.insert(mutator.pick(range(1, len(lines) + 1)), mutator.pick(HEADERS))
                case 8 if len(lines) > 1:
                    del lines[mutator.pick(range(1, len(lines)))]
                case _:
                    body = self._body(body, lines, mutator)
        changed = "\r\n".join(lines).encode("utf-8", "surrogatepass") + gap
        if mutator.chance(0.98) and b"ransfer-" not in changed:
            length = f"Content-Length: {len(body)}\r\n".encode() if body and b"Upgrade:" not in changed else b""
            changed = _LENGTH.sub(b"", changed)[:-2] + length + b"\r\n"
        return changed + body

    def _line(self, line: str, mutator: Mutator) -> str:
        method, _, rest = line.partition(" ")
        target, _, version = rest.rpartition(" ")
        match int(mutator.random.random() * 16):
            case 0:
                method = mutator.pick(METHODS)
            case 1:
                version = mutator.pick(VERSIONS)
            case 2:
                return mutator.text(line)
            case 3:
                target = mutator.pick((mutator.text(target), target + "/", "//x" + target, "http://fuzz" + target, "*", "/" + "a" * 9_000))
            case 4 | 5 | 6 | 7 | 8:
                target += ("&" if "?" in target else "?") + mutator.pick(QUERIES) + "=" + self._value(mutator)
            case _:
                target = self._target(mutator)
        return f"{method} {target} {version}"

    def _target(self, mutator: Mutator) -> str:
        """Return a path of the API with parts that exist, or do not."""
        route = mutator.pick(ROUTES)

        def part(found: re.Match[str]) -> str:
            return mutator.pick(self._known.words[found[1]]) if mutator.chance(0.7) else self._value(mutator)

        return re.sub(r"{(\w+)}", part, route.path)

    def _value(self, mutator: Mutator) -> str:
        words = mutator.pick((VALUES, self._known.words["account"], self._known.words["height"]))
        return mutator.pick(
            (mutator.pick(words), str(mutator.pick(NUMBERS)), quote(mutator.pick(TEXTS).encode("utf-8", "replace"))[:3_000])
        )

    def _body(self, body: bytes, lines: list[str], mutator: Mutator) -> bytes:
        if not body:
            return body
        match int(mutator.random.random() * 10):
            case 0:
                lines.append(f"Content-Encoding: {mutator.pick(('gzip', 'deflate'))}")
                return mutator.pick((gzip.compress(body), zlib.compress(body), gzip.compress(bytes(3_000_000), 9), body))
            case 1:
                lines.append("Transfer-Encoding: chunked")
                return mutator.pick(
                    (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body), b"%x;a=b\r\n%b\r\n0\r\nX: y\r\n\r\n" % (len(body), body), body)
                )
            case 2 | 3 | 4:
                return self._forge(mutator.pick(self._known.raws), mutator)
            case 5:
                return b""
            case _:
                return change_json(body, mutator) if body[:1] in b"[{" else mutator.change(body)
