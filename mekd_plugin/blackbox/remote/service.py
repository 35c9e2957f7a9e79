"""One service over HTTP: kept connections, deadlines, secrets from the environment, and what a reply means.

Nothing is asked again here, so that the boundary counts each attempt: a reply that says that no work was done becomes
``Refused`` (``RefusedForGood`` where another attempt would not help), everything that leaves it open
``TeacherUnavailable``. Redirects are not followed, with credentials or without.
"""

from __future__ import annotations

import datetime
import email.utils
import json
import os
import re
import threading
import time
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from mekd_plugin.checks import as_number
from mekd_plugin.errors import (
    InputError,
    MissingDependency,
    Refused,
    RefusedForGood,
    TeacherAnswerError,
    TeacherUnavailable,
)

__all__ = ["Reply", "Service"]

_MOST_CONNECTIONS = 64
_LONGEST_QUOTED = 200
_SECRET = re.compile(r"key|token|secret|passw|signature|^sig$|credential", re.IGNORECASE)
_EXHAUSTED = re.compile(r"insufficient|billing|balance|credit|payment", re.IGNORECASE)
_SPAN = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_LONGEST_PAUSE = 3600.0


class Reply(NamedTuple):
    """A reply with status 200.

    Attributes:
        body: its bytes.
        headers: by name, in any case.
    """

    body: bytes
    headers: Mapping[str, str]


class Rejection(RefusedForGood):
    """A reply of status 400 to 499 that is about the request itself; ``status`` and ``said`` are the service's."""

    def __init__(self, message: str, status: int, said: str) -> None:
        super().__init__(message)
        self.status, self.said = status, said


class Service:
    """A client of one service, for several threads.

    Args:
        url: ``http://`` or ``https://``; credentials in it are refused, since a URL is written down.
        token_from: name of the environment variable with a token, sent as ``Authorization: Bearer``.
        headers_from: further headers, each with the name of the environment variable that holds its value.
        timeout: seconds for one call, from connecting to the last byte.

    Attributes:
        shown: the URL for messages, without its query.

    Raises:
        InputError: no such URL, or a variable that is not set. MissingDependency: httpx is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        token_from: str | None = None,
        headers_from: Mapping[str, str] | None = None,
        timeout: float = 30.0,
    ) -> None:
        try:
            import httpx
        except ImportError as error:
            raise MissingDependency(
                'a teacher behind a URL needs httpx, which is not installed: pip install "mekd-plugin[service]"'
            ) from error
        self._timeout = as_number("timeout", timeout, above=0, strict=True)
        self._url, self.shown = _checked(url)
        named = dict(headers_from or {}) | ({} if token_from is None else {"Authorization": token_from})
        values = {header: _from_environment(header, variable) for header, variable in named.items()}
        self._secrets = [value for value in values.values() if value]
        if token_from is not None:
            values["Authorization"] = f"Bearer {values['Authorization']}"
        self._client = httpx.Client(
            headers=values,
            timeout=self._timeout,
            follow_redirects=False,
            limits=httpx.Limits(
                max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_CONNECTIONS, keepalive_expiry=60.0
            ),
        )
        self._not_before = 0.0
        self._lock = threading.Lock()

    def get_json(self, path: str = "") -> Any:
        """What ``GET`` answers; errors are those of :meth:`send`."""
        return self.json_of(self.send("GET", path).body, path)

    def send(self, method: str, path: str = "", content: bytes | None = None, **headers: str) -> Reply:
        """Send one request, once.

        Args:
            method: ``"GET"`` or ``"POST"``.
            path: below the service's URL.
            content: the body.
            **headers: further ones, with ``_`` for ``-``.

        Raises:
            Refused: the service says that it did no work, or was never reached.
            RefusedForGood: the same, and another attempt would not help.
            TeacherUnavailable: whether it did any work is open.
        """
        import httpx

        pause = self._not_before - time.monotonic()  # it said that its limit is reached until then
        if pause > 0:  # a sleep of no time would still give the processor away
            time.sleep(pause)
        where = f"{method} {self.shown}{path}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        deadline = time.monotonic() + self._timeout
        base, mark, query = self._url.partition("?")
        try:
            with self._client.stream(method, f"{base}{path}{mark}{query}", content=content, headers=named) as reply:
                parts = []
                for part in reply.iter_bytes():
                    parts.append(part)
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("the answer came too slowly", request=reply.request)
        except (httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise Refused(f"{where}: no connection within {self._timeout:g} seconds; nothing was sent") from error
        except httpx.ConnectError as error:
            said = self._without_secrets(str(error))
            if "certificate" in said.lower():
                raise RefusedForGood(
                    f"{where}: the certificate cannot be trusted ({said}); nothing was sent. Name the authority's file "
                    "in the environment variable SSL_CERT_FILE, or ask whoever runs the service"
                ) from error
            raise Refused(f"{where}: no connection ({said}); nothing was sent. Is the server running there?") from error
        except httpx.TimeoutException as error:
            raise TeacherUnavailable(f"{where}: no answer within timeout={self._timeout:g} seconds") from error
        except httpx.HTTPError as error:
            said = self._without_secrets(str(error) or type(error).__name__)
            raise TeacherUnavailable(f"{where}: the connection broke ({said})") from error
        self._note_limits(reply.headers)
        body = b"".join(parts)
        if reply.status_code != 200:
            self._raise_for(reply.status_code, reply.headers, body, where)
        return Reply(body, reply.headers)

    def json_of(self, body: bytes, path: str = "") -> Any:
        """``body`` as JSON.

        Raises:
            TeacherAnswerError: it is none, such as a page for people.
        """
        try:
            return json.loads(body)
        except ValueError as error:
            start = body[:64].lstrip().lower()
            found = "an HTML page" if start.startswith((b"<!doctype", b"<html")) else f"{len(body):,} bytes"
            raise TeacherAnswerError(
                f"{self.shown}{path} answered {found} in place of whole JSON, which begins with "
                f"{self._quoted(body)!r}: is this the address of the service itself?"
            ) from error

    def _raise_for(self, status: int, headers: Mapping[str, str], body: bytes, where: str) -> None:
        said, code = self._error_in(body)
        what = f"{where} answered {status}" + (f" ({said})" if said else "")
        if 300 <= status < 400:
            target = urlsplit(headers.get("location", "")).hostname or "another path of it"
            raise RefusedForGood(f"{what} and sends on to {target}: redirects are not followed; name the final URL")
        if status == 402 or (status == 429 and _EXHAUSTED.search(code)):
            raise RefusedForGood(
                f"{what}: the account is exhausted. Nothing more is sent, and what was answered is kept: pay, then "
                "resume"
            )
        if status in (429, 503):
            refused = Refused(f"{what}: it did no work")
            refused.retry_after = _seconds_told(headers, body)
            raise refused
        if status in (401, 403):
            raise RefusedForGood(
                f"{what}: it wants other credentials; token_from= names the environment variable that holds the token"
            )
        if status == 408 or status >= 500 or status < 200:
            raise TeacherUnavailable(f"{what}; whether it did any work is not known")
        if status < 300:
            raise TeacherAnswerError(f"{what}: expected 200 with an answer")
        raise Rejection(f"{what}: it did no work", status, said)

    def _error_in(self, body: bytes) -> tuple[str, str]:
        """What a reply says of its error, and the code of it."""
        code = ""
        try:
            found = json.loads(body)
            if isinstance(found, dict):
                found = next((found[name] for name in ("error", "detail", "message") if name in found), found)
            if isinstance(found, dict):
                code = f"{found.get('code', '')} {found.get('type', '')}"
                found = found.get("message", found)
            said = found if isinstance(found, str) else json.dumps(found)
        except ValueError:
            said = "an HTML page" if body[:64].lstrip()[:1] == b"<" else body.decode(errors="replace")
        return self._quoted(said.encode()), code or said

    def _quoted(self, body: bytes) -> str:
        # Secrets first: cut in two, one would not be known again.
        text = self._without_secrets(" ".join(body.decode(errors="replace").split()))
        return text if len(text) <= _LONGEST_QUOTED else f"{text[:_LONGEST_QUOTED]}..."

    def _without_secrets(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def _note_limits(self, headers: Mapping[str, str]) -> None:
        """Wait before the next call where this reply says that the limit is reached."""
        for name in ("-requests", ""):
            if headers.get(f"x-ratelimit-remaining{name}") == "0":
                pause = _span(headers.get(f"x-ratelimit-reset{name}", ""))
                with self._lock:
                    self._not_before = max(self._not_before, time.monotonic() + min(pause, _LONGEST_PAUSE))
                return

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __repr__(self) -> str:
        return f"Service({self.shown!r})"


def _checked(url: str) -> tuple[str, str]:
    """The URL without a slash at its end, and the same for messages."""
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not host:
        shown = repr(url) if not isinstance(url, str) or "@" not in url else "with credentials"
        raise InputError(f"url {shown}: expected http://HOST/... or https://HOST/...")
    shown = f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/')}"
    secret = [name for name, _ in parse_qsl(parts.query) if _SECRET.search(name)]
    if parts.username is not None or parts.password is not None or secret:
        what = f"{', '.join(secret)} in its query" if secret else "a user or a password"
        raise InputError(
            f"url {shown} with {what}: URLs are written down, so put it into an environment variable and name that, "
            "token_from= or headers_from="
        )
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}{query}", shown


def _from_environment(header: str, variable: str) -> str:
    value = os.environ.get(variable, "").strip() if isinstance(variable, str) else ""
    if not value or not value.isprintable():
        state = "holds what no header can" if value else "is not set"
        raise InputError(
            f"{header} from the environment variable {variable!r}, which {state}: expected the name of a variable, "
            "never the secret itself"
        )
    return value


def _seconds_told(headers: Mapping[str, str], body: bytes) -> float | None:
    """How long to wait, by ``Retry-After`` or an ``estimated_time`` in the body; None where it does not say."""
    told = headers.get("retry-after", "").strip()
    if told:
        try:
            return max(0.0, float(told))
        except ValueError:
            pass
        try:
            moment = email.utils.parsedate_to_datetime(told)
            return max(0.0, (moment - datetime.datetime.now(moment.tzinfo)).total_seconds())
        except (ValueError, TypeError):
            return None
    try:
        return max(0.0, float(json.loads(body)["estimated_time"]))
    except (ValueError, KeyError, TypeError):
        return None


def _span(text: str) -> float:
    """Seconds of ``"6m0s"``, ``"12ms"``, ``"3"``, or until a moment in seconds since 1970; 0 for anything else."""
    text = text.strip()
    try:
        seconds = float(text)
    except ValueError:
        found = _SPAN.fullmatch(text)
        units = (3600.0, 60.0, 1.0, 0.001)
        return sum(float(part) * unit for part, unit in zip(found.groups(), units, strict=True) if part) if found else 0
    return max(0.0, seconds - time.time() if seconds > 1e9 else seconds)
