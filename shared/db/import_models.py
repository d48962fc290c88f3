"""Tables of imports: the files of clients, their progress, and the rows that were rejected.

Rows that wait to be merged are in a table per import, `import_rows_<id>`, which is created when the
upload begins and dropped when all are merged. So millions of rows that live for seconds bloat no
other table.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
)
from sqlalchemy import text as sql
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column, relationship

from shared.db.base import NOW, ZERO, Base
from shared.domain.statuses import ImportStatus


class Import(Base):
    """A file of clients and the progress of its merge.

    `created_by` and `received_at` say who imported it and when its merge could begin. Until
    `undo_until` the earlier values of changed clients are in `import_changes`; without it there are
    none. `undoable` of the created and updated clients can be undone: fewer than all if an earlier
    version of the code merged a part. Created clients have ids from `first_client_id` to
    `last_client_id`, among others.
    """

    __tablename__ = "imports"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    status: Mapped[ImportStatus] = mapped_column(server_default=sql("'receiving'"))
    rows_total: Mapped[int] = mapped_column(server_default=ZERO)
    rows_done: Mapped[int] = mapped_column(server_default=ZERO)
    created: Mapped[int] = mapped_column(server_default=ZERO)
    updated: Mapped[int] = mapped_column(server_default=ZERO)
    unchanged: Mapped[int] = mapped_column(server_default=ZERO)
    rejected: Mapped[int] = mapped_column(server_default=ZERO)
    ignored_columns: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"))
    attribute_columns: Mapped[list[str]] = mapped_column(server_default=sql("'{}'"))
    default_timezone: Mapped[str | None]
    failure: Mapped[str | None]
    request_id: Mapped[str | None]
    created_by: Mapped[str | None]
    file_name: Mapped[str] = mapped_column(server_default=sql("''"))
    undo_until: Mapped[datetime | None]
    undoable: Mapped[int] = mapped_column(server_default=ZERO)
    first_client_id: Mapped[int | None]
    last_client_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    received_at: Mapped[datetime | None]
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    finished_at: Mapped[datetime | None]
    undo: Mapped["ImportUndo | None"] = relationship(lazy="joined", viewonly=True)

    __table_args__ = (
        CheckConstraint(
            "rows_done = created + updated + unchanged + rejected AND rows_done <= rows_total",
            name="imports_rows",
        ),
        CheckConstraint("status <> 'finished' OR rows_done = rows_total", name="imports_finished"),
        CheckConstraint("(failure IS NOT NULL) = (status = 'failed')", name="imports_failure"),
        Index(
            "imports_open",
            "id",
            postgresql_where=sql("status IN ('receiving', 'running')"),
        ),
        Index("imports_created_at", "created_at"),
        Index("imports_undo_until", "id", postgresql_where=sql("undo_until IS NOT NULL")),
    )


class ImportUndo(Base):
    """The undo of an import, and its progress.

    Created clients are deleted first, in the order of their ids up to `after_client_id`; then
    changed ones get their earlier values back. `kept` are those that were used or changed since.
    """

    __tablename__ = "import_undos"

    import_id: Mapped[int] = mapped_column(
        ForeignKey("imports.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    requested_by: Mapped[str]
    requested_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)
    finished_at: Mapped[datetime | None]
    after_client_id: Mapped[int] = mapped_column(server_default=ZERO)
    deleted: Mapped[int] = mapped_column(server_default=ZERO)
    restored: Mapped[int] = mapped_column(server_default=ZERO)
    kept: Mapped[int] = mapped_column(server_default=ZERO)

    __table_args__ = (
        Index("import_undos_open", "import_id", postgresql_where=sql("finished_at IS NULL")),
    )


class ImportChange(Base):
    """What a client was before an import changed it: its values and its version.

    The row is deleted by the undo, with the client, when a later import has changed clients, and
    after Import.undo_until.
    """

    __tablename__ = "import_changes"

    import_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    client_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(Integer)
    operator_code: Mapped[str]
    operator_code_given: Mapped[bool]
    tag: Mapped[str]
    timezone: Mapped[str]
    attributes: Mapped[dict[str, str]] = mapped_column(JSONB)
    last_import_id: Mapped[int | None]


class ImportPart(Base):
    """A range of an import's phones, merged in ascending order by one job at a time.

    `merged_phone` is the checkpoint. The row exists from the start of the part's merge to its end.
    """

    __tablename__ = "import_parts"

    import_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    part: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    merged_phone: Mapped[int]
    last_phone: Mapped[int]


class RejectedRow(Base):
    """A rejected row of a file: its cells as given, and its errors.

    An error is [column, detail, code]; one with the code `repeated` also has the other line.
    """

    __tablename__ = "rejected_rows"

    import_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    line: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    phone: Mapped[str]
    operator_code: Mapped[str]
    tag: Mapped[str]
    timezone: Mapped[str]
    faults: Mapped[list[Any]] = mapped_column(JSONB)
    attributes: Mapped[dict[str, str]] = mapped_column(JSONB, server_default=sql("'{}'"))


class ImportFile(Base):
    """A file that was uploaded in the admin UI and waits for the person's decision, for an hour.

    `state` has what the page shows: the columns, and the counts of the latest check; `draft_id` is
    the import that the check has left, and `mapping` what it was made with.
    """

    __tablename__ = "import_files"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(server_default=sql("''"))
    uploaded_by: Mapped[str]
    tag: Mapped[str | None]
    timezone: Mapped[str | None]
    mapping: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=sql("'{}'"))
    state: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=sql("'{}'"))
    draft_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)

    __table_args__ = (Index("import_files_created_at", "created_at"),)


class ImportFilePart(Base):
    """A part of a file's bytes. The table is unlogged: a crash of PostgreSQL empties it."""

    __tablename__ = "import_file_parts"

    file_id: Mapped[int] = mapped_column(
        ForeignKey("import_files.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    part: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    data: Mapped[bytes] = mapped_column(LargeBinary)

    __table_args__ = ({"prefixes": ["UNLOGGED"]},)
