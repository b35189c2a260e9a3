-- The audit trail in PostgreSQL. The database itself refuses whatever does not continue the chain: two writers can never
-- fork it (UNIQUE previous), and nothing is changed or removed but what retention lets go (audit_start).
-- `json` keeps an entry byte for byte; the columns for searching are computed from it, so they cannot say otherwise.
CREATE TABLE audit (
    sequence    bigint  PRIMARY KEY,
    hash        text    NOT NULL UNIQUE,
    previous    text    NOT NULL UNIQUE,
    format      integer NOT NULL,
    entry       json    NOT NULL,
    resource    text GENERATED ALWAYS AS (entry ->> 'resource') STORED,
    operation   text GENERATED ALWAYS AS (entry ->> 'operation') STORED,
    "timestamp" text GENERATED ALWAYS AS (entry ->> 'timestamp') STORED,
    action      text GENERATED ALWAYS AS (entry ->> 'action') STORED
);
CREATE INDEX audit_resource ON audit (resource, sequence);
CREATE INDEX audit_operation ON audit (operation, sequence);
CREATE INDEX audit_timestamp ON audit ("timestamp", sequence);
CREATE INDEX audit_gaps ON audit (sequence) WHERE action IN ('gap', 'acknowledge');

-- What the first record that is still there follows, and the hashes of those that were removed.
CREATE TABLE audit_start (
    one      integer PRIMARY KEY CHECK (one = 1),
    sequence bigint  NOT NULL,
    hash     text    NOT NULL
);
INSERT INTO audit_start VALUES (1, 0, repeat('0', 64));
CREATE TABLE audit_removed (hash text PRIMARY KEY, sequence bigint NOT NULL);

-- Digests that were used, for ever: a restored etcd brings old approvals back.
CREATE TABLE used_digests (digest text PRIMARY KEY, operation text NOT NULL);
-- The highest operation number of each object, and the highest leader epoch: both only grow.
CREATE TABLE numbers (uid text PRIMARY KEY, number bigint NOT NULL);
CREATE TABLE epoch (one integer PRIMARY KEY CHECK (one = 1), epoch bigint NOT NULL);
INSERT INTO epoch VALUES (1, 0);

CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation'; END $$;

CREATE FUNCTION audit_follows() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE newest record;
BEGIN
    SELECT sequence, hash INTO newest FROM audit ORDER BY sequence DESC LIMIT 1;
    IF NOT FOUND THEN SELECT sequence, hash INTO newest FROM audit_start; END IF;
    IF new.sequence <> newest.sequence + 1 OR new.previous <> newest.hash THEN
        RAISE EXCEPTION 'audit is append-only: a record must follow the newest one' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN new;
END $$;

CREATE FUNCTION audit_kept() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF old.sequence > (SELECT sequence FROM audit_start) THEN
        RAISE EXCEPTION 'audit is append-only: records after its start are never deleted'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN old;
END $$;

CREATE FUNCTION audit_start_advances() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF new.sequence <= old.sequence
        OR NOT EXISTS (SELECT FROM audit WHERE sequence = new.sequence AND hash = new.hash) THEN
        RAISE EXCEPTION 'the start of audit only grows, from one record to a later one'
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN new;
END $$;

CREATE FUNCTION only_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (TG_TABLE_NAME = 'numbers' AND (to_jsonb(new) ->> 'uid') <> (to_jsonb(old) ->> 'uid'))
        OR (to_jsonb(new) ->> TG_ARGV[0])::bigint < (to_jsonb(old) ->> TG_ARGV[0])::bigint THEN
        RAISE EXCEPTION '% only grows', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN new;
END $$;

CREATE TRIGGER follows BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION audit_follows();
CREATE TRIGGER kept BEFORE DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_kept();
CREATE TRIGGER unchanged BEFORE UPDATE OR TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER advances BEFORE UPDATE ON audit_start FOR EACH ROW EXECUTE FUNCTION audit_start_advances();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON audit_start FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER unchanged BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_removed
    FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER unchanged BEFORE UPDATE OR DELETE OR TRUNCATE ON used_digests
    FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER grows BEFORE UPDATE ON numbers FOR EACH ROW EXECUTE FUNCTION only_grows('number');
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON numbers FOR EACH STATEMENT EXECUTE FUNCTION refuse();
CREATE TRIGGER grows BEFORE UPDATE ON epoch FOR EACH ROW EXECUTE FUNCTION only_grows('epoch');
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON epoch FOR EACH STATEMENT EXECUTE FUNCTION refuse();

-- Retention's own function: the next records at or before the start, oldest first. Their hashes stay, also those that
-- an old gap record names, so that an Operation that saw them is not taken for the sign of a lost record.
CREATE FUNCTION audit_remove(at_once bigint) RETURNS bigint LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE last bigint; went bigint;
BEGIN
    SELECT max(sequence) INTO last FROM (
        SELECT sequence FROM audit WHERE sequence <= (SELECT sequence FROM audit_start)
        ORDER BY sequence LIMIT at_once) AS chosen;
    INSERT INTO audit_removed SELECT hash, sequence FROM audit WHERE sequence <= last;
    INSERT INTO audit_removed
        SELECT left(step, 64), sequence FROM audit, json_array_elements_text(entry -> 'steps') AS step
        WHERE sequence <= last AND action = 'gap' ON CONFLICT DO NOTHING;
    DELETE FROM audit WHERE sequence <= last;
    GET DIAGNOSTICS went = ROW_COUNT;
    RETURN went;
END $$;
