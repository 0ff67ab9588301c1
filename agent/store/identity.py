"""Projects, API keys, secrets and the audit log, in the same database as the tasks.

Of an API key only a hash is kept, of a secret only what ``agent.store.secrets`` sealed: whoever reads the database
can neither call the service nor read the secrets.
"""

import hashlib
import hmac
import logging
import re
import secrets
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy import ColumnElement, RowMapping, and_, delete, insert, or_, select, update

from agent.errors import StoreUnavailable
from agent.identity import ApiKey, AuditEntry, AuditPage, Deed, Scope, SecretNote
from agent.store.cursors import page_of
from agent.store.database import Database, whole
from agent.store.tables import api_keys, audit_log, project_secrets, projects

_USE_IS_NOTED_EVERY = timedelta(minutes=10)
"""A key's last use is written at most so often: a write for every call would cost more than the call."""

_log = logging.getLogger(__name__)

_TOKEN: Final = re.compile(r"mimo_(?P<id>[0-9a-f]{16})_[0-9a-f]{64}")


class Identities:
    """What the service knows of its callers, in a database whose tables exist."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # Projects. Their record, and what is theirs of the workers, is the store's.

    @whole
    async def is_open(self, project_id: str) -> bool:
        """Whether there is such a project, and it has not been closed."""
        query = select(projects.c.project_id).where(_open(project_id))
        async with self.database.reading() as db:
            return (await db.execute(query)).first() is not None

    @whole
    async def close_project(self, project_id: str) -> None:
        """Let nobody act in the project from now on; what it has stays until it is purged."""
        async with self.database.writing() as transaction:
            await transaction.db.execute(update(projects).where(_open(project_id)).values(closed_at=transaction.now))

    # Keys.

    @whole
    async def create_key(
        self, project_id: str, name: str, scopes: frozenset[Scope], *, created_by: str, expires_at: datetime | None
    ) -> tuple[ApiKey, str]:
        """The key's record, and the key itself, which nobody can be told again."""
        number = secrets.token_hex(8)
        token = f"mimo_{number}_{secrets.token_hex(32)}"
        async with self.database.writing() as transaction:
            record = ApiKey(
                id=f"key_{number}",
                project_id=project_id,
                name=name,
                scopes=tuple(sorted(scopes)),
                created_by=created_by,
                created_at=transaction.now,
                expires_at=expires_at,
            )
            values = record.model_dump(exclude={"id"}) | {"key_id": record.id, "hash": _hash(token)}
            await transaction.db.execute(insert(api_keys).values(values))
        return record, token

    @whole
    async def keys(self, project_id: str) -> tuple[ApiKey, ...]:
        """Those of a project, newest first, revoked ones too."""
        query = select(api_keys).where(api_keys.c.project_id == project_id).order_by(api_keys.c.created_at.desc())
        async with self.database.reading() as db:
            return tuple(map(_key, (await db.execute(query)).mappings()))

    @whole
    async def revoke_key(self, project_id: str, key_id: str) -> ApiKey | None:
        """The key, of no use from now on; None where the project has no such key."""
        its = (api_keys.c.project_id == project_id, api_keys.c.key_id == key_id)
        async with self.database.writing() as transaction:
            await transaction.db.execute(
                update(api_keys).where(*its, api_keys.c.revoked_at.is_(None)).values(revoked_at=transaction.now)
            )
            row = (await transaction.db.execute(select(api_keys).where(*its))).mappings().first()
        return None if row is None else _key(row)

    @whole
    async def key_of(self, token: str) -> ApiKey | None:
        """The key that a token is, if it may be used now: neither revoked nor expired, its project open."""
        found = _TOKEN.fullmatch(token)
        if found is None:
            return None
        query = (
            select(api_keys, projects.c.closed_at)
            .join(projects, projects.c.project_id == api_keys.c.project_id)
            .where(api_keys.c.key_id == f"key_{found['id']}")
        )
        async with self.database.reading() as db:
            row = (await db.execute(query)).mappings().first()
            now = await self.database.now(db)
        if row is None or not hmac.compare_digest(row["hash"], _hash(token)):
            return None
        key = _key(row)
        if key.revoked_at or row["closed_at"] or (key.expires_at and key.expires_at <= now):
            return None
        try:
            await self._note_use(key, now)
        except StoreUnavailable as error:  # Such as a full disk: what can be read still is.
            _log.warning("action=forget_use key=%s error=%r", key.id, str(error))
        return key

    async def _note_use(self, key: ApiKey, now: datetime) -> None:
        before = now - _USE_IS_NOTED_EVERY
        if key.last_used_at is not None and key.last_used_at > before:
            return
        long_ago = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= before)
        async with self.database.writing() as transaction:
            await transaction.db.execute(
                update(api_keys).where(api_keys.c.key_id == key.id, long_ago).values(last_used_at=now)
            )

    # Secrets.

    @whole
    async def put_secret(self, project_id: str, name: str, sealed: bytes, *, updated_by: str) -> SecretNote:
        """Set or replace a secret; ``sealed`` comes from ``agent.store.secrets``."""
        its = (project_secrets.c.project_id == project_id, project_secrets.c.name == name)
        async with self.database.writing() as transaction:
            note = SecretNote(name=name, updated_by=updated_by, updated_at=transaction.now)
            # Two that set the same secret at once wait for each other here.
            await transaction.db.execute(
                select(projects.c.project_id).where(projects.c.project_id == project_id).with_for_update()
            )
            await transaction.db.execute(delete(project_secrets).where(*its))
            await transaction.db.execute(
                insert(project_secrets).values(note.model_dump() | {"project_id": project_id, "sealed": sealed})
            )
        return note

    @whole
    async def secrets(self, project_id: str) -> tuple[SecretNote, ...]:
        """What a project has, by name, without values."""
        its = project_secrets.c
        query = select(its.name, its.updated_by, its.updated_at).where(its.project_id == project_id).order_by(its.name)
        async with self.database.reading() as db:
            return tuple(SecretNote.model_validate(dict(row)) for row in (await db.execute(query)).mappings())

    @whole
    async def sealed_secret(self, project_id: str, name: str) -> bytes | None:
        """As it was put; None where the project has none of this name. For workers; no route answers with it."""
        its = project_secrets.c
        query = select(its.sealed).where(its.project_id == project_id, its.name == name)
        async with self.database.reading() as db:
            return (await db.execute(query)).scalar()

    @whole
    async def delete_secret(self, project_id: str, name: str) -> bool:
        """Whether there was one."""
        its = project_secrets.c
        async with self.database.writing() as transaction:
            gone = await transaction.db.execute(
                delete(project_secrets).where(its.project_id == project_id, its.name == name)
            )
        return gone.rowcount > 0

    # The audit log.

    @whole
    async def record(self, deed: Deed) -> None:
        """Add to the log; nothing is ever taken out of it."""
        async with self.database.writing() as transaction:
            await transaction.db.execute(insert(audit_log).values(deed.model_dump() | {"at": transaction.now}))

    @whole
    async def audit(self, project_id: str, *, cursor: str | None = None, limit: int = 100) -> AuditPage:
        """What was done in a project.

        Raises:
            InvalidCursor: no page of the log ended in it.
        """
        query = select(audit_log).where(audit_log.c.project_id == project_id)
        page, next_cursor = await page_of(self.database, project_id, query, audit_log.c.position, cursor, limit)
        entries = tuple(AuditEntry.model_validate({k: v for k, v in row.items() if k != "position"}) for row in page)
        return AuditPage(entries=entries, next_cursor=next_cursor)


def _hash(token: str) -> str:
    """Plain SHA-256: a key is 256 random bits, so there is nothing that a slow hash would protect from guessing."""
    return hashlib.sha256(token.encode()).hexdigest()


def _open(project_id: str) -> ColumnElement[bool]:
    return and_(projects.c.project_id == project_id, projects.c.closed_at.is_(None))


def _key(row: RowMapping) -> ApiKey:
    shown = {name: row[name] for name in ApiKey.model_fields if name != "id"}
    return ApiKey.model_validate(shown | {"id": row["key_id"], "scopes": tuple(row["scopes"])})
