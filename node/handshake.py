"""TLS as links see it: a context whose certificate can be changed while it is listened with, and in plain words why a handshake failed."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from consensus.errors import InputError
from node.keys import TlsContexts, load_tls

EXPIRED = "certificate expired"
NOT_YET_VALID = "certificate not valid yet"
FOREIGN = "certificate of another authority"

_VERIFY_WORDS = {10: EXPIRED, 9: NOT_YET_VALID, **dict.fromkeys((2, 7, 18, 19, 20, 21), FOREIGN)}
"""By OpenSSL's X509_V_ERR codes."""
_ALERT_WORDS = {
    "ALERT_CERTIFICATE_EXPIRED": "this node's certificate expired, says the other side",
    "ALERT_UNKNOWN_CA": "this node's certificate is of another authority, says the other side",
    "ALERT_BAD_CERTIFICATE": "this node's certificate is refused by the other side",
    "ALERT_CERTIFICATE_UNKNOWN": "this node's certificate is refused by the other side",
    "ALERT_PROTOCOL_VERSION": "the other side speaks another version of TLS",
    "UNSUPPORTED_PROTOCOL": "the other side speaks another version of TLS",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the other side has no certificate",
    "HTTP_REQUEST": "the other side speaks no TLS",
    "WRONG_VERSION_NUMBER": "the other side speaks no TLS",
}
"""By parts of OpenSSL's reasons."""

_log = structlog.get_logger(__name__)


def tls_reason(error: ssl.SSLError) -> str:
    """Tell in plain words why TLS refused a connection (one of few texts, so that they can be counted)."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_WORDS.get(error.verify_code) or str(error.verify_message)
    reason = str(getattr(error, "reason", None) or error)
    for part, words in _ALERT_WORDS.items():
        if part in reason:
            return words
    return reason.replace("_", " ").lower()


def common_name(writer: asyncio.StreamWriter) -> str:
    """Return the common name of the other end's certificate ("" without one)."""
    certificate = writer.get_extra_info("peercert") or {}
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return ""


def set_no_delay(writer: asyncio.StreamWriter) -> None:
    """Send small frames at once."""
    connection = writer.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class ServerContext(ssl.SSLContext):
    """A context to listen with: every new connection gets the context that is the present one then.

    Make it with :func:`server_context`.
    """

    present: ssl.SSLContext

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:  # noqa: ANN401  handed on as they are
        """Begin a connection with the present context."""
        return self.present.wrap_bio(*args, **options)

    def use(self, context: ssl.SSLContext, on_failure: Callable[[ssl.SSLError], None]) -> None:
        """Take another context for the connections to come.

        Args:
            on_failure: told of every handshake that fails (asyncio tells nobody).
        """
        context.sslobject_class = _telling(on_failure)
        self.present = context


def server_context(context: ssl.SSLContext, on_failure: Callable[[ssl.SSLError], None]) -> ServerContext:
    """Return a context to listen with, see :class:`ServerContext`."""
    made = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    made.use(context, on_failure)
    return made


def _telling(on_failure: Callable[[ssl.SSLError], None]) -> type[ssl.SSLObject]:
    class TellingObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                on_failure(error)
                raise

    return TellingObject


class TlsFileWatch:
    """Notices that certificate, key or authority of this node were replaced.

    Args:
        certificate, key, authority: the files; they were read before (:func:`node.keys.load_tls`).
    """

    def __init__(self, certificate: Path, key: Path, authority: Path) -> None:
        self._files = (certificate, key, authority)
        self._known = self._marks()
        self._told = ""

    def renewed(self) -> TlsContexts | None:
        """Return contexts made from the files if they changed since the last time; None if not.

        Files that do not fit together (somebody is still copying) are said once and looked at again the next time.
        """
        marks = self._marks()
        if marks == self._known:
            return None
        try:
            contexts = load_tls(*self._files)
        except InputError as error:
            if str(error) != self._told:
                self._told = str(error)
                _log.warning("the new TLS files of this node cannot be used; the old ones stay in use", reason=str(error))
            return None
        self._known, self._told = marks, ""
        return contexts

    def _marks(self) -> list[tuple[int, int, int]]:
        marks = []
        for path in self._files:
            try:
                status = path.stat()
                marks.append((status.st_ino, status.st_size, status.st_mtime_ns))
            except OSError:
                marks.append((0, 0, 0))
        return marks
