"""JSON that goes through a store of torch.distributed, signed with the token of the launch."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Any


class NotSigned(RuntimeError):
    """No rank of the launch wrote a value that is there under the name of a message."""


class Channel:
    """Named values of JSON's types that ranks of one launch write and read.

    A value without the signature of a rank is refused: whoever else reaches the store can make no
    rank do anything. Every method raises RuntimeError when the store is gone.
    """

    def __init__(self, store: Any, token: str) -> None:
        self._store, self._token = store, token

    def beside(self) -> Channel:
        """The same values, for another thread: it need not wait for what this one waits for."""
        return Channel(self._store.clone(), self._token)

    def has(self, name: str) -> bool:
        """Whether a value was written. Does not wait for it."""
        return self._store.check([name])

    def write(self, name: str, value: Any) -> None:
        """Write a value, in place of what it was before."""
        self._store.set(name, self._signed(name, value))

    def write_first(self, name: str, value: Any) -> None:
        """Write a value unless one is there: of several that ranks write, the first stays."""
        self._store.compare_set(name, "", self._signed(name, value))

    def read(self, name: str) -> Any:
        """A value, once it is there. Raises NotSigned for what no rank of this launch wrote."""
        return self._checked(name, self._store.get(name))

    def read_all(self, names: Sequence[str]) -> list[Any]:
        """As `read`, of several by one question."""
        found = self._store.multi_get(list(names))
        return [self._checked(name, one) for name, one in zip(names, found, strict=True)]

    def _signed(self, name: str, value: Any) -> str:
        body = json.dumps(value, allow_nan=False)
        return json.dumps({"mac": self._mac(name, body), "body": body})

    def _checked(self, name: str, written: bytes) -> Any:
        try:
            record = json.loads(written)
            body, mac = record["body"], record["mac"]
            if hmac.compare_digest(mac, self._mac(name, body)):
                return json.loads(body)
        except (ValueError, TypeError, KeyError):
            pass
        raise NotSigned(
            f"a message of the launch ({name}) is not signed with its token, so somebody else "
            "reaches the address where its ranks meet; put MASTER_ADDR on a network of your own"
        )

    def _mac(self, name: str, body: str) -> str:
        """The signature holds the name, too: a message cannot be sent again as another one."""
        text = f"{name}\n{body}".encode()
        return hmac.new(self._token.encode(), text, hashlib.sha256).hexdigest()
