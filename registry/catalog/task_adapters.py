"""Task adapters: what they were trained from, where their bytes lie, and which questions they have seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sqlalchemy import Select, select, update
from sqlalchemy.orm import Session

from registry.catalog.adapters import training_columns, training_of
from registry.catalog.chunks import chunked
from registry.catalog.dialect import BULK, insert_new
from registry.catalog.identifiers import ids_by_digest
from registry.catalog.models import PackRow, RecipeRow, TaskAdapterQuestionRow, TaskAdapterRow, utc_now
from registry.catalog.names import is_corpus_name
from registry.catalog.recipes import recipe_id
from registry.digests import short
from registry.errors import IntegrityError, NotFoundError, UsageError
from registry.records import AdapterLocation, Pack, TaskAdapter

_LISTED = 20


def check_task_adapter_name(name: str) -> None:
    """Check that a task adapter may have this name; none at all is allowed.

    Raises:
        UsageError: it may not.
    """
    if name and not is_corpus_name(name):
        raise UsageError(
            f"{name!r} cannot be the name of a task adapter",
            hint="use up to 64 of the letters a-z, digits, dot, dash and underscore, beginning with a letter or digit",
        )


def add_task_adapter(session: Session, task_adapter: TaskAdapter, pack: Pack) -> None:
    """Record a task adapter and the pack, lying in the store, that holds it alone.

    One that is known already stays as it is, name included, but lies in this pack from now on.

    Raises:
        NotFoundError: its recipe is not in the catalog.
        IntegrityError: the pack does not hold just this adapter, in its size.
        UsageError: it cannot have that name.
    """
    check_task_adapter_name(task_adapter.name)
    recipe = recipe_id(session, task_adapter.recipe_digest)
    held = [(item.adapter_digest, item.size_bytes) for item in pack.adapters]
    if held != [(task_adapter.digest, task_adapter.size_bytes)]:
        raise IntegrityError(f"pack {pack.digest} does not hold task adapter {task_adapter.digest} alone and whole")
    number = _number(session, task_adapter.digest)
    if number is None:
        number = _add(session, task_adapter, recipe)
    row = {"digest": pack.digest, "size_bytes": pack.size_bytes, "build_id": None, "created_at": utc_now()}
    insert_new(session, PackRow, [row])
    place = {"pack_id": ids_by_digest(session, PackRow, [pack.digest])[pack.digest], "offset": pack.adapters[0].offset}
    moved = update(TaskAdapterRow).where(TaskAdapterRow.id == number).values(place)
    session.execute(moved, execution_options=BULK)


def get_task_adapter(session: Session, identifier: str) -> TaskAdapter:
    """Return the task adapter of that digest, the newest of that name, or the one whose digest begins so.

    They are tried in this order; with ``sha256:`` before it, ``identifier`` is a digest or the beginning of one.

    Raises:
        NotFoundError: there is none, or a beginning is that of several; the hint lists what there are.
    """
    newest_first = select(TaskAdapterRow.digest, TaskAdapterRow.name).order_by(
        TaskAdapterRow.created_at.desc(), TaskAdapterRow.id.desc()
    )
    known = [(digest, name) for digest, name in session.execute(newest_first)]
    wanted = identifier.strip()
    prefix = wanted.lower().removeprefix("sha256:")
    named = [digest for digest, name in known if name and name == wanted]
    begun = [digest for digest, _ in known if prefix and digest.startswith(prefix)]
    if prefix not in begun and named:
        begun = named[:1]
    if len(begun) != 1:
        several = f"{identifier} is the beginning of several task adapters"
        raise NotFoundError(several if begun else f"there is no task adapter {identifier!r}", hint=_listed(known))
    return _task_adapters(session, _rows().where(TaskAdapterRow.digest == begun[0]))[0]


def list_task_adapters(session: Session) -> list[TaskAdapter]:
    """Return all task adapters, newest first."""
    return _task_adapters(session, _rows().order_by(TaskAdapterRow.created_at.desc(), TaskAdapterRow.id.desc()))


def locate_task_adapter(session: Session, digest: str) -> AdapterLocation:
    """Return where the bytes of a task adapter lie.

    Raises:
        NotFoundError: it is not in the catalog.
        IntegrityError: its pack is lost.
    """
    found = session.execute(
        select(TaskAdapterRow.name, PackRow.digest, TaskAdapterRow.offset, TaskAdapterRow.size_bytes)
        .outerjoin(PackRow, PackRow.id == TaskAdapterRow.pack_id)
        .where(TaskAdapterRow.digest == digest)
    ).one_or_none()
    if found is None:
        raise _unknown(digest)
    name, pack, offset, size = found
    if pack is None or offset is None:
        raise IntegrityError(
            f"task adapter {_shown(digest, name)} lies in no pack: its bytes are lost",
            hint="pragreg warmup makes it again, from the same questions and by the same recipe",
        )
    return AdapterLocation(digest, pack, offset, size)


def overlapping_questions(session: Session, digest: str, question_digests: Iterable[str]) -> set[str]:
    """Return those of ``question_digests`` on which a task adapter was trained.

    Raises:
        NotFoundError: the task adapter is not in the catalog, so nothing is known of its questions.
    """
    number = _number(session, digest)
    if number is None:
        raise _unknown(digest)
    seen = select(TaskAdapterQuestionRow.question_digest).where(TaskAdapterQuestionRow.task_adapter_id == number)
    found: set[str] = set()
    for chunk in chunked(set(question_digests)):
        found.update(session.scalars(seen.where(TaskAdapterQuestionRow.question_digest.in_(chunk))))
    return found


def _add(session: Session, task_adapter: TaskAdapter, recipe: int) -> int:
    names = ("digest", "name", "questions_digest", "questions", "size_bytes", "parameters", "created_at")
    row = {
        **{name: getattr(task_adapter, name) for name in names},
        **training_columns(task_adapter.training),
        "recipe_id": recipe,
    }
    # Another process may have recorded it just now.
    insert_new(session, TaskAdapterRow, [row])
    number = session.scalars(select(TaskAdapterRow.id).where(TaskAdapterRow.digest == task_adapter.digest)).one()
    asked = sorted(set(task_adapter.question_digests))
    rows = ({"task_adapter_id": number, "question_digest": question} for question in asked)
    insert_new(session, TaskAdapterQuestionRow, rows)
    return number


def _number(session: Session, digest: str) -> int | None:
    return session.scalar(select(TaskAdapterRow.id).where(TaskAdapterRow.digest == digest))


def _rows() -> Select[TaskAdapterRow, str]:
    return select(TaskAdapterRow, RecipeRow.digest).join(RecipeRow, RecipeRow.id == TaskAdapterRow.recipe_id)


def _task_adapters(session: Session, query: Select[TaskAdapterRow, str]) -> list[TaskAdapter]:
    found = session.execute(query).all()
    questions: dict[int, list[str]] = {row.id: [] for row, _ in found}
    for chunk in chunked(questions):
        asked = session.execute(
            select(TaskAdapterQuestionRow.task_adapter_id, TaskAdapterQuestionRow.question_digest)
            .where(TaskAdapterQuestionRow.task_adapter_id.in_(chunk))
            .order_by(TaskAdapterQuestionRow.question_digest)
        )
        for number, question in asked:
            questions[number].append(question)
    return [_record(row, recipe, questions[row.id]) for row, recipe in found]


def _record(row: TaskAdapterRow, recipe: str, questions: Sequence[str]) -> TaskAdapter:
    return TaskAdapter(
        digest=row.digest,
        recipe_digest=recipe,
        name=row.name,
        questions_digest=row.questions_digest,
        question_digests=tuple(questions),
        questions=row.questions,
        parameters=row.parameters,
        size_bytes=row.size_bytes,
        training=training_of(row),
        created_at=row.created_at,
    )


def _unknown(digest: str) -> NotFoundError:
    return NotFoundError(
        f"task adapter {digest} is not in the catalog",
        hint="pragreg warmup makes it, from the same questions and by the same recipe",
    )


def _shown(digest: str, name: str) -> str:
    return f"{name} ({short(digest)})" if name else short(digest)


def _listed(known: Sequence[tuple[str, str]]) -> str:
    if not known:
        return "there is none yet; pragreg warmup makes one"
    more = ", ..." if len(known) > _LISTED else ""
    return f"there are: {', '.join(_shown(digest, name) for digest, name in known[:_LISTED])}{more}"
