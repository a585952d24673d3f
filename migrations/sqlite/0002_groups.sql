-- Which groups a user is in. They come and go with the user, and follow a new name.
CREATE TABLE memberships (
    user    TEXT    NOT NULL REFERENCES users (name) ON UPDATE CASCADE ON DELETE CASCADE,
    "group" TEXT    NOT NULL,
    PRIMARY KEY (user, "group")
) STRICT, WITHOUT ROWID;
