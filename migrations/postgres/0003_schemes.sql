-- An imported legacy hash is stored as bcrypt of a key that is derived from it. A login needs these parameters to
-- compute the key.
ALTER TABLE resttool.users
    ADD COLUMN scheme text,             -- NULL: bcrypt of the password, and the next three are unused
    ADD COLUMN salt text,               -- base64 if the scheme is ssha
    ADD COLUMN rounds bigint,           -- NULL: the hash did not name them
    ADD COLUMN imported bigint,         -- seconds since 1970-01-01T00:00:00Z
    -- Changes with the password, and not when the same password gets a better hash.
    ADD COLUMN credential_version bigint NOT NULL DEFAULT 0;
