"""The main origin of the stand-in: which call a request is (tests count by these names), and who may make it."""

from __future__ import annotations

from collections.abc import Callable

from tests.hub.served.cards import judge
from tests.hub.served.files import LargeFiles
from tests.hub.served.messages import Answer, Request, of_json
from tests.hub.served.reading import Reading
from tests.hub.served.repositories import Hub, Refusal, Repository
from tests.hub.served.settings import Settings
from tests.hub.served.writing import Writing

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}


class Routes:
    """``route`` says which call a request is, and what does it."""

    def __init__(self, hub: Hub, settings: Settings, files: LargeFiles) -> None:
        self.hub, self.settings, self.files = hub, settings, files
        self._reading, self._writing = Reading(hub, settings, files), Writing(hub, settings, files)

    def route(self, request: Request) -> tuple[str, Callable[[], Answer]]:
        method, parts = request.method, request.parts
        match (method, *parts):
            case ("POST", "api", "repos", "create"):
                return "create", lambda: self._writer(request, self._writing.create)
            case ("DELETE", "api", "repos", "delete"):
                return "delete", lambda: self._writer(request, self._writing.delete)
            case ("POST", "api", "validate-yaml"):
                return "validate-yaml", lambda: self._validate(request)
            case ("GET", "api", "whoami-v2"):
                return "whoami", lambda: self._whoami(request)
            case ("GET" | "HEAD", "api", "resolve-cache", kind, space, name, revision, *path) if kind in KINDS:
                where = (KINDS[kind], f"{space}/{name}")
                return "resolve-cache", lambda: self._resolve(request, where, revision, path, redirect=False)
            case (_, "api", kind, space, name, *rest) if kind in KINDS:
                return self._of_repository(request, KINDS[kind], f"{space}/{name}", tuple(rest))
            case ("POST", *kind, space, git, "info", "lfs", "objects", "batch") if git.endswith(".git"):
                where_to = (KINDS.get("".join(kind), "model"), f"{space}/{git[:-4]}")
                return "lfs-batch", lambda: self.files.batch(request, self._written(request, *where_to))
            case ("POST", *kind, space, git, "info", "lfs", "objects", "verify") if git.endswith(".git"):
                where_to = (KINDS.get("".join(kind), "model"), f"{space}/{git[:-4]}")
                return "lfs-verify", lambda: self.files.verify(request, self._written(request, *where_to))
            case ("POST", "api", "complete_multipart"):
                return "lfs-complete", lambda: self.files.complete(request)
            case ("GET" | "HEAD", space, name, "resolve", revision, *path):
                return "resolve", lambda: self._resolve(request, ("model", f"{space}/{name}"), revision, path)
            case ("GET" | "HEAD", kind, space, name, "resolve", revision, *path) if kind in KINDS:
                where = (KINDS[kind], f"{space}/{name}")
                return "resolve", lambda: self._resolve(request, where, revision, path)
        return "unknown", _unknown

    def _of_repository(
        self, request: Request, kind: str, name: str, rest: tuple[str, ...]
    ) -> tuple[str, Callable[[], Answer]]:
        def read(work: Callable[[Repository], Answer]) -> Callable[[], Answer]:
            return lambda: work(self._seen(request, kind, name))

        def write(work: Callable[[Repository], Answer]) -> Callable[[], Answer]:
            return lambda: work(self._written(request, kind, name))

        match (request.method, *rest):
            case ("GET",):
                return "info", read(lambda it: self._reading.info(request, it, "main"))
            case ("GET", "revision", revision):
                return "info", read(lambda it: self._reading.info(request, it, revision))
            case ("GET", "tree", revision, *path):
                return "tree", read(lambda it: self._reading.tree(request, it, revision, "/".join(path)))
            case ("POST", "paths-info", revision):
                return "paths-info", read(lambda it: self._reading.paths(request, it, revision))
            case ("GET", "refs"):
                return "refs", read(lambda it: self._reading.refs(request, it))
            case ("GET", "commits", revision):
                return "commits", read(lambda it: self._reading.commits(request, it, revision))
            case ("GET", "auth-check"):
                return "auth-check", read(lambda it: of_json({}))
            case ("POST", "preupload", revision):
                return "preupload", write(lambda it: self._writing.preupload(request, it, revision))
            case ("POST", "commit", revision):
                return "commit", write(lambda it: self._writing.commit(request, it, revision))
            case ("POST", "tag", revision):
                return "tag", write(lambda it: self._writing.tag(request, it, revision))
            case ("DELETE", "tag", tag):
                return "tag", write(lambda it: self._writing.untag(it, tag))
            case ("POST", "branch", branch):
                return "branch", write(lambda it: self._writing.branch(request, it, branch))
            case ("DELETE", "branch", branch):
                return "branch", write(lambda it: self._writing.unbranch(it, branch))
            case ("PUT", "settings"):
                return "settings", write(lambda it: self._writing.set(request, it))
        return "unknown", _unknown

    def _resolve(
        self, request: Request, key: tuple[str, str], revision: str, path: list[str], *, redirect: bool = True
    ) -> Answer:
        repository = self._seen(request, *key)
        return self._reading.resolve(request, repository, revision, "/".join(path), redirect=redirect)

    def _writer(self, request: Request, work: Callable[[Request], Answer]) -> Answer:
        self._may_write(request)
        return work(request)

    # Who may.

    def _token(self, request: Request) -> str | None:
        """Return the request's token; 401 if it is none that this server knows."""
        kind, _, token = (request.headers.get("Authorization") or "").partition(" ")
        if kind != "Bearer" or not token:
            return None
        known = self.settings.write_tokens + self.settings.read_tokens
        if known and token not in known:
            raise Refusal(401, "Invalid credentials in Authorization header")
        return token

    def _may_write(self, request: Request) -> None:
        token = self._token(request)
        if self.settings.write_tokens and token is None:
            raise Refusal(401, "Invalid username or password.")
        if self.settings.write_tokens and token not in self.settings.write_tokens:
            raise Refusal(403, "You don't have the rights to create a model under this namespace")

    def _seen(self, request: Request, kind: str, name: str) -> Repository:
        """Return a repository that the request may see; one that it may not is answered as one that is not there."""
        token = self._token(request)
        found = self.hub.repositories.get((kind, name))
        if found is None or (found.private and token is None):
            status, said = (401, "Invalid username or password.") if token is None else (404, "Repository not found")
            raise Refusal(status, said, "RepoNotFound")
        return found

    def _written(self, request: Request, kind: str, name: str) -> Repository:
        found = self._seen(request, kind, name)
        self._may_write(request)
        return found

    def _validate(self, request: Request) -> Answer:
        errors, warnings = judge(request.json()["content"])
        said = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
        return of_json(said, 400 if errors else 200)

    def _whoami(self, request: Request) -> Answer:
        if self._token(request) is None:
            raise Refusal(401, "Invalid username or password.")
        return of_json({"type": "user", "name": "somebody", "orgs": [], "auth": {"type": "access_token"}})


def _unknown() -> Answer:
    raise Refusal(404, "Sorry, we can't find the page you are looking for.")
