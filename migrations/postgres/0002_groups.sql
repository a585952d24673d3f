-- Which groups a user is in. They come and go with the user, and follow a new name.
CREATE TABLE resttool.memberships (
    "user"  text COLLATE "C" NOT NULL REFERENCES resttool.users (name) ON UPDATE CASCADE ON DELETE CASCADE,
    "group" text COLLATE "C" NOT NULL,
    PRIMARY KEY ("user", "group")
);

-- The first groups of a user that this transaction has added change no cache entry. A user that it has updated is
-- recorded by that update.
CREATE FUNCTION resttool.note_join() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed text[] := array(
        SELECT DISTINCT new_rows."user" FROM new_rows JOIN resttool.users ON name = new_rows."user"
        WHERE users.xmin <> pg_current_xact_id()::xid
    );
BEGIN
    IF cardinality(changed) > 0 THEN PERFORM resttool.note(changed); END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION resttool.note_move() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed text[] := array(SELECT "user" FROM old_rows UNION SELECT "user" FROM new_rows);
BEGIN
    IF cardinality(changed) > 0 THEN PERFORM resttool.note(changed); END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION resttool.note_leave() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    changed text[] := array(SELECT DISTINCT "user" FROM old_rows);
BEGIN
    IF cardinality(changed) > 0 THEN PERFORM resttool.note(changed); END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER note_join AFTER INSERT ON resttool.memberships
    REFERENCING NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION resttool.note_join();
CREATE TRIGGER note_move AFTER UPDATE ON resttool.memberships
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows FOR EACH STATEMENT EXECUTE FUNCTION resttool.note_move();
CREATE TRIGGER note_leave AFTER DELETE ON resttool.memberships
    REFERENCING OLD TABLE AS old_rows FOR EACH STATEMENT EXECUTE FUNCTION resttool.note_leave();
CREATE TRIGGER note_truncate AFTER TRUNCATE ON resttool.memberships
    FOR EACH STATEMENT EXECUTE FUNCTION resttool.note_truncate();
