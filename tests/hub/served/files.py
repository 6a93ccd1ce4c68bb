"""Large files: the batch call on the main origin, and the second origin that takes and gives their bytes."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from tests.hub.served.messages import Answer, Request, of_file, of_json
from tests.hub.served.repositories import Hub, Refusal, Repository
from tests.hub.served.settings import Settings

SECRET = b"nobody knows"
SHA256 = re.compile("[0-9a-f]{64}")


class LargeFiles:
    """Addresses are signed for a time, and what they allow needs no token."""

    def __init__(self, hub: Hub, settings: Settings) -> None:
        self.hub, self.settings = hub, settings
        self.main, self.origin = "", ""

    def route(self, request: Request) -> tuple[str, Callable[[], Answer]]:
        match (request.method, *request.parts):
            case ("GET" | "HEAD", "objects", sha256, *_):
                return "object", lambda: self._get(request, sha256)
            case ("PUT", "uploads", kind, space, name, sha256):
                return "lfs-put", lambda: self._put(request, (kind, f"{space}/{name}"), sha256)
            case ("PUT", "parts", sha256, number):
                return "lfs-part", lambda: self._put_part(request, sha256, int(number))
        return "unknown", lambda: _refuse()

    def href(self, sha256: str, path: str) -> str:
        """Return where to read an object."""
        return self._signed(self.origin, f"/objects/{sha256}/{quote(path.rpartition('/')[2])}", "GET")

    def _signed(self, origin: str, path: str, method: str) -> str:
        until = int(time.time()) + self.settings.signed_seconds
        return f"{origin}{path}?X-Amz-Expires={until}&X-Amz-Signature={_signature(method, path, until)}"

    def _check(self, request: Request, method: str) -> None:
        until = int(request.query.get("X-Amz-Expires", 0))
        path = "/" + "/".join(quote(part) for part in request.parts)
        signature = request.query.get("X-Amz-Signature", "")
        if not hmac.compare_digest(signature, _signature(method, path, until)):
            raise Refusal(403, "SignatureDoesNotMatch")
        if until < time.time():
            raise Refusal(403, "Request has expired")

    def batch(self, request: Request, repository: Repository) -> Answer:
        given = request.json()
        if given.get("operation") != "upload" or given.get("hash_algo", "sha256") != "sha256":
            raise Refusal(422, "Only uploads by sha256")
        parts = self.settings.multipart_bytes if "multipart" in given.get("transfers", []) else None
        objects = [self._actions(item, repository, parts) for item in given["objects"]]
        transfer = "multipart" if any("chunk_size" in str(item) for item in objects) else "basic"
        answer = of_json({"transfer": transfer, "objects": objects})
        answer.headers["Content-Type"] = "application/vnd.git-lfs+json"
        return answer

    def _actions(self, item: dict[str, Any], repository: Repository, part_bytes: int | None) -> dict[str, Any]:
        sha256, size = str(item.get("oid")), item.get("size")
        if not SHA256.fullmatch(sha256) or not isinstance(size, int):
            return {"oid": sha256, "size": size, "error": {"code": 422, "message": "Invalid object"}}
        said: dict[str, Any] = {"oid": sha256, "size": size}
        if repository.objects.get(sha256) == size:
            return said
        where = f"{repository.kind}/{repository.name}/{sha256}"
        if part_bytes and size > part_bytes:
            count = -(-size // part_bytes)
            numbers = range(1, count + 1)
            header = {str(n): self._signed(self.origin, f"/parts/{sha256}/{n}", "PUT") for n in numbers}
            href = self._signed(self.main, "/api/complete_multipart", "POST") + f"&where={where}"
            said["actions"] = {"upload": {"href": href, "header": {**header, "chunk_size": str(part_bytes)}}}
        else:
            said["actions"] = {"upload": {"href": self._signed(self.origin, f"/uploads/{where}", "PUT")}}
        if self.settings.verify:
            prefix = "" if repository.kind == "model" else repository.kind + "s/"
            href = f"{self.main}/{prefix}{repository.name}.git/info/lfs/objects/verify"
            said["actions"]["verify"] = {"href": href}
        return said

    def verify(self, request: Request, repository: Repository) -> Answer:
        given = request.json()
        if repository.objects.get(given["oid"]) != given["size"]:
            raise Refusal(404, "The object is not there, or has another size")
        return of_json({})

    def complete(self, request: Request) -> Answer:
        self._check(request, "POST")
        given = request.json()
        kind, space, name, sha256 = request.query["where"].split("/")
        whole = self.hub.objects.incoming()
        digest = hashlib.sha256()
        with open(whole, "wb") as file:
            for part in given["parts"]:
                source = self._part(sha256, part["partNumber"])
                data = source.read_bytes() if source.exists() else b""
                if hashlib.md5(data).hexdigest() != part["etag"].strip('"'):
                    raise Refusal(400, "InvalidPart")
                digest.update(data)
                file.write(data)
                source.unlink()
        self._keep(whole, digest.hexdigest(), sha256, (kind, f"{space}/{name}"))
        return of_json({"success": True})

    def _part(self, sha256: str, number: int) -> Any:
        return self.hub.objects.incoming().with_name(f"part-{sha256}-{number}")

    def _put_part(self, request: Request, sha256: str, number: int) -> Answer:
        self._check(request, "PUT")
        data = request.read()
        self._part(sha256, number).write_bytes(data)
        return Answer(200, {"ETag": f'"{hashlib.md5(data).hexdigest()}"'})

    def _put(self, request: Request, key: tuple[str, str], sha256: str) -> Answer:
        self._check(request, "PUT")
        if request.is_chunked or request.headers.get("Content-Length") is None:
            raise Refusal(411, "MissingContentLength")
        file = self.hub.objects.incoming()
        digest = hashlib.sha256()
        try:
            with open(file, "wb", buffering=0) as opened:
                for chunk in request.chunks():
                    digest.update(chunk)
                    opened.write(chunk)
            self._keep(file, digest.hexdigest(), sha256, key)
        finally:
            file.unlink(missing_ok=True)
        return Answer(200, {"ETag": f'"{sha256[:32]}"'})

    def _keep(self, file: Any, found: str, sha256: str, key: tuple[str, str]) -> None:
        if found != sha256:
            raise Refusal(400, "BadDigest: the bytes are not those that were announced")
        with self.hub.lock:
            size = file.stat().st_size
            self.hub.objects.adopt(file, sha256)
            if key in self.hub.repositories:
                self.hub.repositories[key].objects[sha256] = size

    def _get(self, request: Request, sha256: str) -> Answer:
        self._check(request, "GET")
        stored = self.hub.objects.path(sha256)
        if not stored.exists():
            raise Refusal(404, "NoSuchKey")
        headers = {"ETag": f'"{sha256[:32]}"', "Content-Disposition": 'inline; filename="object"'}
        return of_file(stored, stored.stat().st_size, request.headers.get("Range"), headers)


def _refuse() -> Answer:
    raise Refusal(404, "NoSuchKey")


def _signature(method: str, path: str, until: int) -> str:
    return hmac.new(SECRET, f"{method} {path} {until}".encode(), hashlib.sha256).hexdigest()
