-- Times are seconds since 1970-01-01T00:00:00Z.
-- Groups, when they come, are a table of their own that refers to users(name).
CREATE TABLE users (
    name    TEXT    NOT NULL PRIMARY KEY,
    hash    TEXT    NOT NULL,
    locked  INTEGER NOT NULL DEFAULT 0 CHECK (locked IN (0, 1)),
    expires INTEGER,                                    -- NULL: never
    created INTEGER NOT NULL DEFAULT (unixepoch()),
    changed INTEGER NOT NULL DEFAULT (unixepoch())
) STRICT, WITHOUT ROWID;
