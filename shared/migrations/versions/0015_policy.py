"""The policy, the limits of mailings, why a mailing is paused, and the emergency stop.

Revision ID: 0015
Revises: 0014
"""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE policies (
            version INTEGER NOT NULL,
            max_audience BIGINT,
            stop_when JSONB,
            budget JSONB,
            launch_delay INTEGER DEFAULT 0 NOT NULL,
            notify TEXT[] DEFAULT '{}' NOT NULL,
            updated_at timestamptz DEFAULT now() NOT NULL,
            updated_by TEXT,
            PRIMARY KEY (version),
            CONSTRAINT policies_max_audience CHECK (max_audience > 0),
            CONSTRAINT policies_launch_delay CHECK (launch_delay BETWEEN 0 AND 86400)
        );
        INSERT INTO policies (version) VALUES (1);
        CREATE TABLE emergency_stop (
            id BOOLEAN DEFAULT true NOT NULL,
            stopped_at timestamptz,
            stopped_by TEXT,
            PRIMARY KEY (id),
            CONSTRAINT emergency_stop_single CHECK (id),
            CONSTRAINT emergency_stop_by CHECK (stopped_at IS NOT NULL OR stopped_by IS NULL)
        );
        INSERT INTO emergency_stop DEFAULT VALUES;
        """
    )
    # No default: no row is rewritten. Old code inserts and changes rows without these columns.
    op.execute(
        """
        ALTER TABLE mailings
            ADD COLUMN pause_reason TEXT,
            ADD COLUMN max_audience BIGINT,
            ADD COLUMN stop_when JSONB,
            ADD COLUMN budget JSONB,
            ADD COLUMN launch_not_before timestamptz,
            ADD COLUMN policy_version INTEGER,
            ADD COLUMN audience_limit BIGINT,
            ADD CONSTRAINT mailings_max_audience CHECK (max_audience > 0)
        """
    )
    # Code that knows no reasons pauses, resumes and settles mailings: the trigger fills in `manual`
    # and clears the reason, so the constraint holds whichever version of the code writes.
    op.execute(
        """
        CREATE FUNCTION set_pause_reason() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.pause_reason := CASE WHEN NEW.status = 'paused'
                THEN coalesce(NEW.pause_reason, 'manual') END;
            RETURN NEW;
        END $$;
        CREATE TRIGGER mailings_pause_reason
            BEFORE INSERT OR UPDATE OF status, pause_reason ON mailings FOR EACH ROW
            WHEN ((NEW.status = 'paused') IS DISTINCT FROM (NEW.pause_reason IS NOT NULL))
            EXECUTE FUNCTION set_pause_reason();
        UPDATE mailings SET pause_reason = 'manual' WHERE status = 'paused';
        ALTER TABLE mailings
            ADD CONSTRAINT mailings_pause_reason
                CHECK ((status = 'paused') = (pause_reason IS NOT NULL)),
            ADD CONSTRAINT mailings_pause_reason_known
                CHECK (pause_reason IN ('manual', 'refusals', 'audience_limit', 'budget'));
        """
    )


def downgrade() -> None:
    op.execute(
        """
        DROP TRIGGER mailings_pause_reason ON mailings;
        ALTER TABLE mailings DROP COLUMN pause_reason, DROP COLUMN max_audience,
            DROP COLUMN stop_when, DROP COLUMN budget, DROP COLUMN launch_not_before,
            DROP COLUMN policy_version, DROP COLUMN audience_limit;
        DROP FUNCTION set_pause_reason();
        DROP TABLE emergency_stop, policies;
        """
    )
