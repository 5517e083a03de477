"""A small client of a schema registry (Confluent's HTTP interface), and Avro records by their schema's id."""

import base64
import importlib
import io
import json
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from schemas.errors import UsageError

TIMEOUT_S = 2.0
RETRY_S = 5.0
MAGIC = 0
HEAD = 5
"""A zero byte and the schema's id, four bytes, most significant first."""


class RegistryDown(Exception):
    """The registry does not answer. Nothing is wrong with the message: it is read again later."""


class Registry:
    """Schemas by id, asked once each. url: http(s)://[user:password@]host[/path]; a password may be `file:PATH`.

    Errors: UsageError where the address or the package for Avro is missing.
    """

    def __init__(self, url: str) -> None:
        try:
            self._avro = importlib.import_module("fastavro")
        except ModuleNotFoundError as error:
            raise UsageError("Avro needs a package more: pip install 'tidegate[avro]'") from error
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"kafka_registry {url} is no address: give http://host:8081")
        self._base = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
        self._headers = {"Accept": "application/vnd.schemaregistry.v1+json"}
        if parts.username is not None:
            password = unquote(parts.password or "")
            if password.startswith("file:"):
                password = Path(password.removeprefix("file:")).read_text("utf-8").strip()
            token = base64.b64encode(f"{unquote(parts.username)}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {token}"
        self._schemas: dict[int, Any] = {}
        self._ask_after = 0.0

    def decode(self, value: bytes) -> Any:
        """The record of a message. Errors: ValueError for one that cannot be read, RegistryDown."""
        if len(value) < HEAD or value[0] != MAGIC:
            raise ValueError("it does not begin with a zero byte and a schema's id")
        number = int.from_bytes(value[1:HEAD], "big")
        schema = self._schemas.get(number)
        if schema is None:
            schema = self._schema(number)
        try:
            body = io.BytesIO(value)
            body.seek(HEAD)
            record = self._avro.schemaless_reader(body, schema, None)
        except Exception as error:  # what the package raises for broken bytes is not stated: EOFError, KeyError, ...
            raise ValueError(f"schema {number} does not fit ({type(error).__name__} {error})") from error
        if body.tell() != len(value):
            raise ValueError(f"schema {number} does not fit: {len(value) - body.tell()} bytes are left over")
        return record

    def _schema(self, number: int) -> Any:
        told = self._ask(f"/schemas/ids/{number}")
        if told is None:
            raise ValueError(f"schema {number} is not in the registry")
        if told.get("schemaType", "AVRO") != "AVRO":
            raise ValueError(f"schema {number} is {told['schemaType']}, not Avro")
        named: dict[str, Any] = {}
        self._refer(told, named)
        try:
            schema = self._avro.parse_schema(json.loads(told["schema"]), named_schemas=named)
        except Exception as error:  # as above
            raise ValueError(f"schema {number} cannot be used ({type(error).__name__} {error})") from error
        self._schemas[number] = schema
        return schema

    def _refer(self, told: Any, named: dict[str, Any]) -> None:
        """The schemas that a schema refers to, and theirs, into `named`."""
        for reference in told.get("references", ()):
            path = f"/subjects/{quote(reference['subject'], safe='')}/versions/{reference['version']}"
            other = self._ask(path)
            if other is None:
                raise ValueError(f"the registry lacks {reference['subject']}, to which a schema refers")
            self._refer(other, named)
            self._avro.parse_schema(json.loads(other["schema"]), named_schemas=named)

    def _ask(self, path: str) -> Any:
        if time.monotonic() < self._ask_after:
            raise RegistryDown(f"the schema registry {self._base} does not answer")
        request = urllib.request.Request(self._base + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            why = f"the schema registry {self._base} answers {error.code} {error.reason}"
        except (OSError, ValueError) as error:
            why = f"the schema registry {self._base} does not answer ({error})"
        self._ask_after = time.monotonic() + RETRY_S
        raise RegistryDown(why)
