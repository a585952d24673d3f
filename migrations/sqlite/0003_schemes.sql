-- An imported legacy hash is stored as bcrypt of a key that is derived from it. A login needs these parameters to
-- compute the key.
ALTER TABLE users ADD COLUMN scheme TEXT;       -- NULL: bcrypt of the password, and the next three are unused
ALTER TABLE users ADD COLUMN salt TEXT;         -- base64 if the scheme is ssha
ALTER TABLE users ADD COLUMN rounds INTEGER;    -- NULL: the hash did not name them
ALTER TABLE users ADD COLUMN imported INTEGER;  -- seconds since 1970-01-01T00:00:00Z
-- Changes with the password, and not when the same password gets a better hash.
ALTER TABLE users ADD COLUMN credential_version INTEGER NOT NULL DEFAULT 0;
