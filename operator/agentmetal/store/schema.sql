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

-- version 2
-- Retention: what is at or before the start may go, and nothing else. Of a removed record its hash stays, so that an
-- Operation that saw it is not taken for the sign of a lost one.
CREATE TABLE start (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL,
    hash     TEXT    NOT NULL
);
INSERT INTO start VALUES (1, 0, printf('%064d', 0));
CREATE TRIGGER start_advances BEFORE UPDATE ON start
WHEN NOT EXISTS (SELECT 1 FROM audit WHERE sequence = new.sequence AND hash = new.hash) OR new.sequence <= old.sequence
BEGIN SELECT raise(ABORT, 'the start of the audit trail only grows, from one record to a later one'); END;
CREATE TRIGGER start_kept BEFORE DELETE ON start
BEGIN SELECT raise(ABORT, 'the start of the audit trail only grows'); END;

CREATE TABLE removed (hash TEXT PRIMARY KEY, sequence INTEGER NOT NULL) WITHOUT ROWID;
CREATE TRIGGER removed_unchanged BEFORE UPDATE ON removed
BEGIN SELECT raise(ABORT, 'hashes of removed records are append-only'); END;
CREATE TRIGGER removed_kept BEFORE DELETE ON removed
BEGIN SELECT raise(ABORT, 'hashes of removed records are append-only'); END;

DROP TRIGGER audit_kept;
CREATE TRIGGER audit_kept BEFORE DELETE ON audit WHEN old.sequence > (SELECT sequence FROM start)
BEGIN SELECT raise(ABORT, 'the audit trail is append-only: records after its start are never deleted'); END;
DROP TRIGGER audit_follows;
CREATE TRIGGER audit_follows BEFORE INSERT ON audit
WHEN new.sequence IS NOT max(coalesce((SELECT max(sequence) FROM audit), 0), (SELECT sequence FROM start)) + 1
  OR new.previous IS NOT coalesce(
      (SELECT hash FROM audit ORDER BY sequence DESC LIMIT 1), (SELECT hash FROM start))
BEGIN SELECT raise(ABORT, 'the audit trail is append-only: a record must follow the newest one'); END;

CREATE INDEX audit_gaps ON audit (sequence) WHERE json_extract(entry, '$.action') IN ('gap', 'acknowledge');
