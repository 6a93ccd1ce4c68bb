"""What the Hub answers to who reads a repository."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

from tests.hub.served.cards import metadata
from tests.hub.served.files import LargeFiles
from tests.hub.served.messages import Answer, Request, of_file, of_json
from tests.hub.served.repositories import Commit, Entry, Hub, Refusal, Repository, pointer
from tests.hub.served.settings import Settings


class Reading:
    def __init__(self, hub: Hub, settings: Settings, files: LargeFiles) -> None:
        self.hub, self.settings, self.files = hub, settings, files

    def info(self, request: Request, repository: Repository, revision: str) -> Answer:
        is_empty = revision == "main" and not repository.commits
        commit = None if is_empty else repository.find(revision)
        files: Mapping[str, Entry] = commit.files if commit else {}
        with_blobs = request.query.get("blobs", "").lower() in ("true", "1")
        card = self._card(files)
        return of_json(
            {
                "_id": "0" * 24,
                "id": repository.name,
                "modelId": repository.name,
                "author": repository.name.partition("/")[0],
                "sha": commit.id if commit else None,
                "lastModified": commit.date if commit else repository.created,
                "createdAt": repository.created,
                "private": repository.private,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": card.get("tags") or [],
                "cardData": card,
                "siblings": [_sibling(path, entry, with_blobs) for path, entry in sorted(files.items())],
                "usedStorage": sum(repository.objects.values()),
            }
        )

    def _card(self, files: Mapping[str, Entry]) -> dict[str, Any]:
        readme = files.get("README.md")
        if readme is None:
            return {}
        try:
            found = metadata(self.hub.objects.path(readme.content).read_text("utf-8", errors="replace"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def tree(self, request: Request, repository: Repository, revision: str, folder: str) -> Answer:
        commit = repository.find(revision)
        expand = request.query.get("expand", "").lower() in ("true", "1")
        is_deep = request.query.get("recursive", "").lower() in ("true", "1")
        items = list(_listing(commit, folder.strip("/"), is_deep))
        if folder and not items:
            raise Refusal(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        size = min(self.settings.page_size, 50 if expand else 1000, int(request.query.get("limit", 1000)))
        start = int(base64.urlsafe_b64decode(request.query["cursor"])) if "cursor" in request.query else 0
        answer = of_json([_told(item, commit, expand) for item in items[start : start + size]])
        if start + size < len(items):
            cursor = base64.urlsafe_b64encode(str(start + size).encode()).decode()
            path = "/".join(quote(part, safe="") for part in request.parts)
            query = urlencode({**request.query, "cursor": cursor})
            answer.headers["Link"] = f'<{self.files.main}/{path}?{query}>; rel="next"'
        return answer

    def paths(self, request: Request, repository: Repository, revision: str) -> Answer:
        commit = repository.find(revision)
        data = request.read()
        if "json" in (request.headers.get("Content-Type") or ""):
            form = json.loads(data)
            paths, expand = form.get("paths", []), bool(form.get("expand"))
        else:
            fields = parse_qs(data.decode())
            paths, expand = fields.get("paths", []), fields.get("expand", ["false"])[-1].lower() == "true"
        items = dict(_listing(commit, "", True))
        return of_json([_told((path, items[path]), commit, expand) for path in paths if path in items])

    def refs(self, request: Request, repository: Repository) -> Answer:
        def named(refs: Mapping[str, str], prefix: str) -> list[dict[str, str]]:
            items = sorted(refs.items())
            return [{"name": name, "ref": f"{prefix}/{name}", "targetCommit": commit} for name, commit in items]

        said: dict[str, Any] = {
            "branches": named(repository.branches, "refs/heads"),
            "tags": named(repository.tags, "refs/tags"),
            "converts": [],
        }
        if "include_prs" in request.query:
            said["pullRequests"] = []
        return of_json(said)

    def commits(self, request: Request, repository: Repository, revision: str) -> Answer:
        listed = list(repository.history(repository.find(revision)))
        page, size = int(request.query.get("p", 0)), int(request.query.get("limit", 50))
        answer = of_json(
            [
                {
                    "id": commit.id,
                    "title": commit.title,
                    "message": commit.description,
                    "date": commit.date,
                    "authors": [{"user": commit.author, "avatar": ""}],
                }
                for commit in listed[page * size : (page + 1) * size]
            ]
        )
        if (page + 1) * size < len(listed):
            query = urlencode({**request.query, "p": page + 1})
            answer.headers["Link"] = f'<{self.files.main}{quote(request.path)}?{query}>; rel="next"'
        return answer

    def resolve(
        self, request: Request, repository: Repository, revision: str, path: str, *, redirect: bool = True
    ) -> Answer:
        commit = repository.find(revision)
        entry = commit.files.get(path)
        told = {"X-Repo-Commit": commit.id}
        if entry is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", told)
        if entry.is_lfs:
            told |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size_bytes)}
            told["ETag"] = f'"{entry.oid}"'
            told["Location"] = self.files.href(entry.content, path)
            return Answer(302, told, f"Found. Redirecting to {told['Location']}".encode())
        told["ETag"] = f'"{entry.oid}"'
        if redirect and self.settings.redirect_regular:
            parts = (f"{repository.kind}s", *repository.name.split("/"), commit.id, *path.split("/"))
            told["Location"] = "/api/resolve-cache/" + "/".join(quote(part, safe="") for part in parts)
            return Answer(307, told, b"Temporary Redirect")
        stored = self.hub.objects.path(entry.content)
        return of_file(stored, stored.stat().st_size, request.headers.get("Range"), told)


def _listing(commit: Commit, folder: str, is_deep: bool) -> Iterator[tuple[str, Entry | None]]:
    """Yield paths below a folder with their files, None for a folder, in the order of the paths."""
    prefix = folder + "/" if folder else ""
    found: dict[str, Entry | None] = {}
    for path, entry in commit.files.items():
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts)) if is_deep else range(1, min(2, len(parts))):
            found[prefix + "/".join(parts[:depth])] = None
        if is_deep or len(parts) == 1:
            found[path] = entry
    yield from sorted(found.items())


def _told(item: tuple[str, Entry | None], commit: Commit, expand: bool) -> dict[str, Any]:
    path, entry = item
    last = {"id": commit.id, "title": commit.title, "date": commit.date}
    more = {"lastCommit": last} if expand else {}
    if entry is None:
        return {"type": "directory", "oid": commit.id, "size": 0, "path": path, **more}
    told: dict[str, Any] = {"type": "file", "oid": entry.oid, "size": entry.size_bytes, "path": path, **more}
    if entry.is_lfs:
        told["lfs"] = {"oid": entry.sha256, "size": entry.size_bytes, "pointerSize": _pointer_bytes(entry)}
    return told | dict(entry.extra)


def _sibling(path: str, entry: Entry, with_blobs: bool) -> dict[str, Any]:
    if not with_blobs:
        return {"rfilename": path}
    told: dict[str, Any] = {"rfilename": path, "size": entry.size_bytes, "blobId": entry.oid}
    if entry.is_lfs:
        told["lfs"] = {"sha256": entry.sha256, "size": entry.size_bytes, "pointerSize": _pointer_bytes(entry)}
    return told


def _pointer_bytes(entry: Entry) -> int:
    return len(pointer(entry.sha256, entry.size_bytes))
