"""What the Hub does for who writes to a repository."""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from tests.hub.served.cards import judge
from tests.hub.served.files import LargeFiles
from tests.hub.served.messages import Answer, Request, of_json
from tests.hub.served.repositories import ATTRIBUTES, Entry, Hub, Refusal, Repository, check_folders, check_path
from tests.hub.served.settings import Settings

REGULAR_BYTES = 10 * 1024 * 1024
REF = re.compile(r"(?!-)(?!.*\.\.)(?!.*//)(?!.*\.lock$)[^\s~^:?*\[\\\x00-\x1f\x7f]+")


class Writing:
    def __init__(self, hub: Hub, settings: Settings, files: LargeFiles) -> None:
        self.hub, self.settings, self.files = hub, settings, files

    def create(self, request: Request) -> Answer:
        given = request.json()
        kind = given.get("type") or "model"
        name = f"{given.get('organization') or 'somebody'}/{given['name']}"
        if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name, re.ASCII) or "--" in name or ".." in name:
            raise Refusal(400, f"Invalid name: {name}")
        url = f"{self.files.main}/{'' if kind == 'model' else kind + 's/'}{name}"
        with self.hub.lock:
            if (kind, name) in self.hub.repositories:
                return of_json({"error": "You already created this model repo", "url": url}, 409)
            private = given.get("visibility") == "private" or bool(given.get("private"))
            made = self.hub.create(name, kind, private=private, first_commit=self.settings.first_commit)
        return of_json({"url": url, "name": made.name, "id": "0" * 24})

    def delete(self, request: Request) -> Answer:
        given = request.json()
        key = (given.get("type") or "model", f"{given.get('organization') or 'somebody'}/{given['name']}")
        with self.hub.lock:
            if self.hub.repositories.pop(key, None) is None:
                raise Refusal(404, "Repository not found", "RepoNotFound")
        return of_json({})

    def set(self, request: Request, repository: Repository) -> Answer:
        given = request.json()
        repository.private = given.get("visibility") == "private" or bool(given.get("private"))
        return of_json({"private": repository.private})

    def preupload(self, request: Request, repository: Repository, revision: str) -> Answer:
        head = repository.branches.get(revision)
        files = repository.commits[head].files if head else {}
        if head is None and repository.branches:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        patterns = self._patterns(files)
        said = []
        for given in request.json()["files"]:
            path, there = given["path"], files.get(given["path"])
            name = path.rpartition("/")[2]
            is_large = (
                any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
                or given["size"] > REGULAR_BYTES
                or b"\0" in base64.b64decode(given["sample"])
            )
            item = {"path": path, "uploadMode": "lfs" if is_large else "regular", "shouldIgnore": False}
            if there:
                item["oid"] = there.sha256 if there.is_lfs else there.oid
            said.append(item)
        return of_json({"files": said, "commitOid": repository.branches.get(revision)})

    def _patterns(self, files: Mapping[str, Entry]) -> list[str]:
        attributes = files.get(".gitattributes")
        data = self.hub.objects.path(attributes.content).read_bytes() if attributes else ATTRIBUTES
        lines = data.decode(errors="replace").splitlines()
        return [line.split()[0] for line in lines if "filter=lfs" in line]

    def commit(self, request: Request, repository: Repository, revision: str) -> Answer:
        try:
            lines = [json.loads(line) for line in request.read().splitlines() if line.strip()]
        except ValueError as error:
            raise Refusal(400, "Invalid NDJSON") from error
        if not lines or lines[0].get("key") != "header" or "summary" not in lines[0].get("value", {}):
            raise Refusal(400, "The first line must be a header with a summary")
        if "create_pr" in request.query:
            raise Refusal(403, "Pull requests are disabled for this repository")
        header = lines[0]["value"]
        with self.hub.lock:
            head = repository.branches.get(revision)
            if head is None and (repository.branches or revision != "main"):
                raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
            if header.get("parentCommit") not in (None, head):
                raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commits[head].files) if head else {}
            changed = {path for line in lines[1:] for path in self._apply(line, files, repository)}
            check_folders(files, changed)
            title, more = header["summary"], header.get("description") or ""
            commit = self.hub.commit(repository, revision, title, more, files, parent=head)
        url = f"{self.files.main}/{repository.name}/commit/{commit.id}"
        return of_json({"success": True, "commitOid": commit.id, "commitUrl": url, "hookOutput": ""})

    def _apply(self, line: dict[str, Any], files: dict[str, Entry], repository: Repository) -> Iterator[str]:
        key, value = line.get("key"), line.get("value") or {}
        path = value.get("path", "")
        check_path(path.rstrip("/"))
        if key == "file":
            files[path] = self._regular(value)
            yield path
        elif key == "lfsFile":
            size = repository.objects.get(value["oid"])
            if value.get("algo") != "sha256" or size is None:
                raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {path}")
            if value.get("size") not in (None, size):
                raise Refusal(400, f"The size of {path} is {size}")
            files[path] = self.hub.objects.large(value["oid"], size)
            yield path
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            inside = [there for there in files if there.startswith(path.rstrip("/") + "/")]
            if not inside:
                raise Refusal(404, "A folder with this name doesn't exist", "EntryNotFound")
            for there in inside:
                del files[there]
        else:
            raise Refusal(400, f"Unknown key: {key}")

    def _regular(self, value: Mapping[str, Any]) -> Entry:
        path, text = value["path"], value.get("content", "")
        try:
            data = base64.b64decode(text, validate=True) if value.get("encoding") == "base64" else text.encode()
        except binascii.Error as error:
            raise Refusal(400, f"{path} is not base64") from error
        if len(data) > REGULAR_BYTES:
            raise Refusal(400, f"Your push was rejected because {path} is larger than 10 MiB")
        if path == "README.md" and (errors := judge(data.decode("utf-8", errors="replace"))[0]):
            raise Refusal(400, "Your push was rejected: " + " ".join(errors))
        return self.hub.objects.regular(data)

    def tag(self, request: Request, repository: Repository, revision: str) -> Answer:
        name = request.json().get("tag", "")
        if not REF.fullmatch(name):
            raise Refusal(400, f"Invalid tag: {name}")
        with self.hub.lock:
            commit = repository.find(revision)
            if name in repository.tags:
                raise Refusal(409, f'Tag "{name}" already exists')
            repository.tags[name] = commit.id
        return of_json({})

    def untag(self, repository: Repository, name: str) -> Answer:
        with self.hub.lock:
            if repository.tags.pop(name, None) is None:
                raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return of_json({})

    def branch(self, request: Request, repository: Repository, name: str) -> Answer:
        given = request.json()
        if not REF.fullmatch(name) or name.startswith("refs/"):
            raise Refusal(400, f"Invalid reference for a branch: {name}")
        with self.hub.lock:
            if name in repository.branches:
                raise Refusal(409, f"Reference already exists: refs/heads/{name}")
            start = repository.find(given.get("startingPoint") or "main")
            repository.branches[name] = start.id
        return of_json({})

    def unbranch(self, repository: Repository, name: str) -> Answer:
        with self.hub.lock:
            if name == "main":
                raise Refusal(403, "Cannot delete the branch main")
            if repository.branches.pop(name, None) is None:
                raise Refusal(404, f"Invalid rev id: {name}", "RevisionNotFound")
        return of_json({})
