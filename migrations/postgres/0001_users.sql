-- Times are seconds since 1970-01-01T00:00:00Z.
CREATE SCHEMA resttool;

CREATE TABLE resttool.users (
    name    text    COLLATE "C" NOT NULL PRIMARY KEY,
    hash    text    NOT NULL,
    locked  boolean NOT NULL DEFAULT false,
    expires bigint,                                     -- NULL: never
    created bigint  NOT NULL DEFAULT floor(extract(epoch FROM now())),
    changed bigint  NOT NULL DEFAULT floor(extract(epoch FROM now()))
);

-- The state of all users. Every statement that changes them increments the revision and draws a new tag. So equal tags
-- mean equal states, also after a failover that has lost commits.
CREATE TABLE resttool.state (
    id       integer NOT NULL PRIMARY KEY DEFAULT 1 CHECK (id = 1),
    version  integer NOT NULL,                          -- of the schema
    lease_ms integer NOT NULL CHECK (lease_ms BETWEEN 100 AND 60000),
    revision bigint  NOT NULL DEFAULT 0,
    tag      bigint  NOT NULL DEFAULT 0
);

-- The last changes, so that servers read only the rows of changed users again.
CREATE TABLE resttool.changes (
    revision bigint NOT NULL PRIMARY KEY,
    tag      bigint NOT NULL UNIQUE,
    names    text[],                                    -- NULL: any user may have changed
    at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    xact     xid8   NOT NULL DEFAULT pg_current_xact_id()   -- it may commit long after `at`
);

-- Records a change of these users. NULL stands for any user. A role that may change users needs no right on the other
-- tables.
CREATE FUNCTION resttool.note(changed text[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    hex text := replace(gen_random_uuid()::text, '-', '');
    -- 63 random bits: the digits of a random UUID without its version and variant (RFC 9562 section 5.4).
    random bigint := ('x' || substr(hex, 1, 12) || substr(hex, 18, 4))::bit(64)::bigint & 9223372036854775807;
    now_at bigint;
BEGIN
    UPDATE resttool.state SET revision = revision + 1, tag = random RETURNING revision INTO now_at;
    INSERT INTO resttool.changes (revision, tag, names)
    VALUES (now_at, random, CASE WHEN cardinality(changed) <= 1000 THEN changed END);
    -- An insert has to find the removals within the last lease, which is at most a minute.
    DELETE FROM resttool.changes
    WHERE revision <= now_at - 10000 AND at < clock_timestamp() - interval '10 minutes'
        AND xact <> pg_current_xact_id();
END $$;
REVOKE ALL ON FUNCTION resttool.note(text[]) FROM PUBLIC;

-- A new user has no cache entry, so its name is not recorded.
CREATE FUNCTION resttool.note_insert() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM new_rows) THEN PERFORM resttool.note('{}'); END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION resttool.note_update() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed text[] := array(SELECT name FROM old_rows UNION SELECT name FROM new_rows);
BEGIN
    IF cardinality(changed) > 0 THEN PERFORM resttool.note(changed); END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION resttool.note_delete() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed text[] := array(SELECT name FROM old_rows);
BEGIN
    IF cardinality(changed) > 0 THEN PERFORM resttool.note(changed); END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION resttool.note_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM resttool.note(NULL);
    RETURN NULL;
END $$;

CREATE TRIGGER note_insert AFTER INSERT ON resttool.users
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION resttool.note_insert();
CREATE TRIGGER note_update AFTER UPDATE ON resttool.users
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION resttool.note_update();
CREATE TRIGGER note_delete AFTER DELETE ON resttool.users
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION resttool.note_delete();
CREATE TRIGGER note_truncate AFTER TRUNCATE ON resttool.users
    FOR EACH STATEMENT EXECUTE FUNCTION resttool.note_truncate();
