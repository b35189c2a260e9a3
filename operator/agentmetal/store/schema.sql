-- version 1
-- The audit trail: the database itself refuses whatever does not continue the chain.
-- The columns for searching are computed from the entry, so they can never say something else.
CREATE TABLE audit (
    sequence  INTEGER PRIMARY KEY,
    hash      TEXT    NOT NULL UNIQUE,
    previous  TEXT    NOT NULL,
    format    INTEGER NOT NULL,
    entry     TEXT    NOT NULL,
    resource  TEXT GENERATED ALWAYS AS (json_extract(entry, '$.resource')) VIRTUAL,
    operation TEXT GENERATED ALWAYS AS (json_extract(entry, '$.operation')) VIRTUAL,
    timestamp TEXT GENERATED ALWAYS AS (json_extract(entry, '$.timestamp')) VIRTUAL,
    action    TEXT GENERATED ALWAYS AS (json_extract(entry, '$.action')) VIRTUAL
);
CREATE INDEX audit_resource ON audit (resource, sequence);
CREATE INDEX audit_operation ON audit (operation, sequence);
CREATE INDEX audit_timestamp ON audit (timestamp, sequence);
CREATE INDEX audit_action ON audit (action, sequence);

CREATE TRIGGER audit_follows BEFORE INSERT ON audit
WHEN new.sequence IS NOT (SELECT coalesce(max(sequence), 0) + 1 FROM audit)
  OR new.previous IS NOT coalesce((SELECT hash FROM audit ORDER BY sequence DESC LIMIT 1), printf('%064d', 0))
BEGIN SELECT raise(ABORT, 'the audit trail is append-only: a record must follow the newest one'); END;
CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit
BEGIN SELECT raise(ABORT, 'the audit trail is append-only: records are never changed'); END;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit
BEGIN SELECT raise(ABORT, 'the audit trail is append-only: records are never deleted'); END;

-- Digests that were used, for ever: a restored etcd brings old approvals back.
CREATE TABLE used_digests (digest TEXT PRIMARY KEY, operation TEXT NOT NULL);
CREATE TRIGGER used_digests_unchanged BEFORE UPDATE ON used_digests
BEGIN SELECT raise(ABORT, 'used digests are append-only: they are never changed'); END;
CREATE TRIGGER used_digests_kept BEFORE DELETE ON used_digests
BEGIN SELECT raise(ABORT, 'used digests are append-only: they are never deleted'); END;

-- The highest operation number of each object, and the highest leader epoch: both only grow.
CREATE TABLE numbers (uid TEXT PRIMARY KEY, number INTEGER NOT NULL);
CREATE TRIGGER numbers_grow BEFORE UPDATE ON numbers WHEN new.number < old.number OR new.uid IS NOT old.uid
BEGIN SELECT raise(ABORT, 'operation numbers only grow'); END;
CREATE TRIGGER numbers_kept BEFORE DELETE ON numbers
BEGIN SELECT raise(ABORT, 'operation numbers only grow'); END;

CREATE TABLE epoch (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
INSERT INTO epoch VALUES (1, 0);
CREATE TRIGGER epoch_grows BEFORE UPDATE ON epoch WHEN new.epoch <= old.epoch
BEGIN SELECT raise(ABORT, 'the epoch only grows'); END;
CREATE TRIGGER epoch_kept BEFORE DELETE ON epoch
BEGIN SELECT raise(ABORT, 'the epoch only grows'); END;
